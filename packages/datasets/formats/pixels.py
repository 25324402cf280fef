"""Boxes in whole and broken pixels."""

import numpy as np
from jaxtyping import Float, Int

from scenewright.layout import Layout


def corners(layout: Layout, height: int, width: int) -> Float[np.ndarray, "n 4"]:
    """Boxes in pixels, in double precision: a fraction that stands for a whole pixel gives a whole pixel.

    A float32 fraction is off by up to 2⁻²⁵ of the side, and a box at pixel 45 must not become 44.99999.
    """
    sides = np.array([width, height, width, height], dtype=np.float64)
    boxes = layout.boxes.cpu().numpy().astype(np.float64) * sides
    nearest = np.rint(boxes)
    return np.where(np.abs(boxes - nearest) <= sides * 2.0**-23, nearest, boxes)


def xywh(layout: Layout, height: int, width: int) -> list[list[float]]:
    """Left, top, width and height in pixels, to a millionth."""
    boxes = corners(layout, height, width)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.round(6).tolist()


def truncated(boxes: Float[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
    """Left, top, width and height of boxes whose corners are truncated towards zero.

    Source: InstanceDiffusion's data generation, Wang et al. 2024, arXiv 2402.03290.
    """
    whole = np.trunc(boxes).astype(np.int64)
    whole[:, 2:] -= whole[:, :2]
    return whole
