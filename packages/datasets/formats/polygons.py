"""Masks as polygons and back.

A mask's contours go through the centres of its outermost pixels, as OpenCV's and supervision's do. All of
them, those of holes too, are joined into one ring that returns to where each began; by the even-odd rule the
seams enclose nothing. Read back, the ring falls apart at these places, so that the mask is the same to the pixel.
Others that read it draw the seams as lines of one pixel.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int

from scenewright.layout import RunLengths, coco


def ring(mask: RunLengths) -> Int[np.ndarray, "k 2"]:
    """One closed line around all parts and holes of a mask.

    Returns:
        ``(k, 2)``, x and y of pixel centres counted from 0; empty for an empty mask.
    """
    picture = mask.decode().numpy().astype(np.uint8)
    contours, _ = cv2.findContours(picture, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # each part ends where it began, twice: a contour may well pass there on its way, but it does not stay
    parts = [np.concatenate([x[:, 0], x[:1, 0], x[:1, 0]]) for x in contours]
    back = [part[:1] for part in parts[-2::-1]]  # over the seams to where the first began
    return np.concatenate([*parts, *back]).astype(np.int64) if parts else np.zeros((0, 2), np.int64)


def from_ring(points: Float[np.ndarray, "k 2"], height: int, width: int) -> RunLengths:
    """The mask inside a line, by the even-odd rule; points outside the image are moved to its border."""
    limits = np.array([width - 1, height - 1])
    pixels = np.rint(points).clip(0, limits).astype(np.int32)
    picture = np.zeros((height, width), np.uint8)
    if len(pixels):
        cv2.fillPoly(picture, _parts(pixels), (1,))
    return RunLengths.encode(torch.from_numpy(picture.astype(bool))[None])[0]


def _parts(pixels: Int[np.ndarray, "k 2"]) -> list[np.ndarray]:
    """A ring's parts: one ends where the line comes back to where the part began, and stays there."""
    parts, start = [], 0
    stays = np.append((pixels[1:] == pixels[:-1]).all(1), False)
    while start < len(pixels):
        ends = np.flatnonzero(stays[start + 1 :] & (pixels[start + 1 :] == pixels[start]).all(1))
        if not len(ends):
            break
        parts.append(pixels[start : start + 3 + int(ends[0])])
        start += 3 + int(ends[0])
    # what is left is the way back, unless nobody joined anything
    return parts or [pixels]


def outlines(mask: RunLengths) -> list[list[float]] | None:
    """COCO's polygons of a mask: lines along its pixels' edges, one for each part.

    Returns:
        for each part ``[x, y, x, y, …]``; None for a mask with holes, which COCO's polygons cannot say, and
        for an empty one.
    """
    picture = mask.decode().numpy().astype(np.uint8)
    # four pixels for each one: a contour through the outer ones' centres stays a quarter pixel from the edge
    contours, tree = cv2.findContours(picture.repeat(2, 0).repeat(2, 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours or (tree[0, :, 3] >= 0).any():
        return None
    return [_on_edges(x[:, 0]) for x in contours]


def _on_edges(contour: Int[np.ndarray, "k 2"]) -> list[float]:
    """Centres of half pixels, moved to the corner of the pixel that they lie next to."""
    return ((contour + 1) // 2).astype(float).ravel().tolist()


def inside(points: Float[np.ndarray, "k 2"], height: int, width: int) -> RunLengths:
    """The mask inside a line that people drew, by the even-odd rule; pixel i reaches from i to i + 1."""
    line = points.clip(0, [width, height]).ravel().tolist()
    # fewer than three points enclose nothing, and pycocotools takes four numbers for a box
    drawn = [line] if len(line) >= 6 else [[0.0] * 6]
    return RunLengths((height, width), coco.merge(coco.frPyObjects(drawn, height, width))["counts"])


def shape_of(sequence: Sequence[float]) -> Float[np.ndarray, "k 2"]:
    """``[x, y, x, y, …]`` as points."""
    return np.asarray(sequence, dtype=np.float64).reshape(-1, 2)
