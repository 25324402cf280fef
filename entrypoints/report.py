"""Make one HTML page of a folder of shards, of how scenes were composed, or of how retrieved images were chosen."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@one_line_errors
def main(cfg: DictConfig) -> None:
    if sum(cfg[x] is not None for x in ("shards", "compositions", "extrapolation")) != 1:
        raise ValueError("give one of shards=FOLDER, compositions=FOLDER and extrapolation=FOLDER")
    if cfg.shards is None:
        from scenewright.evaluation.compositions import write_compositions
        from scenewright.evaluation.extrapolation import write_extrapolation

        folder = cfg.compositions or cfg.extrapolation
        page = write_extrapolation if cfg.compositions is None else write_compositions
        given = {x: cfg[x] for x in ("max_pictures", "thumbnail_size")}
        print(page(folder, cfg.output or Path(folder, "report.html"), title=cfg.title or "", **given))
        return
    from hydra.utils import instantiate
    from tqdm import tqdm

    from scenewright.datasets.shards import Shards, manifests
    from scenewright.evaluation.report import write_report

    found = manifests(cfg.shards)
    statuses = {key: status for manifest in found for key, status in manifest.samples.items()}
    samples = Shards(cfg.shards, instantiate(cfg.images, _convert_="all"))
    path = write_report(
        tqdm(samples, total=len(samples), unit="image", dynamic_ncols=True) if len(samples) else [],
        Path(cfg.output or Path(cfg.shards, "report.html")),
        title=cfg.title or Path(cfg.shards).name,
        failures={key: status for key, status in statuses.items() if status.startswith("error")},
        rejected={key: status for key, status in statuses.items() if status.startswith("dropped")},
        provenance=found[0].run,
        max_pictures=cfg.max_pictures,
        thumbnail_size=cfg.thumbnail_size,
        seed=cfg.seed,
    )
    print(path)


if __name__ == "__main__":
    main()
