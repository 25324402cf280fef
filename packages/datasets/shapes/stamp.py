"""Which pixels an outline covers, and how much of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

#: Bits after the point in coordinates given to OpenCV.
_SHIFT = 8


@dataclass(frozen=True)
class Footprint:
    """The part of a stamp that lies within an image: ``pixels`` of the image's ``region``."""

    region: tuple[slice, slice]
    pixels: Bool[np.ndarray, "_h _w"]

    @property
    def area(self) -> int:
        """Pixels covered."""
        return int(np.count_nonzero(self.pixels))

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the tight box in pixels, 0 where nothing is covered."""
        rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
        return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) if len(rows) else (0, 0)


@dataclass(frozen=True, eq=False)
class Stamp:
    """How much of each pixel an outline covers, in a crop that may reach beyond the image.

    Attributes:
        top: first row of the crop in the image; may be negative.
        left: first column.
        coverage: 0..255.
        contours: the outline, in pixels of the crop.
    """

    top: int
    left: int
    coverage: UInt8[np.ndarray, "_h _w"]
    contours: list[np.ndarray]

    @cached_property
    def mask(self) -> Bool[np.ndarray, "_h _w"]:
        """Pixels of which at least half is covered."""
        return self.coverage >= 128

    @cached_property
    def area(self) -> int:
        """Pixels of the mask, those beyond the image too."""
        return int(np.count_nonzero(self.mask))

    @property
    def centre(self) -> Float[np.ndarray, " 2"]:
        """x and y of the crop's middle, in pixels."""
        height, width = self.coverage.shape
        return np.array([self.left + width / 2, self.top + height / 2])

    def meets(self, other: Stamp) -> bool:
        """Whether the crops overlap or touch."""
        return all(
            a < b + n and b < a + m
            for a, m, b, n in (
                (self.top, self.coverage.shape[0], other.top, other.coverage.shape[0]),
                (self.left, self.coverage.shape[1], other.left, other.coverage.shape[1]),
            )
        )

    def crop(self, size: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What lies within an image of ``(height, width)``: where in the image, where in the stamp."""
        inside, own = [], []
        for start, length, limit in zip((self.top, self.left), self.coverage.shape, size, strict=False):
            low, high = max(start, 0), max(min(start + length, limit), max(start, 0))
            inside.append(slice(low, high))
            own.append(slice(low - start, high - start))
        return (inside[0], inside[1]), (own[0], own[1])

    def within(self, size: tuple[int, ...]) -> Footprint:
        """The mask's part within an image of ``(height, width)``."""
        region, own = self.crop(size)
        return Footprint(region, self.mask[own])


def rasterise(contours: Sequence[np.ndarray]) -> Stamp:
    """Cover pixels with an outline.

    Args:
        contours: each ``(k, 2)``, x and y in pixels, where pixel 0 reaches from 0 to 1; the second one is a hole.
    """
    left, top = (int(x) for x in np.floor(contours[0].min(0)))
    right, bottom = (int(x) for x in np.ceil(contours[0].max(0)))
    local = [c - [left, top] for c in contours]
    return Stamp(top, left, cover(local, bottom - top, right - left), local)


def cover(contours: Sequence[np.ndarray], height: int, width: int, line: float = 0.0) -> np.ndarray:
    """Supersampled coverage of the inside of contours, or of a line along them, 0..255."""
    fine = 8 if max(height, width) <= 64 else 4
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    points = [np.rint((c * fine - 0.5) * (1 << _SHIFT)).astype(np.int32) for c in contours]
    if line:
        cv2.polylines(canvas, points, True, 255, max(1, round(line * fine)), cv2.LINE_8, _SHIFT)
    else:
        cv2.fillPoly(canvas, points, 255, cv2.LINE_8, _SHIFT)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
