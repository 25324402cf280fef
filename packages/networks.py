"""A network as a plugin runs it: of the right precision, compiled if that is wanted, and not for training."""

from typing import Any

import torch

from scenewright.checkpoints import Checkpoint, CheckpointError

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision(dtype: str) -> torch.dtype:
    """The type that a setting names.

    Raises:
        CheckpointError: it is none of those that networks compute in.
    """
    if dtype not in _PRECISIONS:
        raise CheckpointError(f"dtype must be one of {', '.join(_PRECISIONS)}, got {dtype!r}")
    return _PRECISIONS[dtype]


def load_network(kind: Any, checkpoint: Checkpoint, *, dtype: str = "float32", compile: bool = False) -> Any:
    """A network of transformers, ready to run.

    Args:
        kind: its class.
        compile: with ``torch.compile``, when it first runs.

    Raises:
        CheckpointError: it is not there, or is another network's.
    """
    network = checkpoint.load(kind, dtype=precision(dtype)).eval()
    if compile:
        network.compile()
    return network
