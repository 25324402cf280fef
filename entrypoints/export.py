"""Turn shards into another format."""

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
@one_line_errors
def main(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from tqdm import tqdm

    from scenewright.datasets.formats.export import export
    from scenewright.datasets.shards import Shards

    kind = instantiate(cfg.format, _convert_="all")
    samples = Shards(cfg.shards, instantiate(cfg.images, _convert_="all"))
    about = {"format": OmegaConf.to_container(cfg.format, resolve=True), "shards": samples.fingerprint}
    # closed before an error is printed, so that this has a line of its own
    with tqdm(samples, total=len(samples), unit="image", dynamic_ncols=True) as progress:
        counts = export(progress, kind, cfg.output, overwrite=cfg.overwrite, about=about)
    others = "".join(f" · {number} {what}" for what, number in counts.items() if number and what not in _FIRST)
    print(f"{counts['images']} images, {counts['regions']} regions{others} in {cfg.output}")


_FIRST = ("images", "regions")


if __name__ == "__main__":
    main()
