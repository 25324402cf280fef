"""Checkpoints of a run: written whole or not at all, and resumed exactly.

``OUTPUT_DIR/checkpoints/step-00001000/`` holds

- ``weights.safetensors``: the trained parameters by their names; what is frozen is never written;
- ``ema.safetensors``: their moving average under the same names, if there is one;
- ``state.pt``: optimizer, schedule, scaler; under DeepSpeed the folder ``deepspeed`` has its own files beside it;
- ``rank-00000.pt``, …: each process's random state and place in the data;
- ``checkpoint.json``, written last: every file with its size, and what the run must agree with to go on.
"""

import json
import logging
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module

from scenewright.checkpoints import CheckpointError, MissingWeights, read_tensors
from scenewright.layout_models.training import full_weights, trainable

logger = logging.getLogger(__name__)

FOLDER, MANIFEST, PARTIAL = "checkpoints", "checkpoint.json", ".partial"
WEIGHTS, AVERAGE, STATE, DEEPSPEED = "weights.safetensors", "ema.safetensors", "state.pt", "deepspeed"


@dataclass(frozen=True, eq=False)
class Run:
    """All that a run must find again to go on as if it had never stopped.

    Attributes:
        accelerator: that prepared ``model`` and ``optimizer``.
        schedule: of the learning rate; not prepared.
        batches: this process's loader, with ``state_dict`` and ``load_state_dict``.
        batch_size: images of one micro-batch on one process.
        ema: a diffusers ``EMAModel`` of the trained parameters, or None.
        settings: what else the losses depend on, for people; a resumed run warns if they differ.
    """

    accelerator: Any
    model: Any
    optimizer: Any
    schedule: Any
    batches: Any
    batch_size: int
    ema: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Module:
        """The model without what Accelerate put around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What a resumed run must have in common with the saved one."""
        optimizer = self.optimizer
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        return {
            "world_size": self.accelerator.num_processes,
            "batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accelerator.gradient_accumulation_steps,
            "distribution": _distribution(self.accelerator),
            "optimizer": type(optimizer).__name__,
            "ema": self.ema is not None,
        }


def save(run: Run, output_dir: str | Path, step: int, *, keep: int | None = 3) -> Path:
    """Write a checkpoint; every process calls this, between two steps.

    It is written under another name, brought to the disk and renamed; older ones are removed only then.

    Args:
        output_dir: of the run, on a disk that all processes share.
        step: the number of the last step that was made.
        keep: how many checkpoints stay, the newest ones; None for all.

    Raises:
        OSError: it cannot be written; older checkpoints are as they were.
    """
    final = Path(output_dir) / FOLDER / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    accelerator = run.accelerator
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        _write(run, partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _finish(partial, final, {"step": step, **run.facts, "settings": dict(run.settings)})
    except Exception as error:  # a full disk is a SafetensorError to safetensors and a RuntimeError to torch
        shutil.rmtree(partial, ignore_errors=True)  # and no place for half a checkpoint
        if isinstance(error, OSError):
            raise
        raise OSError(f"{partial} cannot be written: {type(error).__name__}: {error}") from error
    if accelerator.is_main_process:
        prune(output_dir, keep)
    accelerator.wait_for_everyone()
    return final


def resume(run: Run, output_dir: str | Path) -> int:
    """Put a run back to where its newest whole checkpoint was written; every process calls this, before training.

    Returns:
        The number of the last step that was made; 0 where there is no checkpoint yet.

    Raises:
        ValueError: the checkpoint belongs to another kind of run; says what differs.
    """
    from accelerate.utils import broadcast_object_list

    (found,) = broadcast_object_list([newest(output_dir) if run.accelerator.is_main_process else None])
    if found is None:
        return 0
    manifest = json.loads((found / MANIFEST).read_text())
    _check(run, found, manifest)
    _read(run, found)
    return manifest["step"]


def newest(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run; what is half-written or damaged is passed over with a warning."""
    for path in sorted((Path(output_dir) / FOLDER).glob("step-*"), reverse=True):
        fault = _fault(path)
        if not fault:
            return path
        logger.warning("%s is no whole checkpoint and is passed over: %s", path, fault)
    return None


def prune(output_dir: str | Path, keep: int | None) -> None:
    """Remove all but the newest ``keep`` whole checkpoints, and what was never finished."""
    paths = sorted((Path(output_dir) / FOLDER).glob("step-*"))
    whole = [path for path in paths if not _fault(path)]
    for path in whole[: -keep or None] if keep is not None else []:
        doomed = path.with_name(path.name + PARTIAL)
        path.rename(doomed)  # so that half of one is never taken for damage
        shutil.rmtree(doomed)
    for path in paths:
        if path.name.endswith(PARTIAL):
            shutil.rmtree(path, ignore_errors=True)


def read_weights(path: str | Path, *, ema: bool = True) -> dict[str, Tensor]:
    """The trained parameters of a run, by their names, on the CPU.

    Args:
        path: a run's ``output_dir`` (its newest whole checkpoint is read), one checkpoint, or a file.
        ema: their moving average, where there is one.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    if (path / FOLDER).is_dir():
        found = newest(path)
        if found is None:
            raise MissingWeights(f"{path} has no whole checkpoint yet; train longer, or name another run")
        path = found
    if path.is_dir():
        files = [path / name for name in ([AVERAGE] if ema else []) + [WEIGHTS]]
        path = next((file for file in files if file.exists()), files[-1])
    if not path.exists():
        raise MissingWeights(
            f"{path} does not exist; a checkpoint is a run's output_dir, a folder in its {FOLDER}/, or a file"
        )
    return read_tensors(path)


def load_trained(model: Module, weights: Mapping[str, Tensor], name: str | Path = "the checkpoint") -> None:
    """Copy trained parameters into a model.

    Args:
        name: where they came from, for messages.

    Raises:
        CheckpointError: they belong to another model; names the first that differ.
    """
    own = trainable(model)
    faults = _differences(
        {key: tuple(x.shape) for key, x in own.items()}, {key: tuple(x.shape) for key, x in weights.items()}
    )
    if faults:
        raise CheckpointError(f"{name} does not fit {type(model).__name__}: {faults}; was it trained on another base?")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(weights[key])


def _distribution(accelerator: Any) -> str:
    """How the training state is spread over files: "DeepSpeed ZeRO-2", or "one" for all in which it is not."""
    plugin = accelerator.deepspeed_plugin
    return "one" if plugin is None else f"DeepSpeed ZeRO-{plugin.zero_stage}"


def _write(run: Run, folder: Path) -> None:
    """Each process's part of a checkpoint."""
    accelerator = run.accelerator
    weights = full_weights(trainable(run.network), accelerator)  # collective
    torch.save({"random": _random_state(accelerator), "batches": run.batches.state_dict()}, folder / _rank(accelerator))
    state: dict[str, Any] = {"schedule": run.schedule.state_dict()}
    if accelerator.deepspeed_plugin is not None:
        run.model.save_checkpoint(str(folder), tag=DEEPSPEED, save_latest=False, exclude_frozen_parameters=True)
    else:
        state["optimizer"] = run.optimizer.state_dict()
        state["scaler"] = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    if not accelerator.is_main_process:
        return
    save_file({key: x.detach().contiguous() for key, x in weights.items()}, folder / WEIGHTS)
    if run.ema is not None:
        state["ema"] = {key: x for key, x in run.ema.state_dict().items() if key != "shadow_params"}
        average = dict(zip(weights, run.ema.shadow_params, strict=True))
        save_file({key: x.contiguous() for key, x in average.items()}, folder / AVERAGE)
    torch.save(state, folder / STATE)


def _read(run: Run, folder: Path) -> None:
    """Undo ``_write`` on each process."""
    accelerator = run.accelerator
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    if accelerator.deepspeed_plugin is not None:
        _read_deepspeed(run.model, folder)
    else:
        load_trained(run.network, read_tensors(folder / WEIGHTS), folder)
        run.optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
    run.schedule.load_state_dict(state["schedule"])
    if run.ema is not None:
        average = read_tensors(folder / AVERAGE)
        run.ema.load_state_dict(state["ema"])
        for shadow, key in zip(run.ema.shadow_params, trainable(run.network), strict=True):
            shadow.copy_(average[key])
    own = torch.load(folder / _rank(accelerator), map_location="cpu", weights_only=True)
    run.batches.load_state_dict(own["batches"])
    _set_random_state(own["random"], accelerator)


def _read_deepspeed(engine: Any, folder: Path) -> None:
    """Let DeepSpeed read its files, which it would unpickle whatever is in them."""
    from accelerate.utils import patch_environment
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    safe = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    with patch_environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"), torch.serialization.safe_globals(safe):
        path, _ = engine.load_checkpoint(str(folder), tag=DEEPSPEED, load_module_strict=False)
    if path is None:
        raise CheckpointError(f"DeepSpeed could not read its part of {folder}; its log says why")


def _finish(partial: Path, final: Path, about: dict[str, Any]) -> None:
    """Bring all files to the disk, write the manifest, rename."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    ranks = [path for path in files if path.name.startswith("rank-")]
    if len(ranks) != about["world_size"]:
        raise OSError(
            f"{partial} has files of {len(ranks)} of {about['world_size']} processes; output_dir must be on a disk "
            "that all machines share"
        )
    sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in files}
    about = {**about, "version": version("scenewright"), "files": sizes}
    (partial / MANIFEST).write_text(json.dumps(about, indent=1, default=str) + "\n")
    folders = [path for path in partial.rglob("*") if path.is_dir()]
    for path in (*files, partial / MANIFEST, *folders, partial):
        _sync(path)
    if final.exists():  # damaged, or of a run that was started over
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fault(path: Path) -> str:
    """Why a folder is no whole checkpoint; empty if it is one."""
    if path.name.endswith(PARTIAL):
        return "it was never finished"
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is broken"
    for name, size in files.items():
        if not (path / name).exists():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes instead of {size}"
    return ""


def _check(run: Run, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse what cannot be gone on with, warn of what would not be the same."""
    facts = [f"{key} was {manifest.get(key)}, now {x}" for key, x in run.facts.items() if manifest.get(key) != x]
    if facts:
        raise ValueError(
            f"the run cannot go on from {folder}, it would not be the same: {'; '.join(facts)}. "
            "Set these back, or choose another output_dir"
        )
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    own = {key: tuple(getattr(x, "ds_shape", x.shape)) for key, x in trainable(run.network).items()}
    faults = _differences(own, saved)
    if faults:
        raise ValueError(f"the run cannot go on from {folder}, other parameters were trained: {faults}")
    before, now = manifest.get("settings", {}), json.loads(json.dumps(dict(run.settings), default=str))
    changed = [f"{x} was {before.get(x)}, now {now.get(x)}" for x in {**before, **now} if before.get(x) != now.get(x)]
    if changed:
        logger.warning("settings changed since %s was written: %s", folder, "; ".join(changed))


def _differences(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """What two tables of shapes do not share, the first few of each kind; empty if nothing."""
    kinds = {
        "are missing": [key for key in own if key not in given],
        "are unknown": [key for key in given if key not in own],
        "have another shape": [
            f"{key} {given[key]} instead of {own[key]}" for key in own if key in given and own[key] != given[key]
        ],
    }
    return "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in kinds.items()
        if keys
    )


def _rank(accelerator: Any) -> str:
    return f"rank-{accelerator.process_index:05d}.pt"


def _random_state(accelerator: Any) -> dict[str, Any]:
    """The state of all global generators, in types that load without running code."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if accelerator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return state


def _set_random_state(state: Mapping[str, Any], accelerator: Any) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)
