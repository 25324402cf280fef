"""LVIS: COCO's file with what a long tail of categories needs.

Source: Gupta et al. 2019, arXiv 1908.03195; the format of lvisdataset.org.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenewright.datasets.formats.categories import Categories
from scenewright.datasets.formats.documents import JSONLists
from scenewright.datasets.formats.instances import annotations, check_segmentation
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.layout import Sample


class LVIS:
    """``lvis.json`` and ``images/``.

    Nobody looked for what is *not* in the images, so ``neg_category_ids`` are empty, and every category of an
    image is listed as not exhaustive: an evaluation then counts no unmatched detection of it as false.

    Args:
        segmentation: ``polygons``, or ``rle``; masks with holes are run lengths in any case.
        images: ``copy``, ``link``, ``path`` or ``none``.
        image_root: for ``link`` and ``path``: where the images are.
        labels: the categories, or a file of them; those of the samples, in the order they come, if None.
    """

    def __init__(
        self,
        segmentation: str = "polygons",
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
        categories, in_images, instances = Categories(self.labels, first=1), Counter[int](), Counter[int]()
        with JSONLists(folder / "lvis.json", "images", "annotations") as document:
            document.head = {"info": {"description": "scenewright"}, "licenses": []}
            for number, sample in enumerate(samples, start=1):
                size, name, found = size_of(sample), pictures.place(sample), Counter[int]()
                for region in annotations(sample, size, number, categories, self.segmentation):
                    found[region["category_id"]] += 1
                    document.add("annotations", {"id": instances.total() + found.total()} | region)
                instances.update(found)
                in_images.update(found.keys())
                document.add("images", _image(number, name, size, sorted(found)))
            named = enumerate(categories.names, start=1)
            document.tail = {"categories": [_category(i, x, in_images[i], instances[i]) for i, x in named]}
        return {"pictures made anew": pictures.redrawn}


def _image(number: int, name: str, size: tuple[int, int], categories: list[int]) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": name,
        "coco_url": name,
        "height": size[0],
        "width": size[1],
        "license": 0,
        "neg_category_ids": [],
        "not_exhaustive_category_ids": categories,
    }


def _category(number: int, name: str, images: int, instances: int) -> dict[str, Any]:
    """A category; rare ones are in at most 10 images, common ones in at most 100."""
    return {
        "id": number,
        "name": name,
        "synset": name,
        "synonyms": [name],
        "def": "",
        "frequency": "r" if images <= 10 else "c" if images <= 100 else "f",
        "image_count": images,
        "instance_count": instances,
    }
