"""Overlaps as most grounding models treat them: each object speaks alone, and where several cover a pixel, what they
say is averaged. An ablation of the regions, in which one text names all objects of an overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.grounding import Canvas, Encode, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding, RegionalCrossAttention
from scenewright.layout_models.rich_context.regions import Grid


@dataclass(eq=False)
class EachObject(Grounding):
    """A grounding whose levels have one canvas for each object.

    Attributes:
        of: ``(n,)``, the image of each object, among those that have a layout.
        shares: by number of pixels, ``(n, l)``: what an object has to say in each pixel, where it covers it the same as
            all others that do. Where none does, all say the same: that of the background.
    """

    of: Int[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    shares: dict[int, Float[Tensor, "n l"]] = field(default_factory=dict)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> EachObject:
        """The same on ``device``, floating-point numbers in ``dtype``."""
        moved: Any = super().to(device, dtype)
        shares = {size: x.to(device, dtype) for size, x in self.shares.items()}
        return replace(moved, of=self.of.to(device), shares=shares)


class AveragedCrossAttention(RegionalCrossAttention):
    """Adds to each pixel the mean of what the objects that cover it say; parameters are those of its base class."""

    def _attend(self, pixels: Float[Tensor, "m l d"], grounding: Any) -> Float[Tensor, "m l d"]:
        each = super()._attend(pixels.index_select(0, grounding.of), grounding)  # (n, l, d)
        weighted = each * grounding.shares[pixels.shape[1]][..., None]
        return torch.zeros_like(pixels).index_add(0, grounding.of, weighted)


def alone(layout: Layout) -> list[Layout]:
    """Each object of a layout as a layout."""
    return [layout.keep(torch.tensor([i])) for i in range(len(layout))]


def ground_each(
    canvases: Sequence[Sequence[Canvas] | None],
    encode: Encode,
    grids: Sequence[Grid],
    *,
    dropped: Sequence[bool],
) -> Grounding:
    """As ``ground``, of images that have one canvas for each of their objects; None for those without a layout."""
    given = [some for some in canvases if some is not None]
    if not given:
        return ground([None] * len(canvases), encode, grids, dropped=dropped)
    of = torch.tensor([i for i, some in enumerate(given) for _ in some])
    flat = [x for some in given for x in some]
    shares = {}
    for number, (h, w) in enumerate(grids):
        covers = torch.stack([x.regions.membership.any(1)[x.ids[number].flatten()] for x in flat]).float()
        count = torch.zeros(len(given), h * w).index_add_(0, of, covers)
        objects = torch.bincount(of).float()[:, None].expand_as(count)
        shares[h * w] = torch.where(count[of] > 0, covers / count[of].clamp(min=1), 1 / objects[of])
    grounding = ground(flat, encode, grids)
    rows = [i for i, some in enumerate(canvases) if some is not None]
    return EachObject(
        tokens=grounding.tokens,
        boxes=grounding.boxes,
        levels=grounding.levels,
        rows=None if len(rows) == len(canvases) else torch.tensor(rows),
        dropped=torch.tensor(dropped, dtype=torch.float32).view(-1, 1, 1),
        of=of,
        shares=shares,
    )
