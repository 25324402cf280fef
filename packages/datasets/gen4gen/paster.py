"""Cut-outs on one empty canvas, as a plan has them.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image as PILImage
from torch import Tensor

from scenewright.datasets.gen4gen.records import Composition, Cutout, LayoutPlan, Pasted
from scenewright.datasets.gen4gen.sizing import ANCHORS, Placement, place, place_compat

_ORDERS = ("area", "bottom")
_VISIBLE = 70 / 255  # what a cut-out must reach somewhere to be seen at all; the reference's threshold
_ROUNDING = 1e-4  # by how much alpha may miss its range; blurs in float32 do
_SHIFT = 100  # a shift is at most the canvas's side over this


@dataclass
class _Picture:
    """A cut-out at its final size: colour times alpha, in [0, 255], and alpha, in [0, 1]."""

    planes: Float[ndarray, "4 h w"]
    place: Placement
    flipped: bool = False
    angle: float = 0.0
    shift: tuple[int, int] = (0, 0)

    @property
    def rows_and_columns(self) -> tuple[slice, slice]:
        left, top, width, height = self.place
        return slice(top, top + height), slice(left, left + width)


class Paster:
    """Brings cut-outs to their size and lays them over each other, colour untouched.

    What a seed, a plan and its cut-outs give is always the same. A cut-out at its own size keeps every value; edges
    stay as soft as they are, and colour is scaled multiplied with alpha, so nothing of the old background shines
    through. All of a cut-out is on the canvas, unless another one is above it.

    Args:
        anchor: "center" or "bottom": where in its box a cut-out lies that does not fill it.
        order: "area": larger ones below smaller ones; "bottom": those whose lower side is higher, which are farther
            away, below the others.
        hflip: mirror each with probability ½.
        rotate: degrees up to which each is turned with probability ½, to either side; its corners stay in its box.
        shift: move each with probability ½ by up to a hundredth of the canvas.
        compat: everything as the reference does it: sizes and places (``place_compat``), what overlaps others most at
            the bottom, colour scaled without alpha, masks multiplied with themselves.

    Raises:
        ValueError: an anchor, order or angle that there is not.
    """

    def __init__(
        self,
        anchor: str = "center",
        order: str = "area",
        hflip: bool = False,
        rotate: float = 0.0,
        shift: bool = False,
        compat: bool = False,
    ) -> None:
        if anchor not in ANCHORS:
            raise ValueError(f"anchor must be one of {', '.join(ANCHORS)}, got {anchor!r}")
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {', '.join(_ORDERS)}, got {order!r}")
        if not 0 <= rotate <= 90:
            raise ValueError(f"rotate must be from 0 to 90 degrees, got {rotate}")
        self.anchor, self.order, self.compat = anchor, order, compat
        self.hflip, self.rotate, self.shift = hflip, rotate, shift

    def compose(self, plan: LayoutPlan, cutouts: Sequence[Cutout], height: int, width: int, seed: int) -> Composition:
        """Paste one cut-out per box of the plan, in the plan's order of things.

        Raises:
            ValueError: the plan has no boxes, or not as many as there are cut-outs, or one without area; a cut-out
                shows nothing.
        """
        if plan.boxes is None:
            raise ValueError(f"the plan has no boxes: {plan.error or 'no reason is given'}")
        if len(plan.boxes) != len(cutouts) or not cutouts:
            raise ValueError(f"one cut-out per box is needed, got {len(cutouts)} and {len(plan.boxes)} boxes")
        for i, cutout in enumerate(cutouts):
            _check(cutout, i)
        boxes = plan.boxes.double().numpy() * (width, height, width, height)
        draws = np.random.default_rng(seed).random((len(cutouts), 6))
        make = self._pictures_compat if self.compat else self._pictures
        pictures = make(boxes, cutouts, plan.ratios, draws, height, width)
        return _overlaid(pictures, self._bottom_up([x.place for x in pictures]), height, width, self.compat)

    def _pictures(
        self,
        boxes: Float[ndarray, "n 4"],
        cutouts: Sequence[Cutout],
        ratios: Sequence[float],
        draws: Float[ndarray, "n 6"],
        height: int,
        width: int,
    ) -> list[_Picture]:
        angles = [self._angle(x) for x in draws]
        sizes = [_turned(x.alpha.shape[1], x.alpha.shape[0], a) for x, a in zip(cutouts, angles, strict=True)]
        places = place(boxes, sizes, height, width, ratios, self.anchor)
        found = []
        for i, cutout in enumerate(cutouts):
            flipped = bool(self.hflip and draws[i, 0] < 0.5)
            moved, shift = self._shifted(places[i], draws[i], height, width)
            planes = np.stack(cv2.split(_scaled(cutout, places[i], angles[i], flipped)))
            found.append(_Picture(planes, moved, flipped, angles[i], shift))
        return found

    def _angle(self, draws: Float[ndarray, " 6"]) -> float:
        return float((2 * draws[2] - 1) * self.rotate) if draws[1] < 0.5 else 0.0

    def _shifted(
        self, place: Placement, draws: Float[ndarray, " 6"], height: int, width: int
    ) -> tuple[Placement, tuple[int, int]]:
        """The place moved a little, but not off the canvas, and how far it was moved."""
        if not self.shift or draws[3] >= 0.5:
            return place, (0, 0)
        x, y = (round((2 * u - 1) * side / _SHIFT) for u, side in zip(draws[4:], (width, height), strict=True))
        left = min(max(place.left + x, 0), width - place.width)
        top = min(max(place.top + y, 0), height - place.height)
        return place._replace(left=left, top=top), (left - place.left, top - place.top)

    def _pictures_compat(
        self,
        boxes: Float[ndarray, "n 4"],
        cutouts: Sequence[Cutout],
        ratios: Sequence[float],
        draws: Float[ndarray, "n 6"],
        height: int,
        width: int,
    ) -> list[_Picture]:
        cropped = []
        for cutout, u in zip(cutouts, draws, strict=True):
            flipped, angle = bool(self.hflip and u[0] < 0.5), round(self._angle(u))
            pixels = _turned_compat(_interleaved(cutout), flipped, angle)
            cropped.append((_tight_compat(pixels, cutout), flipped, float(angle)))
        places = place_compat(boxes, [(x.shape[1], x.shape[0]) for x, _, _ in cropped], height, width, ratios)
        found = []
        for (pixels, flipped, angle), where, u in zip(cropped, places, draws, strict=True):
            moved, shift = self._shifted(where, u, height, width)
            planes = [_bicubic_compat(pixels[..., k], (where.width, where.height)) for k in range(4)]
            alpha = planes.pop() / 255
            found.append(_Picture(np.stack([*(x * alpha for x in planes), alpha]), moved, flipped, angle, shift))
        return found

    def _bottom_up(self, places: Sequence[Placement]) -> list[int]:
        """Which is pasted first, second, ..."""
        if self.compat:
            return _by_overlap(places)
        if self.order == "area":
            return sorted(range(len(places)), key=lambda i: -places[i].width * places[i].height)
        return sorted(range(len(places)), key=lambda i: places[i].top + places[i].height)


def _check(cutout: Cutout, index: int) -> None:
    """Raises: ValueError, there is nothing to paste."""
    what = f"cut-out {index} ({cutout.name})"
    if cutout.image.shape[1:] != cutout.alpha.shape:
        raise ValueError(f"{what} must have one alpha per pixel, got {cutout.image.shape} and {cutout.alpha.shape}")
    low, high = (float(x) for x in cutout.alpha.aminmax()) if cutout.alpha.numel() else (0.0, 0.0)
    if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise ValueError(f"alpha of {what} must be from 0 to 1, got values from {low} to {high}")
    if high <= _VISIBLE:
        raise ValueError(f"{what} shows nothing: its alpha is nowhere above {_VISIBLE:.2f}")


def _turned(width: int, height: int, angle: float) -> tuple[float, float]:
    """Width and height of what holds a rectangle that was turned."""
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    return width * cos + height * sin, width * sin + height * cos


def _scaled(cutout: Cutout, place: Placement, angle: float, flipped: bool) -> Float[ndarray, "h w 4"]:
    """A cut-out's colour times alpha, and its alpha, at the size of its place."""
    alpha = cutout.alpha.float().clamp(0, 1).cpu().numpy()
    pixels = cv2.merge([*(plane * alpha for plane in cutout.image.cpu().numpy()), alpha])
    if flipped:
        pixels = cv2.flip(pixels, 1)
    height, width = alpha.shape
    size = (place.width, place.height)
    if size == (width, height) and not angle:
        return pixels
    if not angle and size[0] <= width and size[1] <= height:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if angle:
        whole = _turned(width, height, angle)
        scale = min(place.width / whole[0], place.height / whole[1])
        inner = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
        pixels = _rotated(_resized(pixels, inner), size, angle)
    else:
        pixels = _resized(pixels, size)
    return _without_overshoot(pixels)


def _without_overshoot(pixels: Float[ndarray, "h w 4"]) -> Float[ndarray, "h w 4"]:
    """Bring what cubics made too large or negative back into its range; colour follows alpha, so it stays the same."""
    alpha = pixels[..., 3:]
    pixels /= np.maximum(alpha, 1)
    np.clip(alpha, 0, 1, out=alpha)
    np.clip(pixels[..., :3], 0, 255 * alpha, out=pixels[..., :3])
    return pixels


def _resized(pixels: Float[ndarray, "h w 4"], size: tuple[int, int]) -> Float[ndarray, "_h _w 4"]:
    """Pixels at another size (width, height), averaged where it is smaller."""
    shrinks = size[0] < pixels.shape[1] or size[1] < pixels.shape[0]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _rotated(pixels: Float[ndarray, "h w 4"], size: tuple[int, int], angle: float) -> Float[ndarray, "_h _w 4"]:
    """Pixels turned counter-clockwise around their middle, in the middle of another size (width, height)."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    matrix[:, 2] += ((size[0] - width) / 2, (size[1] - height) / 2)
    return cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_CUBIC)


def _overlaid(
    pictures: Sequence[_Picture], order: Sequence[int], height: int, width: int, squared: bool
) -> Composition:
    """Lay pictures over each other in this order; with ``squared``, masks are pasted through themselves."""
    canvas = np.zeros((4, height, width), np.float32)
    alphas = [np.zeros((height, width), np.float32) for _ in pictures]
    visible = list(alphas)
    for done, i in enumerate(order):
        planes, at = pictures[i].planes, pictures[i].rows_and_columns
        left = 1 - planes[3]
        if squared:
            planes[3] **= 2
        part = canvas[:, *at]
        part *= left
        part += planes
        alphas[i][at] = planes[3]
        for below in order[:done]:
            if alphas[below][at].any():
                if visible[below] is alphas[below]:
                    visible[below] = alphas[below].copy()
                visible[below][at] *= left
    image = np.empty((3, height, width), np.uint8)
    for plane, colour in zip(image, canvas[:3], strict=True):
        cv2.convertScaleAbs(colour, dst=plane)  # rounds
    union = canvas[3].copy()  # lets go of the rest
    pasted = [
        _pasted(picture, torch.from_numpy(alphas[i]), torch.from_numpy(visible[i]), order.index(i))
        for i, picture in enumerate(pictures)
    ]
    return Composition(torch.from_numpy(image), torch.from_numpy(union), pasted)


def _pasted(picture: _Picture, alpha: Float[Tensor, "_h _w"], visible: Float[Tensor, "_h _w"], order: int) -> Pasted:
    left, top, width, height = picture.place
    return Pasted(alpha, visible, (left, top), (height, width), order, picture.flipped, picture.angle, picture.shift)


def _interleaved(cutout: Cutout) -> ndarray:
    """Colour and alpha as (h, w, 4), 0..255."""
    alpha = (cutout.alpha.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.cat([cutout.image, alpha[None]]).permute(1, 2, 0).contiguous().numpy()


def _turned_compat(pixels: ndarray, flipped: bool, angle: int) -> ndarray:
    """Mirrored and turned within its own frame, corners cut off."""
    pixels = np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels
    if not angle:
        return pixels
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_NEAREST)


def _tight_compat(pixels: ndarray, cutout: Cutout) -> ndarray:
    """What a mask above 70 spans, without its last row and column."""
    rows, columns = (np.flatnonzero((pixels[..., 3] > 70).any(axis)) for axis in (1, 0))
    if len(rows) < 2 or len(columns) < 2:
        raise ValueError(f"the cut-out of {cutout.name} shows nothing, or a line only")
    return pixels[rows[0] : rows[-1], columns[0] : columns[-1]]


def _bicubic_compat(plane: ndarray, size: tuple[int, int]) -> Float[ndarray, "h w"]:
    resized = PILImage.fromarray(np.ascontiguousarray(plane)).resize(size, PILImage.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)


def _by_overlap(places: Sequence[Placement]) -> list[int]:
    """What overlaps the others most comes first."""
    sums = [sum(_iou(x, y) for y in places if y is not x) for x in places]
    return sorted(range(len(places)), key=lambda i: -sums[i])


def _iou(a: Placement, b: Placement) -> float:
    x = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    y = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    both = max(x, 0) * max(y, 0)
    return both / (a.width * a.height + b.width * b.height - both)
