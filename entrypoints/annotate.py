"""Annotate a dataset into shards."""

import sys

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors, quoted_patterns


@hydra.main(version_base="1.3", config_path="../conf", config_name="annotate")
@one_line_errors
def run(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for torch
    from scenewright.entrypoints.annotating import Annotating

    annotating = Annotating(cfg)
    if cfg.dry_run:
        annotating.estimate(cfg.dry_run)
    else:
        annotating.write()
        annotating.conclude()


def main() -> None:
    sys.argv[1:] = quoted_patterns(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
