"""Redoing damaged shards with the settings they were made with."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scenewright.datasets.shards import verify


def repair(cfg: DictConfig) -> None:
    """Remove what ``verify`` finds at fault and run the recorded configuration again.

    Raises:
        ValueError: the folder does not say how it was made, or names classes of packages that are not trusted.
    """
    folder = Path(cfg.shards)
    faults = list(verify(folder))
    if not faults:
        print(f"{folder} is whole")
        return
    print(*faults, sep="\n")
    path = folder / "run.json"
    recorded = json.loads(path.read_bytes()).get("config") if path.exists() else None
    if not recorded or "dataset" not in recorded:
        raise ValueError(f"{path} does not say how the shards were made; run entrypoints/annotate.py again instead")
    check_targets(recorded, ["scenewright", *cfg.trust])

    # before anything is removed: this fails where the source is gone
    from scenewright.entrypoints.annotating import Annotating

    settings = {"output_dir": str(folder), "batch_size": cfg.batch_size, "workers": cfg.workers}
    defaults = {"max_errors": 0.5, "retry_errors": False, "allow_mixed": False, "num_jobs": 1, "job_index": 0}
    run = Annotating(OmegaConf.create({**recorded, **settings, **defaults}))
    for fault in faults:
        for name in (f"{fault.number:05d}.json", f"{fault.number:05d}.tar") if fault.number >= 0 else (fault.file,):
            (folder / name).unlink(missing_ok=True)
    run.write()
    run.conclude()


def check_targets(config: Any, packages: Sequence[str]) -> None:
    """Refuse to build classes of packages that nobody vouched for: the record came with the data.

    Raises:
        ValueError: the record names another package's class.
    """
    for target in _targets(config):
        if target.split(".")[0] not in packages:
            raise ValueError(
                f"the shards were made with {target}, which repair would run; "
                f"if you trust that package, say trust=[{target.split('.')[0]}]"
            )


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)
