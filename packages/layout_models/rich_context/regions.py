"""Boxes to disjoint regions: which objects own each cell of a canvas, and how strongly each speaks there.

Two cells are of one region when the same objects cover them. A region may be in several
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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

logger = logging.getLogger(__name__)

#: Height and width of a grid, in cells.
Grid = tuple[int, int]

#: A box that reaches less than this share of a cell into it does not touch it: coordinates come through float32.
_TOUCH = 1e-3

#: What the reference keeps of one layout.
MAX_OBJECTS, MAX_REGIONS = 30, 120

#: Objects per machine word when cells are compared; the other bits number what earlier words told apart.
_WORD = 40


@dataclass(frozen=True, eq=False)
class Regions:
    """The disjoint regions of one canvas.

    Attributes:
        ids: ``(h, w)``, the region of each cell of the first grid. Regions are in the lexicographic order of their
            membership, object 0 first: the background, where there is any, is region 0.
        membership: ``(r, n)``, which objects cover each region.
        areas: ``(n,)``, cells of ``cell`` by ``cell`` pixels that each object covers.
        boxes: ``(n, 4)``, pixels, as they were given.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        cell: pixels per side of a cell.
        compat: made as the reference makes them.
        kept: ``(r,)``, which of the regions get any attention.
    """

    ids: Int[Tensor, "h w"]
    membership: Bool[Tensor, "r n"]
    areas: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    height: int
    width: int
    cell: int
    compat: bool
    kept: Bool[Tensor, " r"]

    def __len__(self) -> int:
        return len(self.membership)

    @property
    def grid(self) -> Grid:
        """Height and width of the canvas in cells of ``cell`` by ``cell`` pixels."""
        return self.height // self.cell, self.width // self.cell

    @property
    def extent(self) -> Grid:
        """Height and width in pixels of what these cells cover: the canvas, but for ``compat`` with odd sizes."""
        return self.grid[0] * self.cell, self.grid[1] * self.cell

    @property
    def fractions(self) -> Float[Tensor, "n 4"]:
        """``(n, 4)``, the boxes as fractions of the canvas, neither cut nor rounded."""
        height, width = self.extent
        return self.boxes / self.boxes.new_tensor([width, height, width, height])

    @cached_property
    def weights(self) -> Float[Tensor, "r n"]:
        """``(r, n)``, in (0, 1]: the area of the smallest object that covers the region over the object's own; 0 for
        objects that do not cover it. So the smallest object of an overlap speaks loudest.
        """
        if not len(self.areas):
            return self.membership.double()
        areas = self.areas.double().clamp(min=1)
        smallest = torch.where(self.membership, areas, torch.inf).amin(1, keepdim=True)
        return torch.where(self.membership & self.kept[:, None], smallest / areas, 0.0)

    @cached_property
    def union(self) -> Bool[Tensor, "r r"]:
        """``(r, r)``: region i sees region j, because an object covers both; the background sees all."""
        shared = self.membership.float() @ self.membership.float().T > 0
        return shared | ~self.membership.any(1, keepdim=True)

    @cached_property
    def coverage(self) -> Bool[Tensor, "_h _w n"]:
        """``(h, w, n)``, which objects cover each cell of ``cell`` by ``cell`` pixels."""
        rows, columns = _cover(self.boxes.numpy(), self.extent, self.grid, self.compat)
        return torch.from_numpy(rows[:, None] & columns[None])


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
    return partition_grids(boxes, height, width, [(height // cell, width // cell)], cell=cell, compat=compat)[0]


def partition_grids(
    boxes: Float[Tensor, "n 4"],
    height: int,
    width: int,
    grids: Sequence[Grid],
    *,
    cell: int = 8,
    compat: bool = False,
) -> tuple[Regions, list[Int[Tensor, "_h _w"]]]:
    """The same on several grids: a coarse cell may be touched by objects that share no fine one.

    Args:
        boxes: ``(n, 4)``, as above.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        grids: height and width of each, in cells, at least one.
        cell: pixels per side of a cell, in which areas are counted.
        compat: as the reference: grids are sampled from the one of ``cell``.

    Returns:
        The regions of all grids, and for each grid the region of each cell.

    Raises:
        ValueError: as above.
    """
    corners = np.asarray(boxes, dtype=np.float64)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must have shape (n, 4), got {tuple(corners.shape)}")
    base = (height // cell, width // cell)
    if compat:
        corners = corners[:MAX_OBJECTS]
    else:
        _check(corners, height, width, cell)
    extent = (base[0] * cell, base[1] * cell)
    cover = _cover(corners, extent, base, compat)
    covers = [cover if compat or grid == base else _cover(corners, extent, grid, False) for grid in grids]
    membership, ids = _number(covers[:1] if compat else covers)
    if compat:
        ids = [_sampled(ids[0], grid) for grid in [base, *grids]]
    regions = Regions(
        ids=torch.from_numpy(ids[0]),
        membership=torch.from_numpy(membership),
        areas=torch.from_numpy(cover[0].sum(0) * cover[1].sum(0)),
        boxes=torch.from_numpy(corners),
        height=height,
        width=width,
        cell=cell,
        compat=compat,
        kept=torch.arange(len(membership)) < (MAX_REGIONS if compat else len(membership)),
    )
    return regions, [torch.from_numpy(x) for x in ids[-len(grids) :]]


def _check(boxes: Any, height: int, width: int, cell: int) -> None:
    if height % cell or width % cell or min(height, width) < cell:
        raise ValueError(f"height and width must be multiples of {cell}, got {height} and {width}")
    check_boxes(boxes)
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (width, height))).any(1).sum()
    if outside:
        logger.warning("%d of %d boxes lie outside the canvas and have no region", outside, len(boxes))


def check_boxes(boxes: Any) -> None:
    """Make sure that boxes, an array ``(n, 4)`` in any unit, are corners.

    Raises:
        ValueError: one is not finite, or inverted.
    """
    finite = np.isfinite(boxes).all(1)
    if not finite.all():
        number = int(finite.argmin())
        raise ValueError(f"box {number} must have finite coordinates, got {boxes[number].tolist()}")
    upright = (boxes[:, 2:] >= boxes[:, :2]).all(1)
    if not upright.all():
        number = int(upright.argmin())
        raise ValueError(f"box {number} must be x_min y_min x_max y_max, got {boxes[number].tolist()}")


def _cover(boxes: Any, extent: Grid, grid: Grid, compat: bool) -> tuple[Any, Any]:
    """Which boxes cover each row of a grid, ``(h, n)``, and which cover each column, ``(w, n)``."""
    size = np.array([grid[1], grid[0]], dtype=np.float64)
    scale = size / (extent[1], extent[0])
    first, last = (_floored if compat else _touched)(boxes[:, :2] * scale, boxes[:, 2:] * scale, size)
    (columns, left, right), (rows, top, bottom) = (
        (np.arange(size[axis])[:, None], first[:, axis], last[:, axis]) for axis in (0, 1)
    )
    return (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)


def _touched(low: Any, high: Any, size: Any) -> tuple[Any, Any]:
    """The first cell that each box touches, and the one after the last; x and y, ``(n, 2)``."""
    inside = ((high > 0) & (low < size)).all(1, keepdims=True)
    first = np.minimum(np.maximum(np.floor(low + _TOUCH), 0), size - 1)
    last = np.minimum(np.maximum(np.ceil(high - _TOUCH), first + 1), size)  # one cell at least, none beyond the last
    return first, np.where(inside, last, first)


def _floored(low: Any, high: Any, size: Any) -> tuple[Any, Any]:
    """The same with every corner rounded towards zero and kept off the last row and column."""
    top = size - 1
    low, high = np.trunc(low), np.trunc(high)
    first = np.minimum(np.maximum(low, 0), top)
    last = np.where(first >= high, first, high)
    return first, np.minimum(np.maximum(last, 0), top)


def _number(covers: Sequence[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """The distinct sets of boxes over the cells of all grids, in lexicographic order, and which one each cell has."""
    count = covers[0][0].shape[1]
    shapes = [(len(rows), len(columns)) for rows, columns in covers]
    ids = np.zeros(sum(h * w for h, w in shapes), dtype=np.int64)
    words = []
    for start in range(0, count, _WORD):
        part = slice(start, min(start + _WORD, count))
        bits = 1 << np.arange(part.stop - start)[::-1]  # box 0 counts most
        # a box covers a cell when it covers its row and its column: one AND per cell, for all boxes at once
        word = np.concatenate([((rows[:, part] @ bits)[:, None] & (columns[:, part] @ bits)).ravel()
                               for rows, columns in covers])  # fmt: skip
        _, ids = np.unique((ids << len(bits)) | word, return_inverse=True)
        words.append((word, np.arange(len(bits))[::-1]))
    example = np.zeros(ids.max() + 1, dtype=np.int64)
    example[ids] = np.arange(len(ids))
    sets = [(word[example][:, None] >> shifts & 1).astype(bool) for word, shifts in words]
    membership = np.concatenate(sets, 1) if sets else np.zeros((1, 0), dtype=bool)
    pieces = np.split(ids, np.cumsum([h * w for h, w in shapes])[:-1])
    return membership, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _sampled(ids: Any, grid: Grid) -> Any:
    """The upper left cell of those that fall together, as nearest-neighbour resizing picks."""
    rows, columns = (np.arange(n) * size // n for n, size in zip(grid, ids.shape, strict=True))
    return ids[rows][:, columns]
