"""Objects on the grids of a UNet, for attention that is restricted to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from scenewright.layout import Layout


def rasterize_boxes(
    boxes: Float[Tensor, "n 4"], height: int, width: int, *, compat: bool = False
) -> Bool[Tensor, "n h w"]:
    """The cells of a grid that each box covers, its edges rounded to the grid.

    A box too small for that keeps the cell at its centre, so that no object vanishes on a coarse grid.

    Args:
        boxes: ``x_min y_min x_max y_max``, fractions of the image.
        height: of the grid, in cells.
        width: of the grid, in cells.
        compat: as the released code does: rows run over x, columns over y, and small boxes vanish. Square grids only.

    Raises:
        ValueError: a transposed grid that is not square.
    """
    if compat and height != width:
        raise ValueError(f"only a square grid can be transposed, got {height} x {width}")
    size = boxes.new_tensor([width, height], dtype=torch.float64)
    first, last = ((part.double() * size).round() for part in boxes.split(2, 1))
    if not compat:
        centre = (boxes[:, :2].double() + boxes[:, 2:].double()) / 2
        cell = torch.minimum((centre * size).floor().clamp(min=0), size - 1)
        thin = last <= first
        first, last = torch.where(thin, cell, first), torch.where(thin, cell + 1, last)
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    columns = (x >= first[:, :1]) & (x < last[:, :1])
    rows = (y >= first[:, 1:]) & (y < last[:, 1:])
    covered = rows[:, :, None] & columns[:, None, :]
    return covered.transpose(1, 2) if compat else covered


def rasterize_masks(masks: Bool[Tensor, "n h w"], height: int, width: int) -> Bool[Tensor, "n gh gw"]:
    """The cells of a grid of which each mask covers half; or the cell that it covers most of, if there is no such.

    An empty mask covers nothing.

    Args:
        masks: in pixels.
        height: of the grid, in cells.
        width: of the grid, in cells.
    """
    if not len(masks):
        return masks.new_zeros(0, height, width)
    share = adaptive_avg_pool2d(masks[:, None].float(), (height, width))[:, 0]
    most = share.amax((1, 2), keepdim=True)
    return (share >= most.clamp(max=0.5)) & (share > 0)


def on_grids(
    objects: Float[Tensor, "n 4"] | Bool[Tensor, "n h w"], grids: Sequence[tuple[int, int]]
) -> dict[int, Bool[Tensor, "n _l"]]:
    """Boxes or masks on each grid of a UNet, by its number of pixels.

    Args:
        objects: boxes in fractions of the image, or masks.
        grids: height and width of each, in cells.

    Raises:
        ValueError: two grids have the same number of pixels, so that a layer could not tell them apart.
    """
    if len({height * width for height, width in grids}) < len(set(grids)):
        raise ValueError(f"grids must differ in their number of pixels, got {list(grids)}")
    cover = rasterize_boxes if objects.ndim == 2 else rasterize_masks
    return {height * width: cover(objects, height, width).flatten(1) for height, width in grids}


def covered(
    layout: Layout, grids: Sequence[tuple[int, int]], *, from_masks: bool = True
) -> dict[int, Bool[Tensor, "n _l"]]:
    """Each object of a layout on each grid of a UNet: its mask, or its box where it has none or ``from_masks`` is off.

    Raises:
        ValueError: see ``on_grids``.
    """
    cells = on_grids(layout.boxes.cpu(), grids)
    if not from_masks or not layout.masks:
        return cells
    masks = on_grids(torch.stack([x.decode() for x in layout.masks]), grids)
    return {n: torch.where(masks[n].any(1, keepdim=True), masks[n], x) for n, x in cells.items()}
