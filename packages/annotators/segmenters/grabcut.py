"""GrabCut: cuts out each box by colour, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from scenewright.layout import Image, Layout, RunLengths

_LEAST_SIDE = 6  # pixels of a crop's shorter side below which there is nothing to learn colours from
_LARGEST = 3.0  # times that a small crop is magnified: thin parts survive the cut, which prefers short outlines
_COMMON = 14.0  # ΔE within which a colour is that of the surroundings
_SOFTNESS = 0.7  # pixels: the deviation of a soft edge
_SEED = 0


class GrabCut:
    """Separates the colours inside each box from those around it.

    Starts from the box, or from the layout's own mask where there is one, and models foreground and background by five
    Gaussians each. Knows no objects: where a thing has the colours of what is behind it, the outline is wrong; where
    two things of one colour touch, they become one, but never far beyond the box. Holes stay holes. Where the cut
    finds nothing or everything, or the crop is tiny or of one colour, the mask is the layout's own, else the filled
    box. A box without area has an empty mask.

    Args:
        side: longest side in pixels at which a crop is cut; its outline is then brought to the image's size.
        iterations: of fitting colours and cutting.
        context: how far the crop reaches beyond the box, as a share of the box's sides.
        slack: how far the mask may reach beyond the box, likewise.

    Source: Rother, Kolmogorov & Blake 2004, "GrabCut"; OpenCV's implementation.
    """

    def __init__(self, side: int = 96, iterations: int = 2, context: float = 0.35, slack: float = 0.1) -> None:
        self.side, self.iterations, self.context, self.slack = side, iterations, context, slack

    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
        """One mask per region, in the layout's order, at the size of its image.

        Raises:
            ValueError: as many layouts as images are needed; a layout's mask has another size than its image.
        """
        return [
            [run for mask, _ in self._segment(image, layout) for run in RunLengths.encode(torch.from_numpy(mask)[None])]
            for image, layout in zip(images, layouts, strict=True)
        ]

    def segment_alpha(
        self, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> list[list[tuple[Float[Tensor, "_h _w"], float]]]:
        """The same masks with soft edges of about two pixels, on the images' devices, each with a confidence.

        The cut knows no degrees: the confidence is 1 for what was cut, 0 where the mask is the layout's own, the
        filled box or empty.

        Raises:
            ValueError: as many layouts as images are needed; a layout's mask has another size than its image.
        """
        return [
            [(_softened(mask).to(image.device), float(cut)) for mask, cut in self._segment(image, layout)]
            for image, layout in zip(images, layouts, strict=True)
        ]

    def _segment(self, image: Image, layout: Layout) -> Iterator[tuple[Bool[ndarray, "h w"], bool]]:
        """The mask of each region, and whether it was cut."""
        height, width = image.shape[1:]
        boxes = layout.pixel_boxes(height, width).cpu().double().nan_to_num().numpy()
        seeds = _decode(layout, height, width)
        taken = np.zeros((height, width), np.uint8)  # by how many regions
        for seed in seeds:
            taken += seed
        for index, box in enumerate(boxes):
            seed = seeds[index] if seeds and seeds[index].any() else None
            yield self._cut(image, box, seed, taken)

    def _cut(
        self, image: Image, box: ndarray, seed: Bool[ndarray, "h w"] | None, taken: UInt8[ndarray, "h w"]
    ) -> tuple[Bool[ndarray, "h w"], bool]:
        """The mask of one region, and whether it was cut."""
        height, width = image.shape[1:]
        whole = np.zeros((height, width), bool)
        left, top, right, bottom = _whole_pixels(box, height, width)
        if right <= left or bottom <= top:
            return whole if seed is None else seed, False
        x0, x1 = _widen(left, right, self.context, width)
        y0, y1 = _widen(top, bottom, self.context, height)
        crop = image[:, y0:y1, x0:x1].permute(1, 2, 0).contiguous().cpu().numpy()
        inner = (left - x0, top - y0, right - x0, bottom - y0)
        start = None if seed is None else seed[y0:y1, x0:x1]
        others = taken[y0:y1, x0:x1] > 0
        found = self._cut_crop(crop, inner, start, others if start is None else others & ~start)
        if found is None:
            whole[top:bottom, left:right] = True
            return whole if seed is None else seed, False
        whole[y0:y1, x0:x1] = found
        return whole, True

    def _cut_crop(
        self,
        crop: UInt8[ndarray, "h w 3"],
        box: tuple[int, int, int, int],
        seed: Bool[ndarray, "h w"] | None,
        others: Bool[ndarray, "h w"],
    ) -> Bool[ndarray, "h w"] | None:
        """The mask of a region in its crop, or None where it cannot be cut."""
        height, width = crop.shape[:2]
        scale = min(_LARGEST, self.side / max(height, width))
        size = (round(width * scale), round(height * scale))
        if min(height, width, *size) < _LEAST_SIDE or crop.reshape(-1, 3).std(0).max() < 1:
            return None
        small = _resize(crop, size)
        x, y = size[0] / width, size[1] / height
        small_box = (round(box[0] * x), round(box[1] * y), round(box[2] * x), round(box[3] * y))
        start = None if seed is None else _resize(seed, size)
        guess = _guess(size, small_box, start, self.slack)
        guess[_resize(others, size) & (guess != cv2.GC_FGD)] = cv2.GC_BGD
        found = _grabcut(small, _without_surroundings(small, guess, small_box), self.iterations)
        if found is None:
            return None
        found = _clean(found, start)
        if found[guess != cv2.GC_BGD].mean() > 0.98:
            return None
        mask = _resize(found, (width, height))
        expected = (box[2] - box[0]) * (box[3] - box[1]) if seed is None else seed.sum()
        return mask if mask.sum() >= max(1, 0.04 * expected) else None


def _decode(layout: Layout, height: int, width: int) -> list[Bool[ndarray, "h w"]]:
    """The layout's own masks, or none.

    Raises:
        ValueError: one has another size than the image.
    """
    for mask in layout.masks or []:
        if tuple(mask.size) != (height, width):
            raise ValueError(f"masks must have the image's size {(height, width)}, got {tuple(mask.size)}")
    return [mask.decode().numpy() for mask in layout.masks or []]


def _softened(mask: Bool[ndarray, "h w"]) -> Float[Tensor, "h w"]:
    return torch.from_numpy(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), _SOFTNESS).clip(0, 1))


def _resize(plane: ndarray, size: tuple[int, int]) -> ndarray:
    """Pixels or a mask at another size (width, height); a mask's steps are rounded off where it grows."""
    if size == plane.shape[1::-1]:
        return plane
    shrinks = size[0] < plane.shape[1]
    if plane.dtype != bool:
        return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    soft = plane.astype(np.float32)
    if shrinks:
        return cv2.resize(soft, size, interpolation=cv2.INTER_AREA) >= 0.5
    return cv2.resize(cv2.GaussianBlur(soft, (0, 0), 0.6), size, interpolation=cv2.INTER_CUBIC) >= 0.5


def _whole_pixels(box: ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """A box in whole pixels within the image."""
    x0, y0, x1, y1 = (float(v) for v in box)
    left, right = (min(max(v, 0), width) for v in (round(x0), round(x1)))
    top, bottom = (min(max(v, 0), height) for v in (round(y0), round(y1)))
    # a box that rounding made vanish still has one pixel
    if right == left and x1 > x0:
        left = min(int(max(x0, 0)), width - 1)
        right = left + 1
    if bottom == top and y1 > y0:
        top = min(int(max(y0, 0)), height - 1)
        bottom = top + 1
    return left, top, right, bottom


def _widen(low: int, high: int, share: float, limit: int) -> tuple[int, int]:
    margin = max(4, round(share * (high - low)))
    return max(0, low - margin), min(limit, high + margin)


def _guess(
    size: tuple[int, int], box: tuple[int, int, int, int], seed: Bool[ndarray, "h w"] | None, slack: float
) -> UInt8[ndarray, "h w"]:
    """What each pixel is before the cut: surely or probably background or foreground."""
    width, height = size
    left, top, right, bottom = box
    out_x, out_y = (max(1, round(slack * (b - a))) for a, b in ((left, right), (top, bottom)))
    guess = np.full((height, width), cv2.GC_BGD, np.uint8)
    guess[max(0, top - out_y) : bottom + out_y, max(0, left - out_x) : right + out_x] = cv2.GC_PR_BGD
    possible = guess == cv2.GC_PR_BGD
    if seed is None or not (seed & possible).any():
        guess[top:bottom, left:right] = cv2.GC_PR_FGD
    else:
        reach = max(1, round(0.06 * max(right - left, bottom - top)))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        plane = seed.astype(np.uint8)
        guess[possible & (plane > 0)] = cv2.GC_PR_FGD
        guess[possible & (cv2.erode(plane, disc, borderValue=0) > 0)] = cv2.GC_FGD
    if (guess == cv2.GC_BGD).mean() < 0.05:  # the box is the image, or nearly: what is at its rim is likely background
        rim = max(1, round(0.04 * min(size)))
        frame = np.ones((height, width), bool)
        frame[rim : height - rim, rim : width - rim] = False
        guess[frame & (guess == cv2.GC_PR_FGD)] = cv2.GC_PR_BGD
    return guess


def _without_surroundings(
    pixels: UInt8[ndarray, "h w 3"], guess: UInt8[ndarray, "h w"], box: tuple[int, int, int, int]
) -> UInt8[ndarray, "h w"]:
    """Make what has a common colour of the surroundings probable background, unless that is nearly all of the box.

    Without this the hole of a ring starts as foreground, and often stays it.
    """
    cells = (pixels >> 4).astype(np.int32) @ np.array([256, 16, 1])
    around = np.ones(guess.shape, bool)
    around[box[1] : box[3], box[0] : box[2]] = False
    if around.sum() < 20:
        return guess
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    found, member, counts = np.unique(cells[around], return_inverse=True, return_counts=True)
    common = counts >= max(3, 0.02 * around.sum())
    if not common.any():
        return guess
    sums = np.stack([np.bincount(member, lab[..., i][around], len(found)) for i in range(3)], 1)
    centres = (sums[common] / counts[common, None]).astype(np.float32)
    candidates = guess == cv2.GC_PR_FGD
    near = np.zeros(guess.shape, bool)
    # |a - b|² = |a|² - 2 a·b + |b|²
    inner = lab[candidates]
    apart = (inner**2).sum(1)[:, None] - 2 * inner @ centres.T + (centres**2).sum(1)
    near[candidates] = apart.min(1) < _COMMON**2
    if (candidates & ~near).sum() < 0.15 * candidates.sum():
        return guess
    return np.where(near, cv2.GC_PR_BGD, guess).astype(np.uint8)


def _grabcut(pixels: UInt8[ndarray, "h w 3"], guess: UInt8[ndarray, "h w"], iterations: int) -> ndarray | None:
    """OpenCV's cut, or None where one side has too few pixels for its five Gaussians."""
    background = (guess == cv2.GC_BGD) | (guess == cv2.GC_PR_BGD)
    if min(background.sum(), (~background).sum()) < 10:
        return None
    cv2.setRNGSeed(_SEED)  # it starts from k-means
    mask, models = guess.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.grabCut(pixels, mask, (0, 0, 0, 0), *models, iterations, cv2.GC_INIT_WITH_MASK)
    return (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)


def _clean(found: Bool[ndarray, "h w"], seed: Bool[ndarray, "h w"] | None) -> Bool[ndarray, "h w"]:
    """The pieces that belong: the largest, others not much smaller, all that the seed touches; specks filled."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    if count < 2:
        return found
    sizes = stats[:, cv2.CC_STAT_AREA]
    weight = sizes if seed is None else np.bincount(pieces[seed], minlength=count)
    weight[0] = 0
    keep = weight >= 0.25 * max(1, weight.max())
    keep[0] = False
    kept = keep[pieces.astype(np.intp)]
    holes = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    specks = holes[2][:, cv2.CC_STAT_AREA] < max(2, 0.01 * kept.sum())
    specks[0] = False
    return kept | specks[holes[1].astype(np.intp)]
