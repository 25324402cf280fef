"""Annotate a dataset into shards."""

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="annotate")
@one_line_errors
def main(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for torch
    from scenewright.entrypoints.annotating import Annotating

    run = Annotating(cfg)
    if cfg.dry_run:
        run.estimate(cfg.dry_run)
    else:
        run.write()
        run.conclude()


if __name__ == "__main__":
    main()
