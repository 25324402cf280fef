"""Boxes to disjoint regions: which objects own each cell of a canvas, and how strongly each speaks there.

Two pixels are of one region when the same objects cover them. A region may be in several
pieces; regions do not overlap and cover the whole grid; the background is the region that
no object covers.

Which cell belongs to a box: every cell that the box touches, on every grid. So a box that
lies on the canvas keeps at least one cell however coarse the grid is, and a box of the
whole image leaves no background. The reference rounds both sides down and samples coarser
grids from the finest one, which loses the last row and column and most small objects;
``compat=True`` does the same, bit for bit.

Source: Cheng et al. 2024, arXiv 2409.04847, section 3 ("region reorganization").
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

logger = logging.getLogger(__name__)

#: A box that reaches less than this share of a cell into it does not touch it: coordinates come through float32.
_TOUCH = 1e-3

#: What the reference keeps of one layout.
MAX_OBJECTS, MAX_REGIONS = 30, 120


@dataclass(frozen=True, eq=False)
class Regions:
    """The disjoint regions of one canvas.

    Attributes:
        ids: ``(h, w)``, the region of each cell. Regions are in the lexicographic order of their membership,
            object 0 first: the background, where there is any, is region 0.
        membership: ``(r, n)``, which objects cover each region.
        areas: ``(n,)``, cells that each object covers.
        coverage: ``(h, w, n)``, which objects touch each cell of ``ids``.
        boxes: ``(n, 4)``, pixels, as they were given.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        compat: made as the reference makes them.
        kept: so many of the regions get any attention, those with the lowest numbers.
    """

    ids: Int[Tensor, "h w"]
    membership: Bool[Tensor, "r n"]
    areas: Int[Tensor, " n"]
    coverage: Bool[Tensor, "h w n"]
    boxes: Float[Tensor, "n 4"]
    height: int
    width: int
    compat: bool
    kept: int

    def __len__(self) -> int:
        return len(self.membership)

    @cached_property
    def weights(self) -> Float[Tensor, "r n"]:
        """``(r, n)``, in (0, 1]: the area of the smallest object that covers the region over the object's own; 0 for
        objects that do not cover it. So the smallest object of an overlap speaks loudest.
        """
        areas = self.areas.double().clamp(min=1)
        smallest = torch.where(self.membership, areas, torch.inf).amin(1, keepdim=True) if len(areas) else areas[None]
        weights = torch.where(self.membership, smallest / areas, 0.0)
        weights[self.kept :] = 0
        return weights

    @cached_property
    def union(self) -> Bool[Tensor, "r r"]:
        """``(r, r)``: region i sees region j, because an object covers both; the background sees all."""
        shared = self.membership.float() @ self.membership.float().T > 0
        return shared | ~self.membership.any(1, keepdim=True)

    def on_grids(self, grids: list[tuple[int, int]]) -> tuple[Regions, list[Int[Tensor, "_h _w"]]]:
        """The same objects on other grids.

        Args:
            grids: height and width of each, in cells.

        Returns:
            Regions that hold every region of any of the grids (a coarse cell may be touched by objects that share
            no fine one), and for each grid the region of each cell.
        """
        if self.compat:
            return self, [_sampled(self.ids, grid) for grid in grids]
        covers = [self.coverage if grid == tuple(self.ids.shape) else self._cover(grid) for grid in grids]
        shapes = [self.coverage.shape[:2], *(cover.shape[:2] for cover in covers)]
        rows = torch.cat([cover.flatten(0, 1) for cover in [self.coverage, *covers]])
        membership, ids = _distinct(rows)
        parts = [x.view(shape) for x, shape in zip(ids.split([h * w for h, w in shapes]), shapes, strict=True)]
        return replace(self, ids=parts[0], membership=membership, kept=len(membership)), parts[1:]

    def _cover(self, grid: tuple[int, int]) -> Bool[Tensor, "_h _w n"]:
        scale = self.boxes.new_tensor([grid[1] / self.width, grid[0] / self.height]).repeat(2)
        return _touched(self.boxes * scale, *grid)


def partition(boxes: Float[Tensor, "n 4"], height: int, width: int, *, cell: int = 8, compat: bool = False) -> Regions:
    """Cut a canvas into the regions that its boxes make.

    Args:
        boxes: ``(n, 4)``, ``x_min y_min x_max y_max`` in pixels of the canvas. What hangs over is cut.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        cell: pixels per side of a cell.
        compat: as the reference: corners are rounded down, the last row and column stay uncovered, at most 30 objects
            count and 120 regions get attention (``ids`` and ``membership`` still hold all).

    Raises:
        ValueError: the canvas is not a whole number of cells, or a box is not finite or inverted; not if ``compat``.

    Source: Cheng et al. 2024, arXiv 2409.04847, section 3.
    """
    boxes = torch.as_tensor(boxes)
    boxes = boxes.reshape(0, 4).double() if boxes.numel() == 0 else boxes.double()
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (n, 4), got {tuple(boxes.shape)}")
    if compat:
        boxes = boxes[:MAX_OBJECTS]
        coverage = _floored(boxes / cell, height // cell, width // cell)
    else:
        _check(boxes, height, width, cell)
        coverage = _touched(boxes / cell, height // cell, width // cell)
    membership, ids = _distinct(coverage.flatten(0, 1))
    return Regions(
        ids=ids.view(coverage.shape[:2]),
        membership=membership,
        areas=coverage.sum((0, 1)),
        coverage=coverage,
        boxes=boxes,
        height=height,
        width=width,
        compat=compat,
        kept=min(len(membership), MAX_REGIONS) if compat else len(membership),
    )


def _check(boxes: Float[Tensor, "n 4"], height: int, width: int, cell: int) -> None:
    if height % cell or width % cell or min(height, width) < cell:
        raise ValueError(f"height and width must be multiples of {cell}, got {height} and {width}")
    for number, box in enumerate(boxes.tolist()):
        if not all(abs(x) < float("inf") for x in box):
            raise ValueError(f"box {number} must have finite coordinates, got {box}")
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(f"box {number} must be x_min y_min x_max y_max, got {box}")
    low, high = boxes.new_tensor([0.0, 0.0]), boxes.new_tensor([width, height])
    outside = ((boxes[:, 2:] <= low) | (boxes[:, :2] >= high)).any(1)
    if outside.any():
        logger.warning("%d of %d boxes lie outside the canvas and have no region", int(outside.sum()), len(boxes))


def _touched(boxes: Float[Tensor, "n 4"], height: int, width: int) -> Bool[Tensor, "{height} {width} n"]:
    """Which boxes, in cells, touch each cell."""
    first, last = (boxes[:, :2] + _TOUCH).floor(), (boxes[:, 2:] - _TOUCH).ceil()
    size = boxes.new_tensor([width, height])
    inside = ((boxes[:, 2:] > 0) & (boxes[:, :2] < size)).all(1)
    first = torch.minimum(first.clamp(min=0), size - 1)
    last = torch.minimum(torch.maximum(last, first + 1), size)  # one cell at least, and none beyond the last
    return _spanned(first, last, height, width) & inside


def _floored(boxes: Float[Tensor, "n 4"], height: int, width: int) -> Bool[Tensor, "{height} {width} n"]:
    """The same with every corner rounded towards zero and kept off the last row and column."""
    top = boxes.new_tensor([width - 1, height - 1])
    corners = boxes.trunc()
    first = torch.minimum(corners[:, :2].clamp(min=0), top)
    last = torch.where(first >= corners[:, 2:], first, corners[:, 2:])
    return _spanned(first, torch.minimum(last.clamp(min=0), top), height, width)


def _spanned(
    first: Float[Tensor, "n 2"], last: Float[Tensor, "n 2"], height: int, width: int
) -> Bool[Tensor, "{height} {width} n"]:
    """Cells ``first`` up to ``last`` - 1, x and y."""
    x, y = torch.arange(width)[:, None], torch.arange(height)[:, None]
    columns = (x >= first[:, 0]) & (x < last[:, 0])  # (w, n)
    rows = (y >= first[:, 1]) & (y < last[:, 1])  # (h, n)
    return rows[:, None] & columns[None]


def _distinct(rows: Bool[Tensor, "m n"]) -> tuple[Bool[Tensor, "r n"], Int[Tensor, " m"]]:
    """The distinct rows in lexicographic order, and which one each row is."""
    if rows.shape[1] == 0:
        return rows[:1], torch.zeros(len(rows), dtype=torch.long)
    # rows as whole numbers, most significant bit first: sorting those is faster than sorting rows
    ids = torch.zeros(len(rows), dtype=torch.long)
    for part in rows.split(31, dim=1):
        bits = 2 ** torch.arange(part.shape[1] - 1, -1, -1)
        # ids of the columns before are small, so the sum of both fits
        _, ids = torch.unique(ids * 2 ** part.shape[1] + part.long() @ bits, return_inverse=True)
    membership = rows.new_zeros(int(ids.max()) + 1, rows.shape[1])
    membership[ids] = rows
    return membership, ids


def _sampled(ids: Int[Tensor, "h w"], grid: tuple[int, int]) -> Int[Tensor, "_h _w"]:
    """The upper left cell of those that fall together, as nearest-neighbour resizing picks."""
    rows, columns = (torch.arange(n) * size // n for n, size in zip(grid, ids.shape, strict=True))
    return ids[rows][:, columns]
