"""Redoing damaged shards with the settings they were made with."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from scenewright.datasets.shards import recorded_run, verify


def repair(cfg: DictConfig) -> None:
    """Redo what ``verify`` finds damaged with the recorded configuration, and only that.

    Raises:
        ValueError: the folder does not say how it was made, names classes of packages
            that are not trusted, or the source is not what it was; nothing is removed then.
    """
    folder = Path(cfg.shards)
    faults = list(verify(folder))
    for fault in faults:
        print(fault)
    if not any(fault.damaged for fault in faults):
        print(f"{folder} is whole")
        return
    recorded = (recorded_run(folder) or {}).get("config")
    if not recorded or "dataset" not in recorded:
        raise ValueError(
            f"{folder} does not say how its shards were made; "
            "make them again with the command that did: annotate or import"
        )
    check_targets(recorded, ["scenewright", *cfg.trust])

    from scenewright.entrypoints.annotating import Annotating

    settings = {"output_dir": str(folder), "batch_size": cfg.batch_size, "workers": cfg.workers}
    defaults = {
        "max_errors": 0.5,
        "retry_errors": False,
        "allow_mixed": False,
        "num_jobs": 1,
        "job_index": 0,
    }
    run = Annotating(OmegaConf.create({**defaults, **recorded, **settings}))
    run.write(redo=sorted({fault.number for fault in faults if fault.damaged and fault.number >= 0}))
    run.conclude()


def check_targets(config: Any, packages: Sequence[str]) -> None:
    """Refuse to build anything but classes of packages that somebody vouched for: the record came with the data.

    Raises:
        ValueError: the record names another package's class, or a function.
    """
    for target in _targets(config):
        package = target.split(".")[0]
        if package not in packages:
            raise ValueError(
                f"the shards were made with {target}, which repair would run; "
                f"if you trust that package, say trust=[{package}]"
            )
        found = get_object(target)
        if not inspect.isclass(found) or found.__module__.split(".")[0] not in packages:
            raise ValueError(f"the shards were made with {target}, which is no class of {package}")


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)
