"""Examples of layouts from COCO, written out for a prompt."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scenewright.datasets.files import join, read_bytes
from scenewright.datasets.gen4gen.planner.validation import SIDE

_AREAS = (0.03, 0.25)  # of an image that a box may cover


def coco_exemplars(
    folder: str,
    categories: Sequence[str] | None = None,
    num_images_per_category: int = 10,
    count: int = 50,
    seed: int = 0,
) -> str:
    """Captions and boxes of COCO's validation images, on a canvas of 512 x 512, in the form of the layout prompt.

    Of each category up to ``num_images_per_category`` images are drawn, of those that have boxes ``count``, or all if
    there are fewer. An image is shown with its first caption, and the boxes of all categories that cover 3 to 25 %.

    Args:
        folder: has ``annotations/instances_val2017.json`` and ``annotations/captions_val2017.json``; a path or URL.
        categories: COCO's names; all if not given.
        seed: of both draws.

    Raises:
        OSError: a file is not there.
        ValueError: a file is not in COCO's format, a category is unknown, or no image has a box of that size.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
    """
    tables = _Tables(folder)
    unknown = sorted(set(categories or ()) - set(tables.names.values()))
    if unknown:
        known = ", ".join(sorted(tables.names.values()))
        raise ValueError(f"COCO has no categories {', '.join(unknown)}; it has {known}")
    rng = np.random.default_rng(seed)
    drawn: dict[int, None] = {}
    for category, name in sorted(tables.names.items()):
        images = sorted(tables.images_of[category])
        if (categories is None or name in categories) and images:
            chosen = rng.choice(len(images), min(num_images_per_category, len(images)), replace=False)
            drawn |= dict.fromkeys(images[i] for i in chosen)
    written = [text for image in drawn if (text := tables.exemplar(image))]
    if not written:
        raise ValueError(
            f"no image in {folder} has a caption and a box that covers {_AREAS[0]:.0%} to {_AREAS[1]:.0%} of it; "
            "choose more categories, or leave coco out to use the prompt's own examples"
        )
    order = rng.choice(len(written), min(count, len(written)), replace=False)
    return "".join(written[i] for i in order)


class _Tables:
    """The JSON files, by image id."""

    def __init__(self, folder: str) -> None:
        paths = [join(folder, f"annotations/{kind}_val2017.json") for kind in ("instances", "captions")]
        data = [read_bytes(path) for path in paths]
        try:
            instances, captions = map(json.loads, data)
            self.names: dict[int, str] = {x["id"]: x["name"] for x in instances["categories"]}
            self.sizes = {x["id"]: (x["height"], x["width"]) for x in instances["images"]}
            self.boxes: dict[int, list[tuple[str, Sequence[float]]]] = defaultdict(list)
            self.images_of: dict[int, set[int]] = defaultdict(set)
            for region in instances["annotations"]:
                if not region.get("iscrowd", 0):  # a crowd is no single object
                    self.images_of[region["category_id"]].add(region["image_id"])
                    self.boxes[region["image_id"]].append((self.names[region["category_id"]], region["bbox"]))
            self.captions: Mapping[int, str] = _first(captions["annotations"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{' or '.join(paths)} is not in COCO's format: {type(error).__name__}: {error}") from None

    def exemplar(self, image: int) -> str:
        """One image, written out; empty for one without a caption or a box of fitting size."""
        height, width = self.sizes[image]
        boxes = []
        for name, (x, y, w, h) in self.boxes[image]:
            if _AREAS[0] <= w * h / (width * height) <= _AREAS[1]:
                left, right = (min(max(round(v * SIDE / width), 0), SIDE) for v in (x, x + w))
                top, bottom = (min(max(round(v * SIDE / height), 0), SIDE) for v in (y, y + h))
                boxes.append([name, [left, top, right - left, bottom - top]])
        if not boxes or image not in self.captions:
            return ""
        return f"\n    Caption: {self.captions[image]}\n    Objects: {json.dumps(boxes)}\n"


def _first(captions: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The first caption of each image that is not empty, on one line."""
    found: dict[int, str] = {}
    for one in captions:
        if line := re.sub(r"\s+", " ", one["caption"]).strip():
            found.setdefault(one["image_id"], line)
    return found
