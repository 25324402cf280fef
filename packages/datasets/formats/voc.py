"""Pascal VOC: one XML per image.

Source: Everingham et al. 2010, doi 10.1007/s11263-009-0275-4, and its development kit: pixels count from 1,
and the last one belongs to the box.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image as PILImage

from scenewright.datasets.formats.folder import file_stem
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.datasets.formats.pixels import corners
from scenewright.layout import Layout, Sample


class VOC:
    """``Annotations/KEY.xml``, ``JPEGImages/``, ``ImageSets/Main/train.txt`` and ``SegmentationObject/KEY.png``.

    Boxes are rounded to whole pixels. In the PNG, pixels of the n-th object have palette index n, and smaller
    objects lie over larger ones. Captions and scores have no place.

    Args:
        masks: write the PNGs, where there are masks.
        images: ``copy``, ``link`` or ``none``.
        image_root: for ``link``: where the images are.
    """

    def __init__(self, masks: bool = True, images: str = "copy", image_root: str | None = None) -> None:
        if images == "path":
            raise ValueError("VOC's images lie in JPEGImages, so images must be copy, link or none")
        self.masks, self.images, self.image_root = masks, images, image_root

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns what was done besides."""
        pictures = Pictures(folder / "JPEGImages", self.images, self.image_root)
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        without = 0
        with open(folder / "ImageSets" / "Main" / "train.txt", "w", encoding="utf-8") as listed:
            for sample in samples:
                stem = file_stem(sample.key)
                document = _document(sample, pictures.place(sample))
                document.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
                listed.write(f"{stem}\n")
                if self.masks and sample.layout.masks:
                    without += max(0, len(sample.layout) - 254)
                    (folder / "SegmentationObject").mkdir(exist_ok=True)
                    _objects(sample.layout).save(folder / "SegmentationObject" / f"{stem}.png")
        return {"pictures made anew": pictures.redrawn, "masks beyond the palette": without}


def _document(sample: Sample, name: str) -> ElementTree.ElementTree:
    height, width = size_of(sample)
    root = ElementTree.Element("annotation")
    _texts(root, {"folder": "JPEGImages", "filename": name})
    _texts(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _texts(root, {"segmented": int(bool(sample.layout.masks))})
    for label, box in zip(sample.layout.labels, _whole(sample.layout, height, width), strict=True):
        region = ElementTree.SubElement(root, "object")
        _texts(region, {"name": label, "pose": "Unspecified", "truncated": 0, "difficult": 0})
        _texts(ElementTree.SubElement(region, "bndbox"), dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)))
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    return tree


def _texts(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        # what XML cannot hold, not even escaped
        text = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(value))
        ElementTree.SubElement(parent, name).text = text


def _whole(layout: Layout, height: int, width: int) -> list[list[int]]:
    """First and last pixels of the boxes, counted from 1; at least one pixel, inside the image."""
    limits = np.array([width, height])
    boxes = np.rint(corners(layout, height, width)).astype(int)
    first = (boxes[:, :2] + 1).clip(1, limits)
    last = np.maximum(boxes[:, 2:].clip(1, limits), first)
    return np.concatenate([first, last], 1).tolist()


def _objects(layout: Layout) -> PILImage.Image:
    masks = (layout.masks or [])[:254]  # 255 means "not told" to VOC's readers
    picture = np.zeros(masks[0].size, np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].area):
        picture[masks[i].decode().numpy()] = i + 1
    image = PILImage.fromarray(picture, mode=None)
    image.putpalette([channel for i in range(256) for channel in _colour(i)])
    return image


def _colour(index: int) -> tuple[int, int, int]:
    """VOC's colour map: the index's bits, dealt out to the channels from their highest bits down."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
