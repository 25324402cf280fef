"""Points that stand for a mask: a scribble in it, and a polygon of its border and its inside.

Points are ``x, y`` in pixels, a pixel's centre at whole numbers; ``in_fractions`` makes them fractions of the image.
Randomness is numpy's, given by the caller: one generator per image makes results independent of the batch.

Source: Wang et al. 2024, arXiv 2402.03290, section 3.2 and appendix.
"""

from __future__ import annotations

import random as python_random

import numpy as np
from jaxtyping import Bool, Float, Shaped

#: ``RandomState`` is numpy's older generator, whose draws the released code has.
Random = np.random.Generator | np.random.RandomState

#: How many points the released weights read of a scribble and of a polygon.
SCRIBBLE_POINTS, POLYGON_POINTS = 20, 256


def scribble(mask: Bool[np.ndarray, "h w"], random: Random, count: int = SCRIBBLE_POINTS) -> Float[np.ndarray, "k 2"]:
    """Pixels of a mask, nearest to the image's corner first; zeros of an empty mask.

    They are drawn without replacement, unless there are fewer than ``count``.
    """
    pixels = _pixels(mask)
    if not len(pixels):
        return np.zeros((count, 2))
    return _by_distance(pixels[random.choice(len(pixels), count, replace=len(pixels) < count)])


def polygon(
    mask: Bool[np.ndarray, "h w"],
    random: Random | python_random.Random,
    count: int = POLYGON_POINTS,
    *,
    compat: bool = False,
) -> Float[np.ndarray, "k 2"]:
    """Points on the border of a mask and as many inside, nearest to the image's corner first; zeros of an empty mask.

    Inside, the mask's pixels are sorted by their distance to its centroid, and the middle one of each of
    ``count / 2`` equal parts is taken; of a mask of fewer pixels they are drawn with replacement.

    Args:
        mask: of one instance.
        random: for small masks, for which the released code has Python's.
        count: how many points, an even number.
        compat: as in the released code: the border lies one pixel off, to the right and down.
    """
    pixels = _pixels(mask)
    contours = [x for x in _contours(mask) if len(x) > 2]
    if not contours:
        return np.zeros((count, 2))
    border = np.concatenate(contours) if compat else np.clip(np.concatenate(contours) - 1, 0, None)
    border = border[np.linspace(0, len(border) - 1, count // 2).astype(int)]
    return _by_distance(np.concatenate([_inside(pixels, random, count // 2), border]))


def resampled(points: Float[np.ndarray, "n 2"], count: int = SCRIBBLE_POINTS) -> Float[np.ndarray, "k 2"]:
    """A scribble that someone drew, with as many points as are read, at equal gaps; nearest to the corner first.

    Raises:
        ValueError: there are no points.
    """
    if not len(points):
        raise ValueError("a scribble has at least one point, got none")
    steps = np.arange(count)
    index = steps * (len(points) // count) if len(points) >= count else steps * len(points) // count
    return _by_distance(_by_distance(points)[index])


def in_fractions(points: Float[np.ndarray, "*k 2"], height: int, width: int) -> Float[np.ndarray, "*k 2"]:
    """Points in pixels, as fractions of their image."""
    return points / np.array([width, height])


def _pixels(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Row by row."""
    return np.argwhere(mask)[:, ::-1].astype(float)


def _by_distance(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    return points[np.argsort(np.linalg.norm(points, axis=1), kind="stable")]


def _contours(mask: Bool[np.ndarray, "h w"]) -> list[Shaped[np.ndarray, "_n 2"]]:
    """Closed lines around a mask and its holes, one pixel off, as the mask is padded to close them."""
    from skimage.measure import find_contours

    found = []
    for line in find_contours(np.pad(mask, 1).astype(np.uint8), 0):
        if not np.array_equal(line[0], line[-1]):
            line = np.concatenate([line, line[:1]])
        found.append(line[:, ::-1])
    return found


def _inside(
    pixels: Float[np.ndarray, "n 2"], random: Random | python_random.Random, count: int
) -> Float[np.ndarray, "k 2"]:
    if len(pixels) < count:
        if isinstance(random, python_random.Random):
            return pixels[[random.choice(range(len(pixels))) for _ in range(count)]]
        return pixels[random.choice(len(pixels), count, replace=True)]
    away = np.linalg.norm(pixels - pixels.mean(0), axis=1)
    size = len(pixels) // count
    return pixels[np.argsort(away, kind="stable")[np.arange(count) * size + size // 2]]
