"""Draw images from layouts."""

import sys

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors, own_experiments, quoted_patterns


@hydra.main(version_base="1.3", config_path="../conf", config_name="generate")
@one_line_errors
def run(cfg: DictConfig) -> None:
    # imported here, so that --help does not wait for torch
    from scenewright.entrypoints.drawing_run import DrawingRun

    drawing = DrawingRun(cfg)
    drawing.draw()
    drawing.conclude()
    drawing.end()


def main() -> None:
    sys.argv[1:] = own_experiments("generate", quoted_patterns(sys.argv[1:]))
    run()


if __name__ == "__main__":
    main()
