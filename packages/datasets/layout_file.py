"""Layouts that people write down: JSON files without images, to draw from."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from scenewright.datasets.files import distinct_keys, expand, fingerprint_of, read_bytes
from scenewright.layout import Layout, RunLengths, Sample

#: The canvas of the reference's demo, whose files do not say one.
_DEMO_CANVAS = 512

#: No fraction of an image is as large as this: such boxes are meant as pixels.
_LARGEST_FRACTION = 4.0

#: How far a box may reach outside by rounding alone, in fractions of the canvas.
_ROUNDING = 1e-6

#: The fields that make the layout; all others of an entry become its metadata.
_READ = {"key", "caption", "height", "width", "boxes", "unit", "labels", "captions", "bboxes", "annos"}


class LayoutFile:
    """The layouts of JSON files, as samples without images.

    A file holds one entry or a list of them. Three kinds are told apart by their fields:

    - ``boxes``, ``labels`` and, if wanted, ``key``, ``caption``, ``captions``, ``height``, ``width`` and ``unit``:
      boxes are ``x_min y_min x_max y_max``, as ``fractions`` of the canvas or in its ``pixels``;
    - ``bboxes`` in pixels and ``labels``, which describe: the demo of Rich-Context, on a canvas of 512 by 512 unless
      ``height`` and ``width`` say another;
    - ``annos``, each a ``bbox`` of ``x y width height`` in pixels with its ``caption``: the demos of InstanceDiffusion.

    The canvas is ``metadata["height"]`` and ``metadata["width"]``; entries that do not say theirs have neither. Boxes
    that reach outside of the canvas are clipped, those that lie outside dropped, and ``warnings`` counts both.

    Args:
        path: a file, a folder of ``.json`` files, or a pattern ("layouts/*.json").

    Raises:
        ValueError: no path is given, a file is no JSON, or an entry is none; the message names file, entry and field.
        FileNotFoundError: there is no such file.

    Source: ``demo`` of Cheng et al. 2024, arXiv 2409.04847, and Wang et al. 2024, arXiv 2402.03290.
    """

    def __init__(self, path: str | None = None) -> None:
        if not path:
            raise ValueError("a file or folder of layouts must be named: layouts=demo.json, or another dataset=…")
        self.path = str(path)
        self._loaded: tuple[list[Sample], str] | None = None

    @property
    def fingerprint(self) -> str:
        return self._load()[1]

    def __len__(self) -> int:
        return len(self._load()[0])

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        return iter(self._load()[0][start:stop])

    def _load(self) -> tuple[list[Sample], str]:
        """All samples, and the files' fingerprint."""
        if self._loaded is None:
            files = self._files()
            contents = [read_bytes(file) for file in files]
            entries = [x for file, data in zip(files, contents, strict=True) for x in _entries(file, data)]
            keys = distinct_keys([x.stem for x in entries], [x.where for x in entries])
            samples = [x.sample(key) for x, key in zip(entries, keys, strict=True)]
            self._loaded = samples, fingerprint_of(contents)
        return self._loaded

    def _files(self) -> list[str]:
        if not Path(self.path).is_dir():
            return expand(self.path)
        files = sorted(str(x) for x in Path(self.path).glob("*.json"))
        if not files:
            raise FileNotFoundError(f"the folder {self.path} has no .json files")
        return files


@dataclass(frozen=True)
class _Entry:
    """One layout as it stands in a file; ``where`` names it in messages, ``stem`` is the key it asks for."""

    where: str
    stem: str
    fields: Mapping[str, Any]

    def sample(self, key: str) -> Sample:
        canvas = self._canvas()
        layout, warnings = self._layout(canvas)
        metadata = {name: value for name, value in self.fields.items() if name not in _READ}
        if canvas:
            metadata |= {"height": canvas[0], "width": canvas[1]}
        caption = self._text("caption", self.fields.get("caption") or "")
        return Sample(key=key, caption=caption, layout=layout, metadata=metadata, warnings=warnings)

    def _layout(self, canvas: tuple[int, int] | None) -> tuple[Layout, list[str]]:
        if "annos" in self.fields:
            return self._clipped(*self._annos(), unit="pixels", canvas=canvas)
        if "bboxes" in self.fields:
            described = self._list("labels")
            return self._clipped("bboxes", self._list("bboxes"), described, described, unit="pixels", canvas=canvas)
        unit = self.fields.get("unit", "fractions")
        captions = self._list("captions") if self.fields.get("captions") else []
        return self._clipped("boxes", self._list("boxes"), self._list("labels"), captions, unit=unit, canvas=canvas)

    def _annos(self) -> tuple[str, list[Any], list[Any], list[Any], list[RunLengths] | None]:
        """The fields of InstanceDiffusion's entries, one list each."""
        annos = self._list("annos")
        boxes, labels, captions, masks = [], [], [], []
        for i, anno in enumerate(annos):
            if not isinstance(anno, dict) or "bbox" not in anno:
                raise self._error(f"annos[{i}]", 'a {"bbox": [x, y, width, height], "caption": text}', anno)
            x, y, width, height = self._numbers(f"annos[{i}].bbox", anno["bbox"])
            boxes.append([x, y, x + width, y + height])
            captions.append(anno.get("caption") or anno.get("category_name") or "")
            labels.append(anno.get("category_name") or captions[-1])
            masks.append(anno.get("mask"))
        known = [_run_lengths(mask) for mask in masks if _is_run_lengths(mask)]
        return "annos.bbox", boxes, labels, captions, known if known and len(known) == len(annos) else None

    def _clipped(
        self,
        name: str,
        boxes: Sequence[Any],
        labels: Sequence[Any],
        captions: Sequence[Any],
        masks: list[RunLengths] | None = None,
        *,
        unit: Any,
        canvas: tuple[int, int] | None,
    ) -> tuple[Layout, list[str]]:
        """The layout on its canvas, and what had to be clipped or dropped for that."""
        corners = self._corners(name, boxes, unit, canvas)
        for field, texts in (("labels", labels), ("captions", captions)):
            if len(texts) != len(boxes) and (texts or field == "labels"):
                raise self._error(field, f"one entry per box ({len(boxes)})", len(texts), shown=False)
            for i, text in enumerate(texts):
                self._text(f"{field}[{i}]", text)
        inside = corners.clamp(0, 1)
        kept = ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
        clipped = int(((inside - corners).abs().amax(1) > _ROUNDING)[kept].sum()) if len(corners) else 0
        dropped = len(corners) - int(kept.sum())
        layout = Layout(inside.float(), list(labels), list(captions), masks=masks).keep(kept)
        counts = {"clipped to the canvas": clipped, "dropped, being outside of the canvas": dropped}
        return layout, [f"boxes {what}: {number} of {len(boxes)}" for what, number in counts.items() if number]

    def _corners(self, name: str, boxes: Sequence[Any], unit: Any, canvas: tuple[int, int] | None) -> torch.Tensor:
        """Boxes as fractions, as exact as they were written."""
        if unit not in ("fractions", "pixels"):
            raise self._error("unit", "'fractions' or 'pixels'", unit)
        if unit == "pixels" and canvas is None:
            raise self._error("height, width", "given where boxes are in pixels", None)
        corners = []
        for i, box in enumerate(boxes):
            x_min, y_min, x_max, y_max = self._numbers(f"{name}[{i}]", box)
            if x_min >= x_max or y_min >= y_max:
                raise self._error(f"{name}[{i}]", "x_min y_min x_max y_max with x_min < x_max and y_min < y_max", box)
            if unit == "fractions" and max(map(abs, (x_min, y_min, x_max, y_max))) > _LARGEST_FRACTION:
                raise self._error(f"{name}[{i}]", 'fractions of the canvas; for pixels add "unit": "pixels"', box)
            corners.append([x_min, y_min, x_max, y_max])
        found = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
        if unit == "pixels" and canvas:
            height, width = canvas
            found = found / found.new_tensor([width, height, width, height])
        return found

    def _canvas(self) -> tuple[int, int] | None:
        """Height and width in pixels, where the entry says them or its kind has them."""
        sides = [self.fields.get(name) for name in ("height", "width")]
        if sides == [None, None]:
            return (_DEMO_CANVAS, _DEMO_CANVAS) if "bboxes" in self.fields else None
        for name, side in zip(("height", "width"), sides, strict=True):
            if isinstance(side, bool) or not isinstance(side, (int, float)) or side != side or side < 1 or side % 1:
                raise self._error(name, "a whole number of pixels, with the other side beside it", side)
        return int(sides[0]), int(sides[1])  # pyright: ignore[reportArgumentType]

    def _list(self, name: str) -> list[Any]:
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self._error(name, "a list", value)
        return value

    def _numbers(self, name: str, value: Any) -> list[float]:
        fine = isinstance(value, list) and len(value) == 4
        if not fine or not all(type(x) in (int, float) and math.isfinite(x) for x in value):
            raise self._error(name, "four finite numbers", value)
        return [float(x) for x in value]

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._error(name, "a text", value)
        return value

    def _error(self, field: str, expected: str, found: Any, shown: bool = True) -> ValueError:
        fact = json.dumps(found)[:80] if shown else found
        return ValueError(f"{self.where}: {field} must be {expected}, got {fact}")


def _entries(file: str, data: bytes) -> list[_Entry]:
    """The entries of one file.

    Raises:
        ValueError: it is no JSON, or holds something else.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    listed = found if isinstance(found, list) else [found]
    stem = PurePosixPath(file).stem
    entries = []
    for i, fields in enumerate(listed):
        where = f"{file}, entry {i}" if isinstance(found, list) else file
        if not isinstance(fields, dict) or not any(x in fields for x in ("boxes", "bboxes", "annos")):
            shown = json.dumps(fields)[:80]
            raise ValueError(f'{where}: it must have "boxes" and "labels" (or "bboxes", or "annos"), got {shown}')
        key = fields.get("key", f"{stem}-{i}" if isinstance(found, list) else stem)
        if not isinstance(key, (str, int)) or not str(key):
            raise ValueError(f"{where}: key must be a text, got {json.dumps(key)[:80]}")
        entries.append(_Entry(where, str(key), fields))
    return entries


def _is_run_lengths(mask: Any) -> bool:
    return isinstance(mask, dict) and isinstance(mask.get("counts"), str) and len(mask.get("size") or []) == 2


def _run_lengths(mask: Mapping[str, Any]) -> RunLengths:
    height, width = mask["size"]
    return RunLengths(size=(int(height), int(width)), counts=mask["counts"].encode())
