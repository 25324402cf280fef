"""What COCO's and LVIS's files have in common: images, annotations and categories in one document."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int
from pycocotools import mask as _pycocotools

from scenewright.datasets.formats.categories import Categories
from scenewright.datasets.formats.pixels import xywh
from scenewright.datasets.formats.polygons import outlines
from scenewright.layout import RunLengths, Sample

coco_mask: Any = _pycocotools  # its type stubs know single masks only


def check_segmentation(segmentation: str) -> None:
    """Raises: ValueError, where it is none."""
    if segmentation not in ("rle", "polygons"):
        raise ValueError(f"segmentation must be rle or polygons, got {segmentation!r}")


def annotations(
    sample: Sample, size: tuple[int, int], image_id: int, categories: Categories, segmentation: str
) -> Iterator[dict[str, Any]]:
    """A sample's regions, without ids.

    ``caption`` and ``score`` are no fields of COCO's annotations, but its readers let others be.
    """
    layout = sample.layout
    for i, box in enumerate(xywh(layout, *size)):
        mask = layout.masks[i] if layout.masks is not None else None
        region: dict[str, Any] = {
            "image_id": image_id,
            "category_id": categories.number(layout.labels[i]),
            "bbox": box,
            "area": round(box[2] * box[3], 6) if mask is None else mask.area,
            "segmentation": [] if mask is None else _segmentation(mask, segmentation),
            "iscrowd": 0,
        }
        if layout.captions:
            region["caption"] = layout.captions[i]
        if layout.scores is not None:
            region["score"] = float(str(layout.scores.cpu().numpy()[i]))
        yield region


def mask_of(segmentation: Any, height: int, width: int) -> RunLengths | None:
    """The mask of polygons, of plain run lengths or of compressed ones; None where nothing was drawn.

    Raises:
        ValueError: it is of another size, its runs do not cover all of it, or it is none of these.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask is of {segmentation['size']}, the image has {[height, width]} (height, width)")
        runs = segmentation["counts"]
        runs = _runs(runs.encode()) if isinstance(runs, str) else np.array(runs, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != height * width:  # pycocotools would leave the other pixels undefined
            raise ValueError(f"a mask's runs must cover its {height * width} pixels, got {int(runs.sum())}")
        if isinstance(segmentation["counts"], str):
            return RunLengths(size=(height, width), counts=segmentation["counts"].encode())
        return RunLengths((height, width), coco_mask.frPyObjects(segmentation, height, width)["counts"])
    # fewer than three points enclose nothing, and pycocotools takes a list of four numbers for a box
    polygons = [x for x in segmentation if len(x) >= 6]
    if not polygons:
        return None
    return RunLengths((height, width), coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"])


def _runs(counts: bytes) -> Int[np.ndarray, " n"]:
    """Compressed run lengths as numbers.

    Each is written in groups of five bits, the least significant first, with a bit that says whether another follows
    and with a sign; from the fourth number on, it is the difference from the last but one.
    Source: the COCO API's ``maskApi``.
    """
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((groups & 32) == 0)
    if not len(ends) or ends[-1] != len(groups) - 1 or (groups < 0).any() or np.diff(ends, prepend=-1).max() > 12:
        raise ValueError(f"a mask's counts are no run lengths: {counts[:40]!r}")
    lengths = np.diff(ends, prepend=-1)
    starts = ends - lengths + 1
    places = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << (5 * places), starts)
    values -= ((groups[ends] & 16) > 0).astype(np.int64) << (5 * lengths)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def _segmentation(mask: RunLengths, segmentation: str) -> Any:
    polygons = outlines(mask) if segmentation == "polygons" else None
    return polygons or {"size": list(mask.size), "counts": mask.counts.decode()}
