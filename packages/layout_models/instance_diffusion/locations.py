"""Layouts to what a grounding tokenizer reads of where their instances are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewright.layout import Layout, RunLengths
from scenewright.layout_models.instance_diffusion.mask_points import (
    POLYGON_POINTS,
    SCRIBBLE_POINTS,
    in_fractions,
    polygon,
    resampled,
    scribble,
)
from scenewright.layout_models.instance_diffusion.object_masks import covered
from scenewright.layout_models.instance_diffusion.unifusion import Instances

#: What may be padded, and to how many numbers.
_WIDTHS = {"boxes": 4, "points": 2, "scribbles": 2 * SCRIBBLE_POINTS, "polygons": 2 * POLYGON_POINTS}


@dataclass(frozen=True, eq=False)
class Locations:
    """Where the instances of one image are, on the CPU; zeros stand for a scribble, polygon or mask that is not there.

    Attributes:
        boxes: ``(n, 4)``, ``x_min y_min x_max y_max`` in fractions of the image.
        points: ``(n, 2)``, ``x y``; the centre of the box where none was given.
        scribbles: ``(n, 40)``, or None where no instance has one.
        polygons: ``(n, 512)``, or None where no instance has a mask.
        masks: ``(n, r, r)``, or None where no instance has one.
        cells: by number of pixels l of a grid, ``(n, l)``: the pixels of each instance; None where nobody asks.
    """

    boxes: Float[Tensor, "n 4"]
    points: Float[Tensor, "n 2"]
    scribbles: Float[Tensor, "n 40"] | None = None
    polygons: Float[Tensor, "n 512"] | None = None
    masks: Bool[Tensor, "n r r"] | None = None
    cells: Mapping[int, Bool[Tensor, "n _l"]] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def types(self) -> Bool[Tensor, " 4"]:
        """Which of box, point, scribble and mask there are."""
        some = len(self) > 0
        return torch.tensor([some, some, self.scribbles is not None, self.masks is not None])

    def only(self, number: int) -> Locations:
        """Those of one instance."""
        this = slice(number, number + 1)
        chosen: dict[str, Any] = {name: x[this] for name, x in vars(self).items() if isinstance(x, Tensor)}
        if self.cells is not None:
            chosen["cells"] = {pixels: x[this] for pixels, x in self.cells.items()}
        for name in ("scribbles", "polygons", "masks"):
            if name in chosen and not chosen[name].any():
                del chosen[name]
        return Locations(**chosen)


def locate(
    layout: Layout,
    height: int,
    width: int,
    *,
    random: np.random.Generator,
    resolution: int | None,
    from_masks: bool = False,
    grids: Sequence[tuple[int, int]] = (),
) -> Locations:
    """Where the instances of a layout are.

    Args:
        layout: what is where.
        height: of the image, in pixels.
        width: of the image, in pixels.
        random: draws from masks.
        resolution: the side of masks; None: boxes are all that is asked for.
        from_masks: draw the scribbles that are not given from masks.
        grids: height and width of the grids on which instances attend to themselves.
    """
    boxes = layout.boxes.cpu().float()
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = covered(layout, grids, from_masks=resolution is not None) if grids else None
    if resolution is None or not len(layout):
        return Locations(boxes, points, cells=cells)
    if layout.points is not None:
        given = layout.points.cpu().float()
        points = torch.where(given.isnan(), points, given)
    masks = _decoded(layout.masks, len(layout))
    scribbles, polygons = [], []
    for i, mask in enumerate(masks):
        drawn = np.zeros((0, 2)) if layout.scribbles is None else layout.scribbles[i].cpu().double().numpy()
        scribbles.append(_scribble(drawn, mask if from_masks else None, height, width, random))
        polygons.append(np.zeros((POLYGON_POINTS, 2)) if mask is None else _fractions(polygon(mask, random), mask))
    planes = None
    if layout.masks is not None and any(mask is not None for mask in masks):
        planes = torch.stack([x.resized(resolution, resolution).decode() for x in layout.masks])
    return Locations(
        boxes=boxes,
        points=points,
        scribbles=_if_any(scribbles),
        polygons=None if planes is None else _rows(polygons),
        masks=planes,
        cells=cells,
    )


def collate(
    locations: Sequence[Locations],
    texts: Sequence[Float[Tensor, "_n c"]],
    *,
    slots: int = 0,
    kept: Bool[Tensor, "b 4"] | None = None,
) -> Instances:
    """The instances of a batch, padded to the most that an image has, and to ``slots`` at least."""
    most = max([slots, *map(len, locations)])
    counts = torch.tensor([len(x) for x in locations])
    fields: dict[str, Any] = {
        name: _padded([getattr(x, name) for x in locations], (most, width)) for name, width in _WIDTHS.items()
    }
    sides = [x.masks.shape[1:] for x in locations if x.masks is not None]
    return Instances(
        text=torch.stack([torch.nn.functional.pad(x, (0, 0, 0, most - len(x))) for x in texts]),
        valid=torch.arange(most) < counts[:, None],
        masks=_padded([x.masks for x in locations], (most, *sides[0]), torch.bool) if sides else None,
        kept=kept,
        cells=_cells([x.cells for x in locations], most),
        **fields,
    )


def _cells(
    given: Sequence[Mapping[int, Bool[Tensor, "_n _l"]] | None], most: int
) -> dict[int, Bool[Tensor, "b n _l"]] | None:
    some = next((x for x in given if x is not None), None)
    if some is None:
        return None
    of = {pixels: [None if x is None else x[pixels] for x in given] for pixels in some}
    return {pixels: _filled(x, (most, pixels), torch.bool) for pixels, x in of.items()}


def _padded(given: Sequence[Tensor | None], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Rows of all images; None where nobody has any."""
    return None if all(x is None for x in given) else _filled(given, shape, dtype)


def _filled(given: Sequence[Tensor | None], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    result = torch.zeros(len(given), *shape, dtype=dtype)
    for row, x in zip(result, given, strict=True):
        if x is not None:
            row[: len(x)] = x
    return result


def _decoded(masks: Sequence[RunLengths] | None, count: int) -> list[Any]:
    """Pixels of each instance's mask; None of one that has none."""
    return [None] * count if masks is None else [x.decode().numpy() if x.area else None for x in masks]


def _scribble(
    drawn: Float[np.ndarray, "_n 2"], mask: Any, height: int, width: int, random: np.random.Generator
) -> Float[np.ndarray, "k 2"]:
    if len(drawn):
        return in_fractions(resampled(drawn * np.array([width, height])), height, width)
    if mask is not None:
        return _fractions(scribble(mask, random), mask)
    return np.zeros((SCRIBBLE_POINTS, 2))


def _fractions(points: Float[np.ndarray, "k 2"], mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "k 2"]:
    return in_fractions(points, *mask.shape)


def _if_any(points: Sequence[Float[np.ndarray, "k 2"]]) -> Tensor | None:
    return _rows(points) if any(x.any() for x in points) else None


def _rows(points: Sequence[Float[np.ndarray, "k 2"]]) -> Float[Tensor, "n d"]:
    return torch.from_numpy(np.stack(points)).float().flatten(1)
