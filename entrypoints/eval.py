"""Judge images that were drawn from layouts."""

import sys

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors, own_experiments, quoted_patterns


@hydra.main(version_base="1.3", config_path="../conf", config_name="eval")
@one_line_errors
def run(cfg: DictConfig) -> float:
    # imported here, so that --help does not wait for torch
    from scenewright.entrypoints.evaluation_run import EvaluationRun

    evaluation = EvaluationRun(cfg)
    evaluation.draw()
    evaluation.judge()
    objective = evaluation.conclude()
    evaluation.end()
    return objective


def main() -> None:
    sys.argv[1:] = own_experiments("eval", quoted_patterns(sys.argv[1:]))
    run()


if __name__ == "__main__":
    main()
