"""Runs of a sweep: a folder for each, and one table of all at the end."""

import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

#: Folders with longer names are cut, with a digest behind.
_LONGEST_NAME = 120


def run_folder(output_dir: str) -> Path:
    """Where a run writes: ``output_dir``, or in a sweep a folder of it that is named after what the sweep varies."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return Path(output_dir)
    varied = HydraConfig.get().job.override_dirname
    name = re.sub(r"[^\w.=,+-]+", "_", varied) or str(HydraConfig.get().job.num)
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{sha256(varied.encode()).hexdigest()[:8]}"
    return Path(output_dir, name)


class Leaderboard(Callback):
    """Writes the leaderboard of all runs in ``output_dir`` when a sweep ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from scenewright.evaluation.leaderboard import read_runs, write_leaderboard

        folder = Path(config.output_dir)
        found = sorted(x.parent for x in folder.glob("*/metrics.json"))
        if not found:
            print(f"no run of the sweep left a metrics.json in {folder}: no leaderboard", file=sys.stderr)
            return
        # a sweep that is done is not to end in an error: what cannot be compared is said in the table
        for path in write_leaderboard(read_runs(found), folder, allow_unequal=True):
            print(path)
