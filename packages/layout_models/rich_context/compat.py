"""The text of regions as the published code has it, defects included.

Labels are joined before they are tokenised, so a label's last full stop can swallow the
separator; what is too long is cut at the end; of more regions than there are slots some are
drawn, and these keep the boxes of the regions whose slots they take.

Source: the released code of Cheng et al. 2024, arXiv 2409.04847; held against its numbers in the golden tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from scenewright.layout_models.rich_context.region_text import RegionText, Tokenizer
from scenewright.layout_models.rich_context.regions import Regions


def draw(regions: Regions, slots: int = 30, seed: int = 0) -> tuple[Regions, Int[Tensor, " s"]]:
    """Let at most ``slots`` regions get attention.

    Args:
        regions: of ``partition(..., compat=True)``.
        slots: of the reference's tensors.
        seed: of numpy's legacy generator.

    Returns:
        The regions, and the one in each slot.
    """
    order = regions.kept.nonzero()[:, 0]
    if len(order) > slots:
        order = order[torch.from_numpy(np.random.RandomState(seed).permutation(len(order))[:slots])]
    kept = torch.zeros_like(regions.kept)
    kept[order] = True
    return replace(regions, kept=kept), order


def compat_text(regions: Regions, order: Int[Tensor, " s"], labels: Sequence[str], tokenizer: Tokenizer) -> RegionText:
    """Tokenise the joined labels of each region, and look for the separators.

    Args:
        regions: of ``draw``.
        order: the region in each slot.
        labels: of the objects.
        tokenizer: of the label encoder.

    Returns:
        One row per region; the rows of regions without a slot are empty.
    """
    ids = torch.full((len(regions), tokenizer.length), tokenizer.pad)
    weights = torch.zeros(ids.shape)
    owner, box_owner = torch.full_like(ids, -1), torch.full_like(ids, -1)
    members = [row.nonzero()[:, 0].tolist() for row in regions.membership]
    for slot, region in enumerate(order.tolist()):
        text = "; ".join(str(labels[i]).replace(";", "") for i in members[region])
        tokens = [tokenizer.bos, *tokenizer.tokens(text)[: tokenizer.length - 2], tokenizer.eos]
        ids[region, : len(tokens)] = torch.tensor(tokens)
        spans = _spans(tokens, tokenizer.separator)
        for span, member in zip(spans, members[region], strict=False):
            owner[region, span] = member
            weights[region, span] = float(regions.weights[region, member])
        # the boxes were not drawn along
        for span, member in zip(spans, members[slot], strict=False):
            box_owner[region, span] = member
    boxes = torch.cat([regions.fractions, regions.boxes.new_full((1, 4), -1.0)]).float()
    return RegionText(ids=ids, owner=owner, weights=weights, boxes=boxes[box_owner])


def _spans(tokens: Sequence[int], separator: int) -> list[slice]:
    """What lies between bos, separators and eos."""
    marks = [0, *(i for i, token in enumerate(tokens) if token == separator), len(tokens) - 1]
    return [slice(start + 1, stop) for start, stop in zip(marks, marks[1:], strict=False)]
