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

#: Rows and columns of a crop.
Region = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Stamp:
    """How much of each pixel an outline covers, in a crop that may reach beyond the image.

    Attributes:
        top: first row of the crop in the image; may be negative.
        left: first column; may be negative.
        coverage: 0..255.
        contours: the outline, x and y in pixels of the crop.
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
    def centre(self) -> tuple[float, float]:
        """x and y of the crop's middle in the image."""
        height, width = self.coverage.shape
        return self.left + width / 2, self.top + height / 2

    def meets(self, other: Stamp) -> bool:
        """Whether the crops overlap or touch."""
        (h, w), (other_h, other_w) = self.coverage.shape, other.coverage.shape
        rows = self.top <= other.top + other_h and other.top <= self.top + h
        return rows and self.left <= other.left + other_w and other.left <= self.left + w

    def crop(self, height: int, width: int) -> tuple[Region, Region]:
        """What lies within an image of that size: where in the image, where in the stamp."""
        rows, own_rows = _overlap(self.top, self.coverage.shape[0], height)
        columns, own_columns = _overlap(self.left, self.coverage.shape[1], width)
        return (rows, columns), (own_rows, own_columns)


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    low = min(max(start, 0), limit)
    high = max(min(start + length, limit), low)
    return slice(low, high), slice(low - start, high - start)


def sides(mask: Bool[np.ndarray, "_h _w"]) -> tuple[int, int]:
    """Height and width of the tight box of a mask in pixels; both 0 where it is empty."""
    _, _, width, height = cv2.boundingRect(mask.view(np.uint8))
    return height, width


def rasterise(contours: Sequence[Float[np.ndarray, "_k 2"]]) -> Stamp:
    """Cover pixels with the inside of an outline.

    Args:
        contours: x and y in pixels, where the first pixel reaches from 0 to 1; the second contour is a hole.

    Returns:
        The coverage in the smallest crop that holds the outline.
    """
    left, top = (int(x) for x in np.floor(contours[0].min(0)))
    right, bottom = (int(x) for x in np.ceil(contours[0].max(0)))
    local = [contour - (left, top) for contour in contours]
    return Stamp(top, left, cover(local, bottom - top, right - left), local)


def cover(
    contours: Sequence[np.ndarray], height: int, width: int, line: float = 0.0
) -> UInt8[np.ndarray, "{height} {width}"]:
    """How much of each pixel of a crop lies inside contours, 0..255; or on a line of a width along them."""
    fine = next(n for n, limit in ((8, 64), (4, 1024), (2, np.inf)) if max(height, width) <= limit)
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    points = [np.rint((contour * fine - 0.5) * (1 << _SHIFT)).astype(np.int32) for contour in contours]
    if line:
        cv2.polylines(canvas, points, True, 255, max(1, round(line * fine)), cv2.LINE_8, _SHIFT)
    else:
        cv2.fillPoly(canvas, points, 255, cv2.LINE_8, _SHIFT)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
