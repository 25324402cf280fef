"""Verify, repair and measure a folder of shards."""

import sys

import hydra
from omegaconf import DictConfig

from scenewright.entrypoints.command import one_line_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="shards")
@one_line_errors
def run(cfg: DictConfig) -> None:
    from scenewright.datasets.shards import stats, verify
    from scenewright.entrypoints.repairing import repair

    if cfg.verb == "verify":
        faults = list(verify(cfg.shards))
        damaged = sum(fault.damaged for fault in faults)
        print(*faults, f"{damaged} faults in {cfg.shards}" if damaged else f"{cfg.shards} is whole", sep="\n")
        sys.exit(damaged > 0)
    elif cfg.verb == "stats":
        found = stats(cfg.shards)
        reasons = found.pop("reasons")
        print(*(f"{name:<10}{value:>14,}" for name, value in found.items()), sep="\n")
        for reason, times in reasons.items():
            print(f"  {times} × {reason}")
    elif cfg.verb == "repair":
        repair(cfg)
    else:
        raise ValueError(f"the first word must be verify, repair or stats, got {cfg.verb!r}")


def main() -> None:
    # the verb stands alone on the command line, as in git; Hydra wants a field
    if len(sys.argv) > 1 and sys.argv[1].isalpha():
        sys.argv[1] = f"verb={sys.argv[1]}"
    run()


if __name__ == "__main__":
    main()
