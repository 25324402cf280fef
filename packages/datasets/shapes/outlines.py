"""The twelve shapes, as polygons around the origin with a radius of about 1.

``y`` points down, as in images. ``proportion`` in [0, 1] varies what may vary without
changing the name: how thick a ring is, how pointed a star.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Contour = Float[np.ndarray, "_k 2"]


def _arc(radius: float, start: float, stop: float, count: int = 48) -> Contour:
    """Points of a circle around the origin, both ends included; angles in radians."""
    angles = np.linspace(start, stop, count)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _regular(count: int) -> Contour:
    """A regular polygon with one corner at the top."""
    return _arc(1.0, -np.pi / 2, 1.5 * np.pi, count + 1)[:-1]


def _circle(_: float) -> list[Contour]:
    return [_arc(1.0, 0.0, 2 * np.pi, 72)]


def _ring(proportion: float) -> list[Contour]:
    return [_arc(1.0, 0.0, 2 * np.pi, 72), _arc(0.5 + 0.16 * proportion, 0.0, 2 * np.pi, 72)]


def _square(_: float) -> list[Contour]:
    return [np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])]


def _triangle(proportion: float) -> list[Contour]:
    return [_regular(3) * [1.0, 0.95 + 0.15 * proportion]]


def _star(proportion: float) -> list[Contour]:
    points = _regular(10)
    points[1::2] *= 0.38 + 0.1 * proportion
    return [points]


def _cross(proportion: float) -> list[Contour]:
    arm = 0.28 + 0.1 * proportion
    quarter = np.array([[arm, -0.95], [arm, -arm], [0.95, -arm]])
    turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate([quarter @ turn for turn in turns])]


def _heart(_: float) -> list[Contour]:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x / 16.5, -(y + 2.5) / 16.5], axis=1)]


def _diamond(proportion: float) -> list[Contour]:
    half = 0.58 + 0.14 * proportion
    return [np.array([[0, -1], [half, 0], [0, 1], [-half, 0]])]


def _hexagon(_: float) -> list[Contour]:
    return [_regular(6)]


def _crescent(proportion: float) -> list[Contour]:
    """A disc less a smaller disc that leans out of it to the right."""
    radius, offset = 0.8, 0.42 + 0.12 * proportion
    x = (1 - radius**2 + offset**2) / (2 * offset)  # where the two circles meet
    y = np.sqrt(1 - x**2)
    outer = _arc(1.0, np.arctan2(y, x), 2 * np.pi - np.arctan2(y, x), 56)
    inner = _arc(radius, -np.arctan2(y, x - offset), np.arctan2(y, x - offset) - 2 * np.pi, 56) + [offset, 0]
    return [np.concatenate([outer, inner]) + [0.2, 0]]


def _arrow(proportion: float) -> list[Contour]:
    """An arrow to the right."""
    shaft, neck = 0.2 + 0.08 * proportion, 0.15
    upper = np.array([[-1, -shaft], [neck, -shaft], [neck, -0.68], [1, 0]])
    return [np.concatenate([upper, upper[-2::-1] * [1, -1]])]


def _bar(proportion: float) -> list[Contour]:
    half = 0.2 + 0.1 * proportion
    return [np.array([[-1, -half], [1, -half], [1, half], [-1, half]])]


_OUTLINES: dict[str, Callable[[float], list[Contour]]] = {
    "circle": _circle,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "diamond": _diamond,
    "hexagon": _hexagon,
    "crescent": _crescent,
    "arrow": _arrow,
    "bar": _bar,
}

SHAPES = tuple(_OUTLINES)

#: How far a shape may turn either way, in degrees: a square on its corner is a diamond.
TURNS = dict.fromkeys(SHAPES, 180.0) | {
    "circle": 0.0,
    "ring": 0.0,
    "square": 20.0,
    "cross": 25.0,
    "heart": 30.0,
    "diamond": 20.0,
}


def outline(shape: str, proportion: float, size: float, rotation: float) -> list[Contour]:
    """The contours of a shape around the origin, in pixels; a second contour is a hole.

    Args:
        shape: one of ``SHAPES``.
        proportion: in [0, 1].
        size: the diameter of the circle the shape fits into, in pixels.
        rotation: in degrees, clockwise.

    Returns:
        Each ``(k, 2)``, x and y.
    """
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [contour @ turn * (size / 2) for contour in _OUTLINES[shape](proportion)]
