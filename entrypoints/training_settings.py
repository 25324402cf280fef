"""What a training run can be told, and what of it its weights depend on."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

TRACKERS = ("tensorboard", "wandb")
PRECISIONS = {None: None, "no": "no", "fp32": "no", "fp16": "fp16", "bf16": "bf16"}

#: What a run may change its mind about: the weights of a step do not depend on these.
_FREE = (
    "output_dir",
    "steps",
    "checkpoint_every",
    "keep",
    "log_every",
    "trackers",
    "compile",
    "max_skipped",
)

#: Schedules of diffusers that do not depend on the number of steps, and those that fall towards it.
_STEADY = ("constant", "constant_with_warmup")
_FALLING = ("linear", "cosine", "cosine_with_restarts", "polynomial")


def settings(cfg: DictConfig, mixed_precision: str) -> dict[str, Any]:
    """What the weights of a step depend on."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    kept = {str(name): value for name, value in config.items() if name not in _FREE}
    free = getattr(get_class(cfg.layout_model._target_), "changeable", ())
    kept["layout_model"] = {name: value for name, value in config["layout_model"].items() if name not in free}
    if cfg.lr_schedule not in _STEADY:
        kept["steps"] = cfg.steps
    held_out = cfg.validation.count if cfg.validation.dataset is None else 0
    return {**kept, "precision": mixed_precision, "validation": {"held_out": held_out}}


def check_settings(cfg: DictConfig) -> None:
    """Refuse what could not work, before anything is built or written.

    Raises:
        ValueError: a setting is out of its range.
    """
    least = {"steps": 1, "batch_size": 1, "accumulate": 1, "workers": 0, "warmup": 0, "checkpoint_every": 1}
    for name, bound in {
        **least,
        "max_skipped": 1,
        "log_every": 1,
        "validation.every": 0,
        "validation.count": 0,
    }.items():
        value = OmegaConf.select(cfg, name)
        if not isinstance(value, int) or value < bound:
            raise ValueError(f"{name} must be a whole number, at least {bound}, got {value}")
    if cfg.keep is not None and cfg.keep < 1:
        raise ValueError(f"keep must be at least 1, or null for all checkpoints, got {cfg.keep}")
    choices = {"precision": [*PRECISIONS], "lr_schedule": [*_STEADY, *_FALLING]}
    for name, allowed in choices.items():
        if cfg[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, filter(None, allowed)))}, got {cfg[name]}")
    unknown = sorted({*trackers_of(cfg)} - {*TRACKERS})
    if unknown:
        raise ValueError(f"trackers must be of {', '.join(TRACKERS)} or none, got {', '.join(unknown)}")


def trackers_of(cfg: DictConfig) -> list[str]:
    """Their names; none for null and "none"."""
    names = [cfg.trackers] if isinstance(cfg.trackers, str) else list(cfg.trackers or [])
    return [name for name in names if name != "none"]


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
