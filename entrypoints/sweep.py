"""Runs of a sweep: a folder for each, and one table of all at the end."""

import json
import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

#: Longer names of folders are cut.
_LONGEST_NAME = 120

#: Tells the runs of a sweep, in whatever process, what all of them were given.
_SHARED = "SCENEWRIGHT_SWEEP"


def run_folder(output_dir: str) -> Path:
    """Where a run writes: ``output_dir``, or in a sweep a folder of it that is named after what sets the run apart."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return Path(output_dir)
    given = sorted(x for x in HydraConfig.get().overrides.task if not x.startswith("output_dir="))
    shared = json.loads(os.environ.get(_SHARED, "[]"))
    apart = ",".join(x for x in given if x not in shared)
    name = re.sub(r"[^\w.=,+-]+", "_", apart)[:_LONGEST_NAME] or "run"
    return Path(output_dir, f"{name}-{sha256(repr(given).encode()).hexdigest()[:8]}")


class Leaderboard(Callback):
    """Writes the leaderboard of all runs in ``output_dir`` when a sweep ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # what they refer to (${hydra:runtime.choices…}) is known in the runs only
        given = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        os.environ[_SHARED] = json.dumps(given)

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
