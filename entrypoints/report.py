"""Make one HTML page of a folder of shards."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@one_line_errors
def main(cfg: DictConfig) -> None:
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
