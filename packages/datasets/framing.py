"""What a model sees of a picture: resized, cropped and mirrored, with all that is known of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from scenewright.layout import EncodedImage, Frame, Image, Layout, RunLengths, Sample

CROPS = ("center", "random", "none")
CAPTIONS = ("first", "random")

#: Words that are wrong in a mirror.
_SIDES = re.compile(r"\b(left|right)(most|wards?|handed|hand)?\b", re.IGNORECASE)

#: Of boxes in single precision, and of shares of them.
_ROUNDING = 1e-6

_Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Brings samples to the size that a model is trained at; all that is known of regions stays true.

    The largest crop of the target's shape, or a smaller one of it, is resized to the target, antialiased. It is cut
    on whole pixels, so its shape is right to a pixel of the picture. A point that is not in the crop is none any more,
    and a scribble loses those of its points that are not. Everything random comes from the seed.

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
        caption: "first", the sample's own; or "random", one of ``metadata["captions"]``, where there are any.

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
    caption: str = "first"

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
        if self.caption not in CAPTIONS:
            raise ValueError(f"caption must be one of {', '.join(CAPTIONS)}, got {self.caption!r}")
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
        draws = np.random.default_rng(seed).random(5).tolist()  # all at once: no choice shifts the others
        sample = self._said(sample, draws[4])
        height, width = sample.image.shape[1:]
        view = self._view((height, width), draws)
        mirrored = draws[3] < self.flip and (self.flip_sided or not _says_side(sample))
        layout = self._see(sample.layout, view, mirrored)
        frame = Frame((height, width), view.corner_when(mirrored))
        if view.same and not mirrored:
            return (sample if layout is sample.layout else replace(sample, layout=layout)), frame
        image = _show(sample.image, view)
        source = EncodedImage.from_image(image.flip(-1) if mirrored else image, sample.key)
        return replace(sample, source=source, layout=layout, dropped=Layout.empty(), reasons=[]), frame

    def _said(self, sample: Sample, drawn: float) -> Sample:
        """The sample with the caption that is drawn for it."""
        captions = sample.metadata.get("captions") if self.caption == "random" else None
        if not isinstance(captions, (list, tuple)) or not captions:
            return sample
        return replace(sample, caption=str(captions[int(drawn * len(captions))]))

    def _view(self, size: _Size, draws: Sequence[float]) -> _View:
        """Where the crop lies."""
        target = self.size_for(*size)
        if self.crop == "none":
            return _View(size, 0, 0, *size, target)
        factor = min(size[0] / target[0], size[1] / target[1])
        if self.scale is not None:
            factor *= math.sqrt(self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0])
        height, width = (min(max(round(side * factor), 1), limit) for side, limit in zip(target, size, strict=True))
        above, beside = size[0] - height, size[1] - width
        if self.crop == "center":
            return _View(size, above // 2, beside // 2, height, width, target)
        return _View(size, int(draws[1] * (above + 1)), int(draws[2] * (beside + 1)), height, width, target)

    def _see(self, layout: Layout, view: _View, mirrored: bool) -> Layout:
        """What of a layout is in the crop; the layout itself where nothing changes."""
        if layout.masks is not None and not self.masks:
            layout = replace(layout, masks=None)
        if not view.whole:
            boxes, shares = _clip(layout.boxes, view)
            layout = replace(layout, boxes=boxes)
            keep = shares > max(self.min_visibility - _ROUNDING, _ROUNDING)
            layout = layout if bool(keep.all()) else layout.keep(keep)
        if self.max_objects is not None and len(layout) > self.max_objects:
            sides = layout.boxes[:, 2:] - layout.boxes[:, :2]
            largest = sides.prod(dim=1).argsort(descending=True, stable=True)[: self.max_objects]
            layout = layout.keep(largest.sort().values)
        layout = _points_seen(layout, view, mirrored)
        if mirrored:
            x_min, y_min, x_max, y_max = layout.boxes.unbind(1)
            layout = replace(layout, boxes=torch.stack([1 - x_max, y_min, 1 - x_min, y_max], dim=1))
        if layout.masks and (mirrored or not view.same):
            layout = replace(layout, masks=[_move(mask, view, mirrored) for mask in layout.masks])
        return layout


@dataclass(frozen=True)
class _View:
    """A crop, on whole pixels of the picture so that boxes are exact.

    Attributes:
        size: height and width of the picture.
        top: first row of the crop.
        left: first column.
        height: rows of the crop.
        width: columns.
        target: height and width that the crop is resized to.
    """

    size: _Size
    top: int
    left: int
    height: int
    width: int
    target: _Size

    @property
    def whole(self) -> bool:
        """Whether all of the picture is seen."""
        return (self.height, self.width) == self.size

    @property
    def same(self) -> bool:
        """Whether nothing changes."""
        return self.whole and self.target == self.size

    def corner_when(self, mirrored: bool) -> _Size:
        """Top and left of the crop in the picture after resizing and mirroring."""
        left = self.size[1] - self.width - self.left if mirrored else self.left
        return round(self.top * self.target[0] / self.height), round(left * self.target[1] / self.width)


def _says_side(sample: Sample) -> bool:
    words = (sample.caption, *sample.layout.labels, *sample.layout.captions)
    return any(_SIDES.search(text) for text in words)


def _clip(boxes: Float[Tensor, "n 4"], view: _View) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"]]:
    """Boxes as fractions of the crop, clipped to it; and the share of each that is in it.

    A box without extent along an axis counts as all in the crop along it if it lies in it.
    """
    start = torch.tensor([view.left, view.top] * 2, dtype=torch.float64)
    extent = torch.tensor([view.width, view.height] * 2, dtype=torch.float64)
    moved = (boxes.double() * torch.tensor(view.size[::-1] * 2, dtype=torch.float64) - start) / extent
    clipped = moved.clamp(0, 1)
    sides, seen = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    inside = (moved[:, :2] == clipped[:, :2]).double()
    shares = torch.where(sides > 0, seen / sides.clamp_min(1e-12), inside).prod(dim=1)
    return clipped.to(boxes.dtype), shares.to(boxes.dtype)


def _points_seen(layout: Layout, view: _View, mirrored: bool) -> Layout:
    """The layout with its points and scribbles as fractions of the crop, without those outside of it."""
    if (layout.points is None and layout.scribbles is None) or (view.whole and not mirrored):
        return layout
    points, scribbles = layout.points, layout.scribbles
    if points is not None:
        points = _seen(points, view, mirrored)
    if scribbles is not None:
        moved = [_seen(x, view, mirrored) for x in scribbles]
        scribbles = [x[~x.isnan().any(1)] for x in moved]
    return replace(layout, points=points, scribbles=scribbles)


def _seen(points: Float[Tensor, "n 2"], view: _View, mirrored: bool) -> Float[Tensor, "n 2"]:
    """Points as fractions of the crop; NaN outside of it."""
    start = torch.tensor([view.left, view.top], dtype=torch.float64)
    extent = torch.tensor([view.width, view.height], dtype=torch.float64)
    moved = (points.double() * torch.tensor(view.size[::-1], dtype=torch.float64) - start) / extent
    inside = ((moved >= 0) & (moved <= 1)).all(1, keepdim=True)
    if mirrored:
        moved = torch.stack([1 - moved[:, 0], moved[:, 1]], dim=1)
    return moved.where(inside, torch.nan).to(points.dtype)


def _show(image: Image, view: _View) -> Image:
    """The crop of an image, antialiased."""
    crop = image[:, view.top : view.top + view.height, view.left : view.left + view.width]
    if (view.height, view.width) == view.target:
        return crop.clone()  # else a sample that waits for its batch keeps all of its picture
    return resize(crop, list(view.target), InterpolationMode.BICUBIC, antialias=True)


def _move(mask: RunLengths, view: _View, mirrored: bool) -> RunLengths:
    """The crop of a mask: of each pixel, what lies at its middle."""
    if mask.size != view.size:
        raise ValueError(f"masks must have the size of the image {view.size}, got {mask.size}")
    rows = view.top + _middles(view.height, view.target[0])
    columns = view.left + _middles(view.width, view.target[1])
    crop = mask.decode()[rows][:, columns.flip(0) if mirrored else columns]
    return RunLengths.encode(crop[None])[0]


def _middles(count: int, target: int) -> Tensor:
    """Which of ``count`` pixels lies at the middle of each of ``target``."""
    return ((torch.arange(target, dtype=torch.float64) + 0.5) * (count / target)).long().clamp(max=count - 1)
