"""A network as a plugin runs it: of the right precision, compiled if that is wanted, and not for training."""

from typing import Any

import torch

from scenewright.checkpoints import Checkpoint


def precision(dtype: str) -> torch.dtype:
    """The type of that name.

    Raises:
        ValueError: there is none, or it holds no fractions.
    """
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must name one of float32, bfloat16, float16, got {dtype!r}")
    return found


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
