"""Let people choose between the images of runs, and see how well every metric agrees with them."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="preference")
@one_line_errors
def main(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for torch
    from omegaconf import OmegaConf

    from scenewright.evaluation.human_preference.runs import open_runs

    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    runs = open_runs(settings["runs"], settings["names"])
    if settings["votes"] is None:
        ask(runs, settings)
    else:
        compare(runs, settings)


def ask(runs: list, settings: dict) -> None:
    """Write the judging page."""
    from tqdm import tqdm

    from scenewright.evaluation.human_preference.page import QUESTION, write_judging_page
    from scenewright.evaluation.human_preference.runs import choose_pairs, left_out, read_pairs

    chosen = choose_pairs(runs, settings["pairs"], settings["seed"])
    output, question = settings["output"] or "judge.html", settings["question"] or QUESTION
    known = {name: settings[name] for name in ("repeats", "picture_size", "seed")}
    with tqdm(read_pairs(chosen), total=len(chosen), unit="pair", dynamic_ncols=True) as pairs:
        path = write_judging_page(pairs, output, settings["title"], question=question, **known)
    missing = f" · {number} images are not in all runs" if (number := left_out(runs)) else ""
    print(f"{len(chosen)} pairs of {len(runs)} runs in {path}{missing}")


def compare(runs: list, settings: dict) -> None:
    """Print and write the correlations of all metrics with the votes."""
    from scenewright.evaluation.human_preference.correlation import correlations
    from scenewright.evaluation.human_preference.table import write_table
    from scenewright.evaluation.human_preference.votes import read_votes

    votes, scores, lower = read_votes(settings["votes"]), {run.name: run.scores for run in runs}, set()
    lower.update(settings["lower_is_better"], *(run.lower_is_better for run in runs))
    found = correlations(votes, scores, lower_is_better=lower, rounds=settings["rounds"], seed=settings["seed"])
    path = Path(settings["output"] or "preference.md")
    print(f"{write_table(votes, found, path)}\n{path} · {path.with_suffix('.csv')}")


if __name__ == "__main__":
    main()
