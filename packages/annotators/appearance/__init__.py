"""What pixels alone say about a region: colour terms, pattern, shape, tone. No weights, no names of things."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from scenewright.annotators.appearance.colours import TERMS, terms, to_lab, tone
from scenewright.annotators.appearance.patterns import DRAWN, FLAT, SMALL, Pattern, median, read_pattern
from scenewright.annotators.appearance.silhouettes import read_shape

__all__ = ["Appearance", "describe"]

_SIDE = 128  # longest side at which a region is looked at
_LEAST_CORE = 12  # pixels
_SURE_SMOOTH = 0.93
_SURE_NATURAL = 0.95  # overlap that a natural surface needs: in photographs a blob is seldom a heart


@dataclass(frozen=True)
class Appearance:
    """How one region looks.

    Attributes:
        colours: one or two of the eleven basic colour terms, each with its share of the region, the larger first.
            Of a gradient, its two ends. Empty only for an empty mask.
        pattern: ``plain``, ``striped``, ``dotted``, ``checkered`` or ``gradient``.
        shape: one of twelve (circle, ring, square, triangle, star, cross, heart, diamond, hexagon, crescent, arrow,
            bar), or nothing when it is none of them or not sure.
        tones: for each colour ``dark``, ``pale``, ``bright`` or nothing.
    """

    colours: tuple[tuple[str, float], ...]
    pattern: str
    shape: str
    tones: tuple[str, ...]

    @property
    def label(self) -> str:
        """Two words for a box: "red star", "brown region"."""
        return " ".join([*(name for name, _ in self.colours[:1]), self.shape or "region"])


def describe(pixels: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"]) -> Appearance:
    """Describe the region that a mask marks.

    It is looked at on a copy of at most 128 pixels, so finer patterns are not seen. Names colours as they are in the
    picture: a white wall in the evening is orange.

    Args:
        pixels: RGB.
        mask: True inside the region.
    """
    if not mask.any():
        return Appearance((), "plain", "", ())
    pixels, mask = _close_up(pixels, mask)
    lab = to_lab(pixels)
    inside = _core(lab, mask)
    pattern = read_pattern(pixels, lab, inside)
    shares = _shares(pixels, inside, pattern)
    colours: dict[str, tuple[float, str]] = {}
    for share, part in sorted(zip(shares, pattern.parts, strict=True), key=lambda pair: -pair[0]):
        name = _term(pixels[part], pattern.name)
        known = colours.get(name, (0.0, tone(median(lab[part]), name)))
        colours[name] = (known[0] + share, known[1])
    return Appearance(
        colours=tuple((name, round(share, 3)) for name, (share, _) in colours.items()),
        pattern=pattern.name,
        shape=_shape(mask, inside, pattern),
        tones=tuple(word for _, word in colours.values()),
    )


def _shape(mask: Bool[ndarray, "h w"], inside: Bool[ndarray, "h w"], pattern: Pattern) -> str:
    """The shape, asked for more strictly where the surface does not look drawn."""
    if pattern.noise < FLAT or (inside.sum() <= SMALL and pattern.name != "plain"):
        return read_shape(mask)
    return read_shape(mask, sure=_SURE_SMOOTH if pattern.noise < DRAWN else _SURE_NATURAL, partial=False)


def _shares(pixels: UInt8[ndarray, "h w 3"], inside: Bool[ndarray, "h w"], pattern: Pattern) -> list[float]:
    """How much of a region each of its colours has; of a gradient, how far its mean is from the other end."""
    if pattern.name != "gradient":
        return [float(part.sum() / inside.sum()) for part in pattern.parts]
    first, last, mean = (pixels[part].mean(0) for part in (*pattern.parts, inside))
    line = last - first
    share = float(np.clip((mean - first) @ line / max(float(line @ line), 1e-9), 0, 1))
    return [1 - share, share]


def _close_up(pixels: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"]) -> tuple[ndarray, ndarray]:
    """The mask's own box, at the working size."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels, mask = np.ascontiguousarray(pixels[box]), np.ascontiguousarray(mask[box])
    scale = _SIDE / max(mask.shape)
    if scale >= 1:
        return pixels, mask
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), small >= min(0.5, float(small.max()))


def _core(lab: Float[ndarray, "h w 3"], mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask without the pixels that mix with what is around it, and without an outline if it has one."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    core = depth > 1.5
    if core.sum() < _LEAST_CORE:
        return core if core.sum() >= 4 else mask
    width = 1.5 + 0.055 * float(np.hypot(*mask.shape))
    shell, deep = core & (depth <= 0.6 * width + 0.6), depth > width
    if shell.sum() < _LEAST_CORE or deep.sum() < _LEAST_CORE:
        return core
    # an outline has one colour nearly all around, and that colour is rarer further in
    away = lab - _mode(lab[shell])
    near = (away * away).sum(-1) < 20**2
    if near[shell].mean() < 0.5 or near[deep].mean() > 0.2:
        return core
    line = cv2.dilate((near & core & ~deep).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return core & ~line


def _mode(values: Float[ndarray, "n 3"]) -> Float[ndarray, " 3"]:
    """The most common colour: the median of the fullest cell of a coarse grid in CIELAB."""
    cells = np.floor(values / 25).astype(np.int64) @ np.array([1, 64, 4096])
    found, member, counts = np.unique(cells, return_inverse=True, return_counts=True)
    return median(values[member == counts.argmax()])


def _term(pixels: UInt8[ndarray, "n 3"], pattern: str) -> str:
    """The term that most of these pixels have; at the end of a gradient, of the colour in their middle."""
    if pattern == "gradient":
        pixels = median(pixels)[None]
    return TERMS[int(np.bincount(terms(pixels), minlength=len(TERMS)).argmax())]
