"""What a model sees of a picture: resized, cropped and mirrored, with all that is known of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as PILImage
from torch import Tensor

from scenewright.layout import EncodedImage, Frame, Image, Layout, RunLengths, Sample

CROPS = ("center", "random", "none")

#: Words that are wrong in a mirror.
_SIDES = re.compile(r"\b(left|right)(most|wards?|handed|hand)?\b", re.IGNORECASE)

#: Pixels beside a crop that bicubic resampling looks at, in pixels of the smaller of both pictures, and one to spare.
_SUPPORT = 3

_Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Brings samples to the size that a model is trained at; boxes, masks, scores and words stay true.

    A picture is resized so that it covers the target, without distortion, and what sticks out is cropped.
    Everything random comes from the seed.

    Args:
        height: of the images that come out, in pixels.
        width: of the images that come out, in pixels.
        crop: "center", "random", or "none", which squashes the whole picture into the target.
        scale: least and most area of the crop, as a share of the largest crop of the target's shape, in (0, 1];
            None always takes the largest.
        flip: how often a sample is mirrored, in [0, 1].
        flip_sided: mirror samples too whose caption, labels or region captions say left or right.
        min_visibility: objects of whose box less than this share of the area is in the crop are left out, in
            [0, 1]; those beyond the crop always are.
        max_objects: where more are left, the ones with the largest boxes in the crop stay (of equal ones the first),
            in their order; None keeps all.
        masks: False leaves masks out, which saves their decoding where the model does not look at them.
        buckets: heights and widths to choose from instead of ``height`` and ``width``: the one whose aspect ratio
            is nearest, as a factor, to the picture's (of equal ones the first); None has one size.

    Raises:
        ValueError: an argument is out of its range.
    """

    height: int
    width: int
    crop: str = "center"
    scale: Sequence[float | int] | None = None
    flip: float | int = 0.0
    flip_sided: bool = False
    min_visibility: float | int = 0.3
    max_objects: int | None = None
    masks: bool = True
    buckets: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        # plain numbers and tuples: framings of equal settings have equal texts, wherever their settings came from
        object.__setattr__(self, "scale", None if self.scale is None else tuple(float(x) for x in self.scale))
        buckets = None if self.buckets is None else tuple(tuple(int(x) for x in size) for size in self.buckets)
        object.__setattr__(self, "buckets", buckets)
        for name in ("flip", "min_visibility"):
            object.__setattr__(self, name, float(getattr(self, name)))
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be one of {', '.join(CROPS)}, got {self.crop!r}")
        if self.max_objects is not None and self.max_objects < 0:
            raise ValueError(f"max_objects must be at least 0, or null for all, got {self.max_objects}")
        self._check_scale()
        self._check_sizes()

    def _check_scale(self) -> None:
        if self.scale is None:
            return
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be the least and the most area, within (0, 1], got {list(self.scale)}")
        if self.crop == "none":
            raise ValueError("scale needs crop=center or crop=random; crop=none takes the whole picture")

    def _check_sizes(self) -> None:
        if self.buckets is not None and not self.buckets:
            raise ValueError("buckets must name at least one size, or be null for one size")
        for size in self.sizes:
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"sizes must be height and width, both at least 1, got {list(size)}")

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Every height and width that may come out."""
        return [(self.height, self.width)] if self.buckets is None else [tuple(size) for size in self.buckets]

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that a picture of ``height`` by ``width`` is brought to."""
        aspect = math.log(height / width)
        h, w = min(self.sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
        return h, w

    def __call__(self, sample: Sample, seed: int) -> tuple[Sample, Frame]:
        """Frame a sample.

        Args:
            sample: its image is decoded here.
            seed: not negative.

        Returns:
            The sample as the model sees it, and what that shows of the picture; the corner is that of the
            mirrored picture where it was mirrored. Where nothing changes, the sample itself.
            Regions that filters had dropped do not come along.

        Raises:
            OSError: the image cannot be read.
            ValueError: there is none.
        """
        draws = np.random.default_rng(seed).random(4).tolist()  # all at once: no choice shifts the others
        height, width = sample.image.shape[1:]
        view = self._view((height, width), draws)
        mirrored = draws[3] < self.flip and (self.flip_sided or not _says_side(sample))
        layout = self._see(sample.layout, view, mirrored)
        corner = (view.corner[0], view.resized[1] - view.target[1] - view.corner[1] if mirrored else view.corner[1])
        frame = Frame((height, width), corner)
        if view.whole and view.target == view.size and not mirrored:
            return (sample if layout is sample.layout else replace(sample, layout=layout)), frame
        image = _show(sample.image, view)
        source = EncodedImage.from_image(image.flip(-1) if mirrored else image, sample.key)
        return replace(sample, source=source, layout=layout, dropped=Layout.empty(), reasons=[]), frame

    def _view(self, size: _Size, draws: Sequence[float]) -> _View:
        """Where the crop lies."""
        target = self.size_for(*size)
        if self.crop == "none":
            return _View(size, target, target, (0, 0))
        factor = max(target[0] / size[0], target[1] / size[1])
        if self.scale is not None:
            factor /= math.sqrt(self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0])
        resized = (max(target[0], round(size[0] * factor)), max(target[1], round(size[1] * factor)))
        room = (resized[0] - target[0], resized[1] - target[1])
        if self.crop == "center":
            return _View(size, resized, target, (room[0] // 2, room[1] // 2))
        return _View(size, resized, target, (int(draws[1] * (room[0] + 1)), int(draws[2] * (room[1] + 1))))

    def _see(self, layout: Layout, view: _View, mirrored: bool) -> Layout:
        """What of a layout is in the crop; the layout itself where nothing changes."""
        if layout.masks is not None and not self.masks:
            layout = replace(layout, masks=None)
        if not view.whole:
            boxes, shares = _clip(layout.boxes, view)
            layout = replace(layout, boxes=boxes)
            if not bool((keep := (shares > 0) & (shares >= self.min_visibility)).all()):
                layout = layout.keep(keep)
        if self.max_objects is not None and len(layout) > self.max_objects:
            sides = layout.boxes[:, 2:] - layout.boxes[:, :2]
            largest = sides.prod(dim=1).argsort(descending=True, stable=True)[: self.max_objects]
            layout = layout.keep(largest.sort().values)
        if mirrored:
            x_min, y_min, x_max, y_max = layout.boxes.unbind(1)
            layout = replace(layout, boxes=torch.stack([1 - x_max, y_min, 1 - x_min, y_max], dim=1))
        if layout.masks and (mirrored or not view.whole or view.target != view.size):
            layout = replace(layout, masks=[_move(mask, view, mirrored) for mask in layout.masks])
        return layout


@dataclass(frozen=True)
class _View:
    """A crop.

    Attributes:
        size: of the picture.
        resized: the size it is resized to.
        target: the size of the crop.
        corner: top and left of the crop in the resized picture.
    """

    size: _Size
    resized: _Size
    target: _Size
    corner: _Size

    @property
    def whole(self) -> bool:
        """Whether all of the picture is seen."""
        return self.resized == self.target

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max and y_max of the crop, in pixels of the picture."""
        (height, width), (top, left) = self.size, self.corner
        rows, columns = height / self.resized[0], width / self.resized[1]
        # rounding must not lead out of the picture
        right, bottom = (left + self.target[1]) * columns, (top + self.target[0]) * rows
        return left * columns, top * rows, min(right, width), min(bottom, height)


def _says_side(sample: Sample) -> bool:
    words = (sample.caption, *sample.layout.labels, *sample.layout.captions)
    return any(_SIDES.search(text) for text in words)


def _clip(boxes: Float[Tensor, "n 4"], view: _View) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"]]:
    """Boxes as fractions of the crop, clipped to it; and the share of each that is in it.

    A box without extent along an axis counts as all in the crop along it if it lies in it.
    """
    (height, width), (top, left) = view.target, view.corner
    moved = boxes.double() * boxes.new_tensor([view.resized[1], view.resized[0]] * 2, dtype=torch.float64)
    moved = (moved - moved.new_tensor([left, top] * 2)) / moved.new_tensor([width, height] * 2)
    clipped = moved.clamp(0, 1)
    extent, seen = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    inside = (moved[:, :2] == clipped[:, :2]).double()
    shares = torch.where(extent > 0, seen / extent.clamp_min(1e-12), inside).prod(dim=1)
    return clipped.to(boxes.dtype), shares.to(boxes.dtype)


def _show(image: Image, view: _View) -> Image:
    """The crop of an image, antialiased."""
    if view.resized == view.size:
        (top, left), (height, width) = view.corner, view.target
        return image[:, top : top + height, left : left + width].contiguous()
    x_min, y_min, x_max, y_max = view.box
    # only what the crop depends on is brought into Pillow's order of channels
    reach = _SUPPORT * max(1.0, (x_max - x_min) / view.target[1], (y_max - y_min) / view.target[0])
    left, top = max(0, math.floor(x_min - reach)), max(0, math.floor(y_min - reach))
    near = image[:, top : math.ceil(y_max + reach), left : math.ceil(x_max + reach)]
    picture = PILImage.fromarray(np.ascontiguousarray(near.permute(1, 2, 0).numpy()))
    box = (x_min - left, y_min - top, x_max - left, y_max - top)
    crop = picture.resize((view.target[1], view.target[0]), PILImage.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()


def _move(mask: RunLengths, view: _View, mirrored: bool) -> RunLengths:
    """The crop of a mask: of each pixel, what lies at its middle."""
    plane: Bool[Tensor, "_h _w"] = mask.decode()
    if mask.size != view.size:
        raise ValueError(f"masks must be of the size of the image {view.size}, got {mask.size}")
    rows, columns = (_middles(view, axis) for axis in (0, 1))
    crop = plane[rows][:, columns.flip(0) if mirrored else columns]
    return RunLengths.encode(crop[None])[0]


def _middles(view: _View, axis: int) -> Tensor:
    """Which row or column of the picture each one of the crop shows."""
    places = torch.arange(view.target[axis], dtype=torch.float64) + view.corner[axis] + 0.5
    return (places * (view.size[axis] / view.resized[axis])).long().clamp(max=view.size[axis] - 1)
