"""Hugging Face datasets: parquet files with images inside.

Source: huggingface.co/docs/datasets, object detection.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from more_itertools import chunked, ichunked

from scenewright.datasets.formats.pictures import picture_file, size_of
from scenewright.datasets.formats.pixels import xywh
from scenewright.layout import Layout, Sample


class HuggingFace:
    """``data/train-00000.parquet`` …: ``datasets.load_dataset(folder)`` reads them, without network.

    A row has ``key``, ``image``, ``caption``, ``tags``, ``width``, ``height``, ``metadata`` (JSON) and
    ``objects``: each ``label``, ``bbox`` (left, top, width, height in pixels), ``caption``, ``score`` and
    ``segmentation`` (COCO's run lengths), the last three null where there are none.

    Args:
        images: ``copy`` puts the files' bytes in; ``none`` leaves the column out.
        rows_per_file: samples in a file.
        rows_per_group: samples that are held in memory, and that a reader loads at once.

    Raises:
        ValueError: ``images`` is none of these, or, when written, ``datasets`` and ``pyarrow`` are not installed.
    """

    def __init__(self, images: str = "copy", rows_per_file: int = 1000, rows_per_group: int = 100) -> None:
        if images not in ("copy", "none"):
            raise ValueError(f"images must be copy or none, got {images!r}")
        self.images, self.rows_per_file, self.rows_per_group = images, rows_per_file, rows_per_group

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns how many files there are, and what was done besides."""
        try:
            import pyarrow
            from pyarrow.parquet import ParquetWriter

            schema = self._schema()
        except ImportError as error:
            raise ValueError(f"this format needs {error.name}; pip install datasets") from error
        files = redrawn = 0
        (folder / "data").mkdir()
        for some in ichunked(samples, self.rows_per_file):
            with ParquetWriter(folder / "data" / f"train-{files:05d}.parquet", schema) as writer:
                for group in chunked(some, self.rows_per_group):
                    rows, anew = zip(*map(self._row, group), strict=True)
                    writer.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema))
                    redrawn += sum(anew)
            files += 1
        if not files:  # a folder without any file cannot be loaded
            ParquetWriter(folder / "data" / "train-00000.parquet", schema).close()
        return {"files": files, "pictures made anew": redrawn}

    def _schema(self) -> Any:
        from datasets import Features, Image, List, Value

        text, number = Value("string"), Value("float64")
        features = {
            "key": text,
            "image": Image(),
            "width": Value("int32"),
            "height": Value("int32"),
            "caption": text,
            "tags": List(text),
            "objects": List(
                {
                    "label": text,
                    "bbox": List(number, length=4),
                    "caption": text,
                    "score": Value("float32"),
                    "segmentation": {"size": List(Value("int32")), "counts": text},
                }
            ),
            "metadata": text,
        }
        if self.images == "none":
            del features["image"]
        return Features(features).arrow_schema

    def _row(self, sample: Sample) -> tuple[dict[str, Any], bool]:
        """The sample's row, and whether its picture was made anew."""
        height, width = size_of(sample)
        row: dict[str, Any] = {
            "key": sample.key,
            "width": width,
            "height": height,
            "caption": _text(sample.caption),
            "tags": [_text(tag) for tag in sample.tags],
            "objects": _objects(sample.layout, height, width),
            "metadata": json.dumps(dict(sample.metadata), default=str),
        }
        if self.images == "none":
            return row, False
        data, anew = picture_file(sample)
        return row | {"image": {"bytes": data, "path": None}}, anew


def _objects(layout: Layout, height: int, width: int) -> list[dict[str, Any]]:
    masks = [{"size": list(x.size), "counts": x.counts.decode()} for x in layout.masks or []]
    return [
        {
            "label": _text(layout.labels[i]),
            "bbox": box,
            "caption": _text(layout.captions[i]) if layout.captions else None,
            "score": None if layout.scores is None else float(layout.scores[i]),
            "segmentation": masks[i] if masks else None,
        }
        for i, box in enumerate(xywh(layout, height, width))
    ]


def _text(text: str) -> str:
    """Parquet holds UTF-8 only."""
    return text.encode(errors="replace").decode()
