"""How large things are pasted and where: arithmetic on boxes in pixels of the canvas.

Boxes are ``x_min y_min x_max y_max``. Functions whose names end in ``_compat`` do what the reference does, where that
differs; they count in whole pixels and truncate as it does.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.2, and its reference implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

#: Width and height of a picture.
Size = tuple[float | int, float | int]

#: What a thing's box keeps where it is when its size changes.
ANCHORS = ("center", "bottom")

_SLACK = 1e-2  # of a pixel: fractions in float32 are never farther from the pixels they stand for


class Placement(NamedTuple):
    """Where a picture lies on the canvas, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def place(
    boxes: Float[ndarray, "n 4"],
    sizes: Sequence[Size],
    height: int,
    width: int,
    ratios: Sequence[float] = (),
    anchor: str = "center",
) -> list[Placement]:
    """Find where each picture goes: as large as its box allows, but none too small, and all of it on the canvas.

    In this order: sizes by ratios, boxes moved onto the canvas, all boxes grown until the smallest is large enough,
    moved again, pictures fitted into them.

    Args:
        boxes: in pixels of the canvas; they may lie beyond its sides.
        sizes: width and height of each picture; only their aspects matter.
        height, width: of the canvas.
        ratios: relative real sizes of the things, or none.
        anchor: "center" or "bottom": where in its box a picture lies that does not fill it; left and right it is
            always in the middle.

    Raises:
        ValueError: a box has no area or no numbers; a ratio is not positive.
    """
    check(boxes, ratios)
    if len(ratios):
        boxes = by_ratios(boxes, sizes, ratios, height, width, anchor)
    boxes = clip(boxes, height, width)
    boxes = clip(scaled(boxes, growth(boxes, height, width), anchor), height, width)
    return [fit(box, size, height, width, anchor) for box, size in zip(boxes, sizes, strict=True)]


def check(boxes: Float[ndarray, "n 4"], ratios: Sequence[float] = ()) -> None:
    """Raises: ValueError, a box has no area or no numbers; there are ratios, but not one positive one per box."""
    for i, box in enumerate(boxes):
        if not np.isfinite(box).all():
            raise ValueError(f"box {i} must be four numbers, got {box.tolist()}")
        if box[2] <= box[0] or box[3] <= box[1]:
            raise ValueError(f"box {i} must have an area, got {box.tolist()} in pixels")
    if not len(ratios):
        return
    if len(ratios) != len(boxes):
        raise ValueError(f"as many ratios as boxes are needed, got {len(ratios)} and {len(boxes)}")
    if not all(0 < x < float("inf") for x in ratios):
        raise ValueError(f"ratios must be positive, got {list(ratios)}")


def clip(boxes: Float[ndarray, "n 4"], height: int, width: int) -> Float[ndarray, "n 4"]:
    """Move boxes onto the canvas; only what is larger than it shrinks."""
    limits = np.array([width, height], float)
    sides = np.minimum(boxes[:, 2:] - boxes[:, :2], limits)
    low = np.clip(boxes[:, :2], 0, limits - sides)
    return np.concatenate([low, low + sides], 1)


def least_area(count: int, height: int, width: int) -> float:
    """Square pixels that the smallest of ``count`` boxes should have."""
    share = 5 if count <= 3 else 6 if count == 4 else 8
    return (height / share) * (width / share)


def growth(boxes: Float[ndarray, "n 4"], height: int, width: int) -> float:
    """By how much all sides must be multiplied so that the smallest box is large enough; at least 1.

    Less than that where a box would outgrow the canvas.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    if not len(sides):
        return 1.0
    wanted = np.sqrt(least_area(len(boxes), height, width) / sides.prod(1).min())
    room = (np.array([width, height]) / sides).min()
    return max(1.0, float(min(wanted, room)))


def scaled(boxes: Float[ndarray, "n 4"], factor: float | int, anchor: str = "center") -> Float[ndarray, "n 4"]:
    """Boxes with all sides multiplied, around their middle or the middle of their lower side."""
    sides = (boxes[:, 2:] - boxes[:, :2]) * factor
    return boxes if factor == 1 else _around(boxes, sides, anchor)


def by_ratios(
    boxes: Float[ndarray, "n 4"],
    sizes: Sequence[Size],
    ratios: Sequence[float],
    height: int,
    width: int,
    anchor: str = "center",
) -> Float[ndarray, "n 4"]:
    """Boxes of the pictures' own aspects, whose longer sides are to each other as the ratios.

    The largest thing is as large as its box allows, unless another one would then outgrow the canvas.
    """
    shapes = np.asarray(sizes, float)
    shapes = shapes / shapes.max(1, keepdims=True)  # longer side 1
    largest = int(np.argmax(ratios))
    longer = ((boxes[largest, 2:] - boxes[largest, :2]) / shapes[largest]).min()
    sides = shapes * (longer * np.asarray(ratios, float) / ratios[largest])[:, None]
    sides *= min(1.0, float((np.array([width, height]) / sides).min()))
    return _around(boxes, sides, anchor)


def fit(box: Float[ndarray, " 4"], size: Size, height: int, width: int, anchor: str = "center") -> Placement:
    """The largest place of a picture's aspect inside a box; at least one pixel, and on the canvas."""
    room = np.minimum(box[2:] - box[:2], (width, height))
    scale = min(room[0] / size[0], room[1] / size[1])
    most = np.maximum(1, np.floor(room + _SLACK).astype(int))
    long, short = (0, 1) if size[0] >= size[1] else (1, 0)
    sides = [0, 0]
    sides[long] = int(np.clip(np.floor(size[long] * scale + _SLACK), 1, most[long]))
    sides[short] = int(np.clip(round(sides[long] * size[short] / size[long]), 1, most[short]))
    left = round(float(box[0] + box[2] - sides[0]) / 2)
    top = round(float(box[3])) - sides[1] if anchor == "bottom" else round(float(box[1] + box[3] - sides[1]) / 2)
    return Placement(min(max(left, 0), width - sides[0]), min(max(top, 0), height - sides[1]), sides[0], sides[1])


def _around(boxes: Float[ndarray, "n 4"], sides: Float[ndarray, "n 2"], anchor: str) -> Float[ndarray, "n 4"]:
    """Boxes of other sides around the middle of the old ones, or of their lower sides."""
    low = (boxes[:, :2] + boxes[:, 2:] - sides) / 2
    if anchor == "bottom":
        low[:, 1] = boxes[:, 3] - sides[:, 1]
    return np.concatenate([low, low + sides], 1)


def place_compat(
    boxes: Float[ndarray, "n 4"],
    sizes: Sequence[tuple[int, int]],
    height: int,
    width: int,
    ratios: Sequence[float] = (),
) -> list[Placement]:
    """Find where each picture goes as the reference does.

    All boxes take the aspect of the largest thing's where there are ratios; the factor of areas multiplies sides; a
    picture's longer side is its box's shorter one; it lies in the box's top left corner; the canvas's last row and
    column stay free.

    Raises:
        ValueError: a box has no area, before or after it was clipped; a picture has none.
    """
    check(boxes, ratios)
    whole = [[int(v + _SLACK) for v in box] for box in boxes]
    if len(ratios):
        whole = _by_ratios_compat(whole, ratios)
    whole = [_clip_box_compat(box, height, width) for box in whole]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in whole]
    if any(box[2] <= box[0] or box[3] <= box[1] for box in whole):
        raise ValueError(f"boxes must have an area, got {whole} in pixels after clipping")
    factor = max(1.0, least_area(len(whole), height, width) / min(areas, default=float("inf")))
    return [_fit_compat(box, size, factor, height, width) for box, size in zip(whole, sizes, strict=True)]


def clip_compat(low: int, high: int, size: int) -> tuple[int, int]:
    """One axis of a box on a canvas: what is below 0 is cut off on both sides, what is too far is moved."""
    if low < 0:
        low, high = 0, high + low
    if high > size - 1:
        low, high = max(low - (high - (size - 1)), 0), size - 1
    return low, high


def _clip_box_compat(box: Sequence[int], height: int, width: int) -> list[int]:
    (left, right), (top, bottom) = clip_compat(box[0], box[2], width), clip_compat(box[1], box[3], height)
    return [left, top, right, bottom]


def _by_ratios_compat(boxes: list[list[int]], ratios: Sequence[float]) -> list[list[int]]:
    largest = boxes[int(np.argmax(ratios))]
    found = []
    for box, ratio in zip(boxes, ratios, strict=True):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        w, h = (largest[2] - largest[0]) * ratio, (largest[3] - largest[1]) * ratio
        found.append([int(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)])
    return found


def _fit_compat(box: Sequence[int], size: tuple[int, int], factor: float, height: int, width: int) -> Placement:
    side = min(int((box[2] - box[0]) * factor), int((box[3] - box[1]) * factor))
    w, h = (side, int(size[1] * side / size[0])) if size[0] >= size[1] else (int(size[0] * side / size[1]), side)
    if not w or not h:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels vanishes in the box {list(box)}")
    x, y = box[0] + w // 2, box[1] + h // 2
    left, top, right, bottom = _clip_box_compat(
        [x - w // 2, y - h // 2, x + w // 2, y + h // 2], height, width
    )  # sides become even
    if right <= left or bottom <= top:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels vanishes in the box {list(box)}")
    return Placement(left, top, right - left, bottom - top)
