"""What COCO's and LVIS's files have in common: images, annotations and categories in one document."""

from collections.abc import Iterator
from typing import Any

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
        ValueError: it is of another size, or none of these.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask is of {segmentation['size']}, the image has {[height, width]} (height, width)")
        if isinstance(segmentation["counts"], str):
            return RunLengths(size=(height, width), counts=segmentation["counts"].encode())
        return RunLengths((height, width), coco_mask.frPyObjects(segmentation, height, width)["counts"])
    # fewer than three points enclose nothing, and pycocotools takes a list of four numbers for a box
    polygons = [x for x in segmentation if len(x) >= 6]
    if not polygons:
        return None
    return RunLengths((height, width), coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"])


def _segmentation(mask: RunLengths, segmentation: str) -> Any:
    polygons = outlines(mask) if segmentation == "polygons" else None
    return polygons or {"size": list(mask.size), "counts": mask.counts.decode()}
