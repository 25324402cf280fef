"""Silhouettes: which of twelve simple shapes a mask has, if any.

A mask is brought to a common centre and area and compared with drawings of the twelve at every rotation and in a few
proportions; the best overlap names the shape. Anything irregular, and a shape of which much is hidden, has no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy import ndarray

SHAPES = (
    "circle",
    "ring",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "diamond",
    "hexagon",
    "crescent",
    "arrow",
    "bar",
)
_GRID = 40  # pixels of a drawing's side
_SIDE = 13.0  # side of the square that has a drawing's area: a bar of 1 to 6 still fits
_STEP = 7.5  # degrees between two drawings
_CANVAS = 160  # drawings are made this large, then turned and averaged down
_CUT_GRID, _CUT_SIDE = 20, 6.6  # the same for partial drawings, of which there are many
_CUT_SHARES, _CUT_WAYS = (0.15, 0.3, 0.48), 10  # how much is cut off, from how many directions
_WHOLE = 0.92  # overlap from which on a mask is taken for a whole shape; 95 % of whole ones reach 0.91
_CUT_PENALTY = 0.03  # a partial drawing fits too much; best of 0, 0.01, 0.02, 0.03 and 0.05 on drawn scenes
_AXES = 32  # main axes along which the best drawings are found before they are compared by pixels
_EXAMPLES = 200  # drawings that the axes are fitted to
_CANDIDATES = 64

_MOMENTS = np.stack([np.ones(_GRID**2), *np.indices((_GRID, _GRID))[::-1].reshape(2, -1)], 1).astype(np.float32)

Outline = Float[ndarray, "_k 2"]


def read_shape(mask: Bool[ndarray, "h w"], sure: float = 0.82, lead: float = 0.003, partial: bool = True) -> str:
    """The name of a mask's shape, or nothing.

    Args:
        mask: of any size; from about 8 pixels across a shape can be told.
        sure: least overlap (intersection over union) with a drawing.
        lead: least distance to the best drawing of another shape.
        partial: also compare with drawings of which a piece is hidden.
    """
    if mask.sum() < 24:
        return ""
    scores = _best(mask, _bank(), _GRID, _SIDE)
    if partial and scores.max() < _WHOLE:
        scores = np.maximum(scores, _best(mask, _partial_bank(), _CUT_GRID, _CUT_SIDE) - _CUT_PENALTY)
    first, second = np.argsort(-scores, kind="stable")[:2]
    return SHAPES[first] if scores[first] >= sure and scores[first] - scores[second] >= lead else ""


@dataclass(frozen=True, eq=False)
class _Bank:
    """Drawings, flat; the shape of each; its square sum; and where it lies on the main axes of all."""

    drawings: Float[ndarray, "n pixels"]
    owners: Integer[ndarray, " n"]
    squares: Float[ndarray, " n"]
    axes: Float[ndarray, "pixels axes"]
    places: Float[ndarray, "n axes"]


def _best(mask: Bool[ndarray, "h w"], bank: _Bank, grid: int, side: float) -> Float[ndarray, " 12"]:
    """The best overlap with the drawings of each shape, in the order of ``SHAPES``; 0 for shapes far behind."""
    query = _normal(mask.astype(np.float32), grid, side)
    square = float(query @ query)

    def overlap(dot: Float[ndarray, " k"], squares: Float[ndarray, " k"]) -> Float[ndarray, " k"]:
        return dot / (squares + square - dot)

    rough = overlap(bank.places @ (query @ bank.axes), bank.squares)
    near = np.argpartition(-rough, _CANDIDATES)[:_CANDIDATES]
    best = np.zeros(len(SHAPES), np.float32)
    np.maximum.at(best, bank.owners[near], overlap(bank.drawings[near] @ query, bank.squares[near]))
    return best


def _normal(soft: Float[ndarray, "h w"], grid: int, side: float) -> Float[ndarray, " pixels"]:
    """A mask moved and scaled to a common centre and area, flat."""
    area = float(soft.sum())
    rows, columns = soft.sum(1), soft.sum(0)
    x, y = float(columns @ np.arange(len(columns))) / area, float(rows @ np.arange(len(rows))) / area
    scale = side / np.sqrt(area)
    if scale < 0.7:  # else pixels would be skipped; ``_cut`` does the same
        soft = cv2.GaussianBlur(np.pad(soft, 2), (0, 0), 0.35 / scale)[2:-2, 2:-2]
    middle = (grid - 1) / 2
    matrix = np.array([[scale, 0, middle - scale * x], [0, scale, middle - scale * y]])
    return cv2.warpAffine(soft, matrix, (grid, grid), flags=cv2.INTER_LINEAR).reshape(-1)


@lru_cache(maxsize=1)
def _bank() -> _Bank:
    """Every shape at every turn and in each proportion."""
    drawings, owners = [], []
    for name, turn, outlines in _proportions():
        turns = np.arange(0, turn, _STEP).tolist() if turn else [0.0]
        drawings += _draw(outlines, turns)
        owners += [SHAPES.index(name)] * len(turns)
    return _pack(np.stack(drawings), np.array(owners))


@lru_cache(maxsize=1)
def _partial_bank() -> _Bank:
    """Every second drawing, with straight pieces cut off: as if something in front or the image's border hid them."""
    whole = _bank()
    angles = 2 * np.pi * np.arange(_CUT_WAYS) / _CUT_WAYS
    y, x = np.indices((_GRID, _GRID)).reshape(2, -1)
    depths = np.outer(np.cos(angles), x) + np.outer(np.sin(angles), y)  # (ways, pixels)
    order = np.argsort(depths, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    drawings = np.concatenate([_cut(drawing, order, rank) for drawing in whole.drawings[::2]])
    return _pack(drawings, np.repeat(whole.owners[::2], _CUT_WAYS * len(_CUT_SHARES)))


def _cut(
    drawing: Float[ndarray, " pixels"], order: Integer[ndarray, "ways pixels"], rank: Integer[ndarray, "ways pixels"]
) -> Float[ndarray, "cuts smaller"]:
    """What is left of a drawing when each of the shares is cut off from each direction, at the common area."""
    hidden = np.cumsum(drawing[order], axis=1)  # (ways, pixels)
    first = np.stack([np.searchsorted(row, np.array(_CUT_SHARES, np.float32) * row[-1]) for row in hidden], 1)
    rest = np.where(rank >= first[..., None], drawing, np.float32(0))  # (shares, ways, pixels)
    area, x_sum, y_sum = np.moveaxis(rest @ _MOMENTS, -1, 0)[..., None]  # each (shares, ways, 1)
    scale = np.sqrt(area) / _CUT_SIDE
    # all directions in one picture, one below the other and far enough apart
    slot = _GRID + 16
    v, u = np.indices((_CUT_GRID, _CUT_GRID), np.float32).reshape(2, -1) - (_CUT_GRID - 1) / 2
    across, down = u * scale + x_sum / area, v * scale + y_sum / area
    down += slot * np.arange(_CUT_WAYS, dtype=np.float32)[:, None]
    cuts = []
    for index in range(len(_CUT_SHARES)):
        stack = np.zeros((_CUT_WAYS, slot, _GRID), np.float32)
        stack[:, :_GRID] = rest[index].reshape(-1, _GRID, _GRID)
        soft = cv2.GaussianBlur(stack.reshape(-1, _GRID), (5, 5), 0.35 * float(scale[index].mean()))
        cuts.append(cv2.remap(soft, across[index], down[index], cv2.INTER_LINEAR))
    return np.concatenate(cuts)


def _pack(drawings: Float[ndarray, "n pixels"], owners: Integer[ndarray, " n"]) -> _Bank:
    few = drawings[:: 1 + len(drawings) // _EXAMPLES]
    axes = np.ascontiguousarray(np.linalg.svd(few, full_matrices=False)[2][:_AXES].T)
    return _Bank(drawings, owners, (drawings**2).sum(1), axes, drawings @ axes)


def _draw(outlines: list[Outline], turns: list[float]) -> list[Float[ndarray, " pixels"]]:
    """Outlines (the second cuts a hole) around their centroid, at the common area, at each turn in degrees."""
    middle = (_CANVAS - 1) / 2
    fit = middle / 1.5 / max(np.abs(o).max() for o in outlines)
    canvas = np.zeros((_CANVAS, _CANVAS), np.uint8)
    cv2.fillPoly(canvas, [np.round((o * fit + middle) * 16).astype(np.int32) for o in outlines], 255, shift=4)
    y, x = np.nonzero(canvas)
    scale = _SIDE * _CANVAS / _GRID / np.sqrt(len(x))
    centre = float(x.mean()), float(y.mean())
    drawings = []
    for degrees in turns:
        matrix = cv2.getRotationMatrix2D(centre, -degrees, scale)
        matrix[:, 2] += middle - np.array(centre)
        turned = cv2.warpAffine(canvas, matrix, (_CANVAS, _CANVAS), flags=cv2.INTER_LINEAR)
        small = cv2.resize(turned, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
        drawings.append((small / np.float32(255)).reshape(-1))
    return drawings


def _proportions() -> list[tuple[str, float, list[Outline]]]:
    """Shape, the turn in degrees after which it repeats (0: at once), and its outlines, for each proportion."""
    circle = _regular(48)
    rows: list[tuple[str, float, list[Outline]]] = [
        ("circle", 0.0, [circle]),
        ("square", 90.0, [_regular(4)]),
        ("hexagon", 60.0, [_regular(6)]),
        ("triangle", 120.0, [_regular(3)]),
    ]
    rows += [("ring", 0.0, [circle, circle * inner]) for inner in (0.4, 0.5, 0.6, 0.7)]
    rows += [("triangle", 360.0, [np.array([[-1, 1], [1, 1], [0, 1 - tall]])]) for tall in (1.4, 2.1)]
    rows += [("star", 72.0, [_star(inner)]) for inner in (0.38, 0.45, 0.53)]
    rows += [("cross", 90.0, [_cross(arm)]) for arm in (0.25, 0.33, 0.42)]
    rows += [("heart", 360.0, [_heart(tall)]) for tall in (0.9, 1.05)]
    rows += [("diamond", 180.0, [np.array([[0, 1], [wide, 0], [0, -1], [-wide, 0]])]) for wide in (0.5, 0.6, 0.7)]
    rows += [("crescent", 360.0, [_crescent(r, d)]) for r, d in ((0.8, 0.4), (0.85, 0.5), (0.75, 0.5), (0.9, 0.65))]
    rows += [
        ("arrow", 360.0, [_arrow(shaft, head)])
        for shaft, head in ((0.2, 0.8), (0.3, 0.9), (0.25, 1.1), (0.35, 1.0), (0.4, 0.8))
    ]
    rows += [("bar", 180.0, [np.array([[-a, -1], [a, -1], [a, 1], [-a, 1]])]) for a in (1.8, 2.4, 3.2, 4.3, 5.6)]
    return rows


def _regular(corners: int) -> Outline:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star(inner: float) -> Outline:
    radius = np.tile([1, inner], 5)[:, None]
    return _regular(10) * radius


def _cross(a: float) -> Outline:
    corner = np.array([[1, -a], [1, a], [a, a]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([corner @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart(tall: float) -> Outline:
    """The usual parametric heart."""
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y * tall], 1) / 16


def _crescent(radius: float, away: float) -> Outline:
    """A unit disc without a disc of ``radius`` at a distance of ``away``."""
    meet = (1 - radius**2 + away**2) / (2 * away)
    outer = np.arccos(meet)
    inner = np.arctan2(np.sqrt(1 - meet**2), meet - away)
    far = np.linspace(outer, 2 * np.pi - outer, 40)
    near = np.linspace(2 * np.pi - inner, inner, 40)
    return np.concatenate(
        [np.stack([np.cos(far), np.sin(far)], 1), np.stack([away + radius * np.cos(near), radius * np.sin(near)], 1)]
    )


def _arrow(shaft: float, head: float) -> Outline:
    """To the right, from -1 to 1: a shaft of half width ``shaft``, a head as long as ``head``, 0.7 to either side."""
    neck = 1 - head
    return np.array([[-1, -shaft], [neck, -shaft], [neck, -0.7], [1, 0], [neck, 0.7], [neck, shaft], [-1, shaft]])
