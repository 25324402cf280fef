"""Weights as the authors publish them, or of a training run, read without running code."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from scenewright.checkpoints import CheckpointError, MissingWeights, read_tensors
from scenewright.layout_models.checkpoint import read_weights
from scenewright.layout_models.rat_dit.network import positions

#: Each group of layers stores the one recurrent cell again.
_COPY = re.compile(r"blocks\.\d+\.(lstm\..+)")


def load_published(network: nn.Module, path: str | Path) -> None:
    """Fill a ``RatTransformer`` from a file or a training run.

    Args:
        network: of the same size, patch and variant.
        path: a ``torch.save`` of ``model``, ``ema``, ``opt`` and ``args``, whose average is taken, or of a table of
            tensors; or a ``.safetensors`` of such a table; or a training run or checkpoint of ours, whose average is
            taken where there is one.

    Raises:
        MissingWeights: there is no such file or run.
        CheckpointError: it cannot be read, or holds other code than an ``argparse.Namespace``, which is not run; or
            it is of another network.
    """
    path = Path(path).expanduser()
    tensors = without_copies(_read(path), path)
    _check_positions(tensors.pop("pos_embed", None), path)
    own = network.state_dict()
    faults = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "of another shape": [name for name in own if name in tensors and own[name].shape != tensors[name].shape],
    }
    listed = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in faults.items() if names]
    if listed:
        raise CheckpointError(
            f"{path} does not fit this network: of {len(own)} tensors, {'; '.join(listed)}; do size, patch and variant "
            "agree?"
        )
    network.load_state_dict({name: x.float() for name, x in tensors.items()})


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors by the network's own names, of whichever form."""
    if path.is_dir():
        found = read_weights(path)
    elif path.is_file():
        found = read_tensors(path, tables=("ema", "model", "state_dict"), safe=(argparse.Namespace,))
    else:
        raise MissingWeights(f"{path} is no file and no training run; name one of weights, or null for new ones")
    return {name.removeprefix("network."): x for name, x in found.items()}


def without_copies(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors without the groups' copies of the recurrent cell.

    Raises:
        CheckpointError: a copy differs: it would be another model's.
    """
    kept: dict[str, Tensor] = {}
    for name, x in tensors.items():
        copied = _COPY.fullmatch(name)
        if copied is None:
            kept[name] = x
        elif copied[1] in tensors and not torch.equal(x, tensors[copied[1]]):
            raise CheckpointError(f"{path}: {name} differs from {copied[1]}; the groups share one recurrent cell")
    return kept


def _check_positions(found: Tensor | None, path: Path) -> None:
    """They are computed here, so those of the file need only be the same."""
    if found is None:
        return
    side = math.isqrt(found.numel() // found.shape[-1])
    if found.numel() != side**2 * found.shape[-1] or found.shape[-1] % 4:
        raise CheckpointError(f"{path}: pos_embed must be (1, n * n, d), got {tuple(found.shape)}")
    wanted = positions(found.shape[-1], side, side)
    if not torch.allclose(found.double().reshape_as(wanted), wanted, atol=1e-3):
        raise CheckpointError(f"{path}: pos_embed is no table of sines and cosines of column and row")
