"""The nouns: what is in one image, and what a model is given to learn from.

Four conventions hold at every door of the house:

- an image is ``uint8``, RGB, channels first, 0..255;
- boxes are ``float32 (n, 4)``, ``x_min y_min x_max y_max``, as fractions of the image;
- regions are ragged: one ``Layout`` per image, padding is a model's own business;
- randomness has one seed per image, never one per batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from pycocotools import mask as _pycocotools
from torch import Tensor
from torch.nn.functional import interpolate

coco: Any = _pycocotools  # its type stubs know single masks only

#: One RGB image, values 0..255. Sizes differ from image to image.
Image = UInt8[Tensor, "3 _h _w"]

#: A stack of RGB images of one size, values 0..255.
Images = UInt8[Tensor, "b 3 h w"]

#: One mask at the size of its image, True inside the region.
Mask = Bool[Tensor, "_h _w"]

#: Larger images are refused before they are decoded: Pillow's own limit for a decompression bomb.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class RunLengths:
    """One mask, as COCO's compressed run lengths.

    Attributes:
        size: height and width in pixels.
        counts: the runs, column by column, the first one outside the region.

    Source: the COCO API's ``maskApi``; ``pycocotools`` does the work.
    """

    size: tuple[int, int]
    counts: bytes

    @staticmethod
    def encode(masks: Bool[Tensor, "n _h _w"]) -> list[RunLengths]:
        """Encode a stack of masks, in order."""
        if not len(masks):
            return []
        planes = np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
        height, width = planes.shape[:2]
        return [RunLengths(size=(height, width), counts=x["counts"]) for x in coco.encode(planes)]

    def decode(self) -> Mask:
        """The mask's pixels."""
        return torch.from_numpy(coco.decode(self._coco()).astype(bool))

    def resized(self, height: int, width: int) -> RunLengths:
        """The mask at another size: of each pixel, what lies at its middle."""
        if tuple(self.size) == (height, width):
            return self
        plane = interpolate(self.decode()[None, None].byte(), (height, width), mode="nearest-exact")
        return RunLengths.encode(plane[0] > 0)[0]

    @property
    def area(self) -> int:
        """Pixels inside the region."""
        return int(coco.area(self._coco()))

    @property
    def box(self) -> Float[Tensor, " 4"]:
        """The tight box of the region, in fractions; all zero for an empty mask."""
        x, y, w, h = (float(v) for v in coco.toBbox(self._coco()))
        height, width = self.size
        return torch.tensor([x / width, y / height, (x + w) / width, (y + h) / height])

    def _coco(self) -> dict[str, Any]:
        return {"size": list(self.size), "counts": self.counts}


@dataclass(frozen=True, eq=False)
class Layout:
    """The ``n`` regions of one image.

    Boxes are fractions of the image, so a layout survives any resize.

    Attributes:
        boxes: ``(n, 4)``, ``x_min y_min x_max y_max``, each in [0, 1].
        labels: the name of each region, a word or two ("dog").
        captions: the rich description of each region, or empty.
        scores: ``(n,)``, the detector's confidence in [0, 1], or None.
        masks: one per region, at the size of the image, an empty one for a region that has none; or None.
        points: ``(n, 2)``, ``x y`` as fractions of the image, NaN for a region that has none, or None.
        scribbles: one per region, ``(k, 2)``, any number of points ``x y`` as fractions of the image, ``(0, 2)`` for a
            region that has none; or None.

    Raises:
        ValueError: a field's shape or length disagrees with ``boxes``, or a point is not finite.
    """

    boxes: Float[Tensor, "n 4"]
    labels: list[str]
    captions: list[str] = field(default_factory=list)
    scores: Float[Tensor, " n"] | None = None
    masks: list[RunLengths] | None = None
    points: Float[Tensor, "n 2"] | None = None
    scribbles: list[Float[Tensor, "_k 2"]] | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must have shape (n, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "captions", "scores", "masks", "points", "scribbles"):
            value = getattr(self, name)
            if value is None or (name == "captions" and not value):
                continue
            if len(value) != len(self):
                raise ValueError(f"{name} must have one entry per box ({len(self)}), got {len(value)}")
        if self.points is not None:
            _check_points(self.points, "points", missing=True)
        for i, scribble in enumerate(self.scribbles or []):
            _check_points(scribble, f"scribbles[{i}]")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Layout:
        """The layout of an image in which nothing is marked."""
        return cls(boxes=torch.zeros(0, 4), labels=[])

    @classmethod
    def whole(cls) -> Layout:
        """The layout with one region: the image itself."""
        return cls(boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]), labels=["image"])

    @classmethod
    def joined(cls, layouts: Sequence[Layout]) -> Layout:
        """All regions of several layouts of one image, in order.

        Those without captions, points or scribbles get empty ones if others have some; scores and masks stay if every
        layout that has regions has them.
        """
        full = [x for x in layouts if len(x)]
        if len(full) < 2:
            return full[0] if full else cls.empty()
        scores = [x.scores for x in full if x.scores is not None]
        masks = [x.masks for x in full if x.masks is not None]
        captions = [caption for x in full for caption in (x.captions or [""] * len(x))]
        return cls(
            boxes=torch.cat([x.boxes for x in full]),
            labels=[label for x in full for label in x.labels],
            captions=captions if any(captions) else [],
            scores=torch.cat(scores) if len(scores) == len(full) else None,
            masks=[mask for some in masks for mask in some] if len(masks) == len(full) else None,
            points=torch.cat([_points_of(x) for x in full]) if any(x.points is not None for x in full) else None,
            scribbles=[scribble for x in full for scribble in _scribbles_of(x)]
            if any(x.scribbles is not None for x in full)
            else None,
        )

    def pixel_boxes(self, height: int, width: int) -> Float[Tensor, "n 4"]:
        """Boxes in pixels of an image of ``height`` by ``width``."""
        return self.boxes * self.boxes.new_tensor([width, height, width, height])

    def keep(self, index: Int[Tensor, " k"] | Bool[Tensor, " n"]) -> Layout:
        """The regions of a boolean mask, or of indices and in their order."""
        chosen = torch.arange(len(self))[index.cpu()].tolist()
        return Layout(
            boxes=self.boxes[chosen],
            labels=[self.labels[i] for i in chosen],
            captions=[self.captions[i] for i in chosen] if self.captions else [],
            scores=None if self.scores is None else self.scores[chosen],
            masks=None if self.masks is None else [self.masks[i] for i in chosen],
            points=None if self.points is None else self.points[chosen],
            scribbles=None if self.scribbles is None else [self.scribbles[i] for i in chosen],
        )

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on ``device``; masks stay run lengths."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        if self.scribbles is not None:
            moved["scribbles"] = [x.to(device) for x in self.scribbles]
        return replace(self, **moved)


def _check_points(points: Tensor, name: str, missing: bool = False) -> None:
    """Raises: ValueError, where they are no points; ``missing`` ones are NaN."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} must have shape ({'n' if missing else 'k'}, 2), got {tuple(points.shape)}")
    if points.device.type != "cpu":  # the values were looked at before, and looking again would wait for the device
        return
    fine = points.isfinite().all(1) | (points.isnan().all(1) & missing)
    if not fine.all():
        expected = "two finite numbers, or NaN twice for none" if missing else "two finite numbers"
        i = int((~fine).nonzero()[0])
        raise ValueError(f"{name}[{i}] must be {expected}, got {points[i].tolist()}")


def _points_of(layout: Layout) -> Float[Tensor, "n 2"]:
    return layout.boxes.new_full((len(layout), 2), torch.nan) if layout.points is None else layout.points


def _scribbles_of(layout: Layout) -> list[Float[Tensor, "_k 2"]]:
    return [layout.boxes.new_zeros(0, 2)] * len(layout) if layout.scribbles is None else layout.scribbles


class EncodedImage:
    """An image file: its bytes as they came, decoded when they are first looked at.

    Args:
        data: the bytes, or a function that reads them (so a source can list files without opening them).
        extension: of the file, lower case, without the dot: "jpg".
        name: where it came from, for people: a path, or a tar and its member.
        border: pixels ``(left, top, right, bottom)`` that were padded around the picture in white; cut after
            decoding. Where the picture is not white there, nothing is cut and ``border`` becomes zero.
        max_pixels: more than this is refused before decoding.
    """

    def __init__(
        self,
        data: bytes | Callable[[], bytes],
        extension: str,
        name: str = "",
        border: tuple[int, int, int, int] = (0, 0, 0, 0),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.extension, self.name, self.border, self.max_pixels = extension, name, border, max_pixels
        self._data = data
        self._image: Tensor | None = None

    @classmethod
    def from_image(cls, image: Image, name: str = "") -> EncodedImage:
        """An image that has pixels but no file yet; its bytes are a PNG, made when they are asked for."""
        encoded = cls(lambda: _png(image), "png", name)
        encoded._image = image
        return encoded

    @property
    def data(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: they cannot be read.
        """
        if callable(self._data):
            self._data = self._data()
        return self._data

    @property
    def image(self) -> Image:
        """The decoded image: EXIF orientation applied, transparency over white, border cut.

        Raises:
            OSError: the bytes cannot be read, or break off.
            ValueError: they are no image, or a larger one than ``max_pixels``.
        """
        # functools.cached_property would hold one lock for all images in Python 3.11, and threads decode ahead
        if self._image is None:
            image = decode(self.data, self.max_pixels)
            if any(self.border):
                picture = _without(image, self.border)
                if picture is None:
                    self.border = (0, 0, 0, 0)
                else:
                    image = picture
            self._image = image
        return self._image


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file of any kind that Pillow reads; of an animation, the first frame.

    Raises:
        OSError: the file breaks off.
        ValueError: it is empty, no image, or has more than ``max_pixels``.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with PILImage.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ValueError(f"the image has {width} x {height} pixels, more than the limit of {max_pixels}")
            return torch.from_numpy(np.array(_rgb(ImageOps.exif_transpose(opened)))).permute(2, 0, 1).contiguous()
    except UnidentifiedImageError:
        raise ValueError("the file is not an image") from None
    except PILImage.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    except (SyntaxError, EOFError) as error:  # what Pillow raises for some broken PNGs
        raise OSError(f"the image is broken: {error}") from None


def _rgb(image: PILImage.Image) -> PILImage.Image:
    """Eight bits, three channels; what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits per pixel, in one of Pillow's spellings
        return PILImage.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise ValueError("the image has floating-point pixels, whose range is not known")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _without(image: Image, border: tuple[int, int, int, int]) -> Image | None:
    """The picture inside a white border, or None if there is no such border."""
    left, top, right, bottom = border
    height, width = image.shape[1:]
    if left + right >= width or top + bottom >= height:
        return None
    sides = (
        image[:, :top],
        image[:, height - bottom :],
        image[:, top : height - bottom, :left],
        image[:, top : height - bottom, width - right :],
    )
    # JPEG rings beside the picture, so the mean decides and not the darkest pixel
    if any(side.numel() and side.float().mean() < 245 for side in sides):
        return None
    return image[:, top : height - bottom, left : width - right].contiguous()


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    PILImage.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Verdict:
    """What a filter says of one image.

    Attributes:
        image: why the whole image is to be dropped; empty to keep it.
        regions: why each region is to be dropped, in the layout's order, empty to keep it; without any
            entries all are kept.
    """

    image: str = ""
    regions: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known of it: the unit of a shard.

    Attributes:
        key: its name in the shard, unique in the dataset, without dots.
        source: the file it came from, written back unchanged; None where only annotations were stored.
        caption: what the whole image shows.
        tags: names of things in it, unlocalised.
        layout: its regions; none before detection, none where nothing is found.
        metadata: whatever the source carried (url, licence, …), written back unchanged.
        warnings: what was mended or dropped on the way, for people.
        error: why the image could not be annotated; empty for all others.
        dropped: the regions that filters dropped from ``layout``.
        reasons: why, one for each dropped region.
        rejected: why a filter dropped the whole image; empty for all others.
        text_feature: what a text encoder would say of a caption that the image does not have, or None.

    Raises:
        ValueError: there is not one reason per dropped region.
    """

    key: str
    source: EncodedImage | None = None
    caption: str = ""
    tags: list[str] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout.empty)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    dropped: Layout = field(default_factory=Layout.empty)
    reasons: list[str] = field(default_factory=list)
    rejected: str = ""
    text_feature: Float[Tensor, " _c"] | None = None

    def __post_init__(self) -> None:
        if len(self.reasons) != len(self.dropped):
            raise ValueError(
                f"there must be one reason per dropped region ({len(self.dropped)}), got {len(self.reasons)}"
            )

    @classmethod
    def from_image(cls, key: str, image: Image, **known: Any) -> Sample:
        """A sample of an image that has no file: drawn, composed or generated."""
        return cls(key=key, source=EncodedImage.from_image(image, name=key), **known)

    @property
    def image(self) -> Image:
        """The decoded image.

        Raises:
            OSError: its bytes cannot be read, or break off.
            ValueError: it has none, or they are no image.
        """
        if self.source is None:
            raise ValueError(f"sample {self.key!r} holds annotations only; name the images they belong to")
        return self.source.image

    @property
    def status(self) -> str:
        """``ok``, ``empty`` (read well, no region in it), ``dropped: why`` (by a filter) or ``error: why``."""
        if self.error:
            return f"error: {self.error}"
        if self.rejected:
            return f"dropped: {self.rejected}"
        return "ok" if len(self.layout) else "empty"


@dataclass(frozen=True)
class Frame:
    """What an image shows of the picture it was cut from.

    Attributes:
        size: height and width of the picture as it came, in pixels.
        corner: top and left of the crop, in pixels of the picture after it was resized for the crop.
    """

    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one image size, as a model is trained on them.

    Layouts stay ragged; padding is each model's own business.

    Attributes:
        images: of one size.
        captions: of the whole images.
        layouts: one per image.
        keys: the samples' names, for people; may be left out.
        frames: what the images show of their pictures; the whole of them if left out.
        seeds: one per image. What a model draws for an image comes from its seed, so that a loss is a
            function of batch and weights, whatever the batch size and the number of processes; if
            left out, 0, 1, 2, …
        text_features: one per image, for models that read one vector of a text: it takes the place of the caption;
            None, as if left out, where the caption counts.

    Raises:
        ValueError: a field has not one entry per image.
    """

    images: Images
    captions: list[str]
    layouts: list[Layout]
    keys: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    text_features: list[Float[Tensor, " _c"] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, size = len(self.images), (self.images.shape[-2], self.images.shape[-1])
        defaults = {"keys": [""] * n, "frames": [Frame(size)] * n, "seeds": list(range(n)), "text_features": [None] * n}
        for name, default in defaults.items():
            object.__setattr__(self, name, getattr(self, name) or default)
        for name in ("captions", "layouts", *defaults):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must have one entry per image ({n}), got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def collate(cls, samples: Sequence[Sample], **known: Any) -> Batch:
        """Stack samples of equal size; ``known`` are further fields."""
        return cls(
            images=torch.stack([s.image for s in samples]),
            captions=[s.caption for s in samples],
            layouts=[s.layout for s in samples],
            keys=[s.key for s in samples],
            text_features=[s.text_feature for s in samples],
            **known,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``; Accelerate calls this too."""
        features = [None if x is None else x.to(device) for x in self.text_features]
        layouts = [x.to(device) for x in self.layouts]
        return replace(self, images=self.images.to(device), layouts=layouts, text_features=features)
