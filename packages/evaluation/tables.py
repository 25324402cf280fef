"""What was judged as tables: one row per image, one row per region."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.evaluation.scoring import Record, mean
from scenewright.layout import Layout, Sample

Row = dict[str, Any]


def image_row(sample: Sample, index: int, records: Mapping[str, Record]) -> Row:
    """The row of one image.

    Args:
        index: of the image among those of its layout.
        records: what each metric found in it, by the metric's name.

    Returns:
        Key, index, caption, number of regions and one number per score: of the image, or the mean over its regions;
        None where there is none.
    """
    row: Row = {"key": sample.key, "image": index, "caption": sample.caption, "regions": len(sample.layout)}
    for metric, record in records.items():
        scores = {**{name: mean(x) for name, x in record.objects.items()}, **record.image}
        row |= {full_name(metric, name): _number(x) for name, x in scores.items()}
    return row


def object_rows(sample: Sample, index: int, records: Mapping[str, Record]) -> list[Row]:
    """One row per region of one image.

    Returns:
        Key and index of the image, number of the region, label, caption, box and area in fractions of the image, how
        many regions the layout has, the largest share of the region's box that another box covers, words of its
        caption (else of its label), and its scores; None where it was not scored.
    """
    layout = sample.layout
    boxes, covered = layout.boxes.double().cpu(), overlaps(layout)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).tolist()
    rows = []
    for i, box in enumerate(boxes.tolist()):
        caption = layout.captions[i] if layout.captions else ""
        row: Row = {"key": sample.key, "image": index, "object": i, "label": layout.labels[i], "caption": caption}
        row |= dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
        row |= {"area": areas[i], "count": len(layout), "overlap": covered[i]}
        row["words"] = len((caption or layout.labels[i]).split())
        for metric, record in records.items():
            row |= {full_name(metric, name): _number(x[i]) for name, x in record.objects.items()}
        rows.append(row)
    return rows


def overlaps(layout: Layout) -> list[float]:
    """Of each box, the largest share that one other box covers, 0 .. 1."""
    boxes: Float[Tensor, "n 4"] = layout.boxes.double().cpu()
    if len(boxes) < 2:
        return [0.0] * len(boxes)
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(2).fill_diagonal_(0)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    return (shared.amax(1) / areas.clamp(min=1e-12)).clamp(max=1).tolist()


def full_name(metric: str, number: str) -> str:
    """What a metric's number is called among those of all metrics: ``detector_ap/AP50``, ``crop_clip``."""
    return metric if number == metric else f"{metric}/{number}"


def parquet(rows: Sequence[Row]) -> bytes:
    """Rows as a parquet file; a column that only some have is null in the others."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: _column(x) for name, x in columns.items()}), file)
    return file.getvalue()


def _column(values: list[Any]) -> Any:
    import pyarrow

    if all(x is None for x in values):
        return pyarrow.array(values, pyarrow.float64())
    # a name of a file may hold what is no Unicode
    return pyarrow.array([_unicode(x) if isinstance(x, str) else x for x in values])


def _unicode(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
