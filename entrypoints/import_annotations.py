"""Lay corrected annotations over shards."""

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="import_annotations")
@one_line_errors
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate
    from tqdm import tqdm

    from scenewright.datasets.formats.export import lay_over
    from scenewright.datasets.shards import Shards
    from scenewright.layout import Sample

    kind = instantiate(cfg.format, _convert_="all")
    if not hasattr(kind, "corrections"):
        raise ValueError(f"{type(kind).__name__} is written only; read are coco, yolo and label_studio")
    samples = Shards(cfg.shards, instantiate(cfg.images, _convert_="all"))
    with tqdm(total=len(samples), unit="image", dynamic_ncols=True) as progress:

        def on_sample(_: Sample) -> None:
            progress.update()

        per_shard = cfg.samples_per_shard
        tally = lay_over(samples, kind, cfg.source, cfg.output, cfg.missing, per_shard, on_sample)
    print(f"{tally.corrected} images corrected, {tally.kept} left as they were, in {cfg.output}")


if __name__ == "__main__":
    main()
