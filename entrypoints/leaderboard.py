"""Put evaluation runs into one table."""

import sys

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="leaderboard")
@one_line_errors
def main(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for matplotlib
    from scenewright.evaluation.leaderboard import find_runs, read_runs, write_leaderboard

    folders, without = find_runs([cfg.runs] if isinstance(cfg.runs, str) else cfg.runs)
    if without:
        print(f"left out, no metrics.json: {', '.join(map(str, without))}", file=sys.stderr)
    settings = {"by": cfg.by, "allow_unequal": cfg.allow_unequal, "title": cfg.title}
    for path in write_leaderboard(read_runs(folders), cfg.output_dir, **settings):
        print(path)


if __name__ == "__main__":
    main()
