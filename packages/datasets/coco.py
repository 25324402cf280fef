"""COCO: images with boxes, masks and captions of their own."""

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image as PILImage
from pycocotools import mask as _pycocotools

from scenewright.datasets.files import extension, fingerprint_of, join, keys_of, read_bytes
from scenewright.layout import MAX_PIXELS, EncodedImage, Layout, RunLengths, Sample

coco_mask: Any = _pycocotools  # its type stubs know single masks only


class Coco:
    """Images in the order of their ids, with the boxes and masks that people drew.

    Labels are the category names. The caption is the first of the image's; all of them
    are in ``metadata["captions"]``. Crowd regions are left out, since they are no
    single object; a box without area is dropped with a warning.

    Args:
        instances: an ``instances_*.json``, a path or URL.
        images: the folder that the file names start from.
        captions: a ``captions_*.json``, or None.
        stuff: a ``stuff_*.json`` of COCO-Stuff, whose regions are added; images without any are left out.
        exclude: labels whose regions are left out ("other").
        square: pad each image with white, on the right or below, and resize it to this many pixels each way; its
            boxes become whole pixels. It is what Rich-Context's data were made from; None leaves images as they are.
        max_pixels: larger images are refused before they are decoded.
        annotation_ids: put the ids of the regions' annotations into ``metadata["annotation_ids"]``.

    Raises:
        ValueError: ``instances`` has no images.

    Source: Lin et al. 2014, arXiv 1405.0312; Caesar et al. 2018, arXiv 1612.03716; the format of cocodataset.org.
    """

    def __init__(
        self,
        instances: str,
        images: str,
        captions: str | None = None,
        stuff: str | None = None,
        exclude: Sequence[str] = (),
        square: int | None = None,
        max_pixels: int = MAX_PIXELS,
        annotation_ids: bool = False,
    ) -> None:
        self.instances, self.images, self.captions, self.stuff = str(instances), str(images), captions, stuff
        self.exclude, self.square, self.max_pixels = list(exclude), square, max_pixels
        self.annotation_ids = annotation_ids
        self._loaded: _Tables | None = None

    @property
    def fingerprint(self) -> str:
        return self._load().fingerprint

    def __len__(self) -> int:
        return len(self._load().images)

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        tables = self._load()
        for image, key in zip(tables.images[start:stop], tables.keys[start:stop], strict=True):
            path = image["file_name"]
            file = EncodedImage(
                partial(read_bytes, join(self.images, path)), extension(path), path, max_pixels=self.max_pixels
            )
            captions = tables.captions[image["id"]]
            metadata = image | ({"captions": captions} if captions else {})
            caption = captions[0] if captions else ""
            try:
                regions = [
                    x for x in tables.regions[image["id"]] if tables.labels[x["category_id"]] not in self.exclude
                ]
                layout, warnings = _layout(image, regions, tables.labels)
                if self.annotation_ids:
                    metadata = metadata | {
                        "annotation_ids": [x["id"] for x in regions if _is_single(x) and _has_area(x)]
                    }
                if self.square is not None:
                    file, layout = _squared(file, layout, image["height"], image["width"], self.square)
            except Exception as error:  # pycocotools raises nothing more particular
                yield Sample(key=key, error=f"its annotations cannot be read: {type(error).__name__}: {error}")
                continue
            yield Sample(key, file, caption, layout=layout, metadata=metadata, warnings=warnings)

    def _load(self) -> "_Tables":
        if self._loaded is None:
            self._loaded = _Tables(self.instances, self.captions, self.stuff)
        return self._loaded


class _Tables:
    """The JSON files, by image id."""

    def __init__(self, instances: str, captions: str | None, stuff: str | None) -> None:
        data = [read_bytes(path) for path in (instances, captions, stuff) if path is not None]
        try:
            boxes, *others = map(json.loads, data)
            texts = others.pop(0) if captions else {"annotations": []}
            more = others.pop(0) if stuff else {}
            with_stuff = {x["image_id"] for x in more.get("annotations", [])}
            images = [x for x in boxes["images"] if stuff is None or x["id"] in with_stuff]
            self.images = sorted(images, key=lambda x: x["id"])
            self.labels = {x["id"]: x["name"] for x in [*boxes.get("categories", []), *more.get("categories", [])]}
            self.keys = keys_of([x["file_name"] for x in self.images])
            self.regions: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for region in [*boxes.get("annotations", []), *more.get("annotations", [])]:
                self.regions[region["image_id"]].append(region)
            self.captions: dict[int, list[str]] = defaultdict(list)
            for text in texts["annotations"]:
                self.captions[text["image_id"]].append(text["caption"].strip())
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{instances} is not in COCO's format: {type(error).__name__}: {error}") from None
        if not self.images:
            raise ValueError(f"{instances} has no images")
        self.fingerprint = fingerprint_of(data)


def _layout(
    image: Mapping[str, Any], regions: list[dict[str, Any]], labels: Mapping[int, str]
) -> tuple[Layout, list[str]]:
    height, width = image["height"], image["width"]
    if height < 1 or width < 1:
        raise ValueError(f"the image is {width} x {height} pixels")
    single = [x for x in regions if _is_single(x)]
    sound = [x for x in single if _has_area(x)]
    warnings = [f"{len(single) - len(sound)} boxes have no area and were dropped"] if len(sound) < len(single) else []
    corners = torch.tensor([x["bbox"] for x in sound], dtype=torch.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    boxes = (corners / torch.tensor([width, height, width, height])).float()
    masks = [_mask(x.get("segmentation"), height, width) for x in sound]
    complete = [m for m in masks if m is not None]
    if 0 < len(complete) < len(sound):
        warnings.append(
            f"{len(sound) - len(complete)} of {len(sound)} regions have no mask, so the others' were left out"
        )
    names = [labels[x["category_id"]] for x in sound]
    return Layout(boxes, names, masks=complete if len(complete) == len(sound) and sound else None), warnings


def _is_single(region: Mapping[str, Any]) -> bool:
    return not region.get("iscrowd", 0)


def _has_area(region: Mapping[str, Any]) -> bool:
    return region["bbox"][2] > 0 and region["bbox"][3] > 0


def _squared(file: EncodedImage, layout: Layout, height: int, width: int, side: int) -> tuple[EncodedImage, Layout]:
    """The image on a white square, and its boxes there; masks are left behind."""

    def png() -> bytes:
        picture = PILImage.fromarray(file.image.permute(1, 2, 0).numpy())
        canvas = PILImage.new("RGB", (max(picture.size), max(picture.size)), "white")
        canvas.paste(picture)
        written = io.BytesIO()
        canvas.resize((side, side), PILImage.Resampling.BICUBIC).save(written, "PNG")
        return written.getvalue()

    pixels = (layout.pixel_boxes(height, width) * (side / max(height, width))).trunc()
    return EncodedImage(png, "png", file.name, max_pixels=file.max_pixels), Layout(pixels / side, layout.labels)


def _mask(segmentation: Any, height: int, width: int) -> RunLengths | None:
    """Run lengths of polygons, of plain run lengths or of compressed ones; None where nothing was drawn."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return RunLengths(size=(height, width), counts=segmentation["counts"].encode())
    parts = coco_mask.frPyObjects(segmentation, height, width)
    merged = coco_mask.merge(parts) if isinstance(parts, list) else parts
    return RunLengths(size=(height, width), counts=merged["counts"])
