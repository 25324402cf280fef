"""Make one HTML page of a folder of shards, or of how scenes were composed."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@one_line_errors
def main(cfg: DictConfig) -> None:
    if (cfg.shards is None) == (cfg.compositions is None):
        raise ValueError("give one of shards=FOLDER and compositions=FOLDER")
    if cfg.compositions is not None:
        from scenewright.evaluation.compositions import write_compositions

        given = {x: cfg[x] for x in ("max_pictures", "thumbnail_size")}
        output = cfg.output or Path(cfg.compositions, "report.html")
        print(write_compositions(cfg.compositions, output, title=cfg.title or "", **given))
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
