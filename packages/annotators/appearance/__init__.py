"""What pixels alone say about a region: colour terms, pattern, shape, tone. No weights, no names of things."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from scenewright.annotators.appearance.colours import TERMS, terms, to_lab, tone
from scenewright.annotators.appearance.patterns import read_pattern
from scenewright.annotators.appearance.silhouettes import read_shape

__all__ = ["Appearance", "describe"]

_SIDE = 128  # longest side at which a region is looked at


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
    shape = read_shape(mask)
    inside = _without_rim(mask)
    lab = to_lab(pixels)
    pattern = read_pattern(lab, inside)
    parts = [inside & ~pattern.second, pattern.second] if pattern.second.any() else [inside]
    seen = [(_term(pixels[part]), float(part.sum() / inside.sum()), np.median(lab[part], axis=0)) for part in parts]
    if len(seen) == 2 and seen[0][0] == seen[1][0]:
        seen = [(seen[0][0], 1.0, np.median(lab[inside], axis=0))]
    return Appearance(
        colours=tuple((name, round(share, 3)) for name, share, _ in seen),
        pattern=pattern.name,
        shape=shape,
        tones=tuple(tone(middle, name) for name, _, middle in seen),
    )


def _close_up(pixels: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"]) -> tuple[ndarray, ndarray]:
    """The mask's own box, at the working size."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels, mask = pixels[box], mask[box]
    scale = _SIDE / max(mask.shape)
    if scale >= 1:
        return pixels, mask
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), small >= min(0.5, float(small.max()))


def _without_rim(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask without the pixels that mix with what is around it, unless nothing else is left."""
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    for rim in (2.5, 1.5):
        core = depth > rim
        if core.sum() > 0.35 * mask.sum():
            return core
    return mask


def _term(pixels: UInt8[ndarray, "n 3"]) -> str:
    """The term that most of these pixels have."""
    return TERMS[int(np.bincount(terms(pixels), minlength=len(TERMS)).argmax())]
