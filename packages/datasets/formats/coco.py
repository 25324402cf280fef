"""COCO: one JSON with boxes and masks, one with captions.

Source: Lin et al. 2014, arXiv 1405.0312; the format of cocodataset.org.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from scenewright.datasets.files import read_bytes
from scenewright.datasets.formats.categories import Categories
from scenewright.datasets.formats.documents import JSONLists
from scenewright.datasets.formats.instances import annotations, check_segmentation, mask_of
from scenewright.datasets.formats.overlay import Correction, Region
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.layout import Sample


class COCO:
    """``instances.json``, ``captions.json`` and ``images/``.

    Args:
        segmentation: ``rle``, or ``polygons``; masks with holes are run lengths in any case.
        images: ``copy``, ``link``, ``path`` or ``none``.
        image_root: for ``link`` and ``path``: where the images are.
        labels: the categories, or a file of them; those of the samples, in the order they come, if None.
    """

    def __init__(
        self,
        segmentation: str = "rle",
        images: str = "copy",
        image_root: str | None = None,
        labels: Sequence[str] | str | None = None,
    ) -> None:
        check_segmentation(segmentation)
        self.segmentation = segmentation
        self.images, self.image_root, self.labels = images, image_root, labels

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns what was done besides."""
        pictures = Pictures(folder / "images", self.images, self.image_root)
        categories, regions = Categories(self.labels, first=1), 0
        with (
            JSONLists(folder / "instances.json", "images", "annotations") as instances,
            JSONLists(folder / "captions.json", "images", "annotations") as captions,
        ):
            instances.head = captions.head = {"info": {"description": "scenewright"}, "licenses": []}
            for number, sample in enumerate(samples, start=1):
                height, width = size_of(sample)
                image = {"id": number, "file_name": pictures.place(sample), "height": height, "width": width}
                instances.add("images", image | {"key": sample.key})
                for region in annotations(sample, (height, width), number, categories, self.segmentation):
                    regions += 1
                    instances.add("annotations", {"id": regions} | region)
                if sample.caption:
                    captions.add("images", image)
                    captions.add("annotations", {"id": number, "image_id": number, "caption": sample.caption})
            named = enumerate(categories.names, start=1)
            instances.tail = {"categories": [{"id": i, "name": x, "supercategory": ""} for i, x in named]}
        return {"pictures made anew": pictures.redrawn}

    def corrections(self, source: str) -> dict[str, Correction]:
        """What a file says of its images, by key: the file name's stem, or the image's ``key``.

        Args:
            source: an ``instances.json``, or its folder.

        Raises:
            ValueError: it is not in COCO's format.
        """
        path = f"{source}/instances.json" if Path(source).is_dir() else source
        try:
            data = json.loads(read_bytes(path))
            labels = {x["id"]: x["name"] for x in data.get("categories", [])}
            regions: dict[Any, list[dict[str, Any]]] = {x["id"]: [] for x in data["images"]}
            for region in data["annotations"]:
                if not region.get("iscrowd", 0):
                    regions[region["image_id"]].append(region)
            return {
                x.get("key") or PurePosixPath(x["file_name"]).stem: partial(_regions, x, regions[x["id"]], labels)
                for x in data["images"]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not in COCO's format: {type(error).__name__}: {error}") from None


def _regions(
    image: Mapping[str, Any], found: Sequence[Mapping[str, Any]], labels: Mapping[Any, str], height: int, width: int
) -> list[Region]:
    if (image.get("height", height), image.get("width", width)) != (height, width):
        raise ValueError(f"it is {width} x {height} in the shards, {image['width']} x {image['height']} in the file")
    return [
        Region.of_pixels(
            *(float(v) for v in x["bbox"]),
            size=(height, width),
            label=_label(x["category_id"], labels),
            caption=x.get("caption"),
            score=None if x.get("score") is None else float(x["score"]),
            mask=mask_of(x.get("segmentation"), height, width),
        )
        for x in found
    ]


def _label(number: Any, labels: Mapping[Any, str]) -> str:
    if number not in labels:
        raise ValueError(f"there is no category {number}")
    return labels[number]
