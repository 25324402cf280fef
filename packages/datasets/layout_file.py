"""Layouts that people write down: JSON files without images, to draw from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewright.datasets.files import distinct_keys, expand, fingerprint_of, read_bytes
from scenewright.datasets.formats.instances import mask_of
from scenewright.layout import Layout, RunLengths, Sample

#: The canvas of the reference's demo, whose files do not say one.
_DEMO_CANVAS = 512

#: No fraction of an image is as large as this: such boxes are meant as pixels.
_LARGEST_FRACTION = 4.0

#: How far a box may reach outside by rounding alone, in fractions of the canvas.
_ROUNDING = 1e-6

#: The fields that make the layout; all others of an entry become its metadata.
_READ = {
    *("key", "caption", "height", "width", "boxes", "unit", "labels", "captions", "points", "scribbles"),
    *("bboxes", "annos"),
}


class LayoutFile:
    """The layouts of JSON files, as samples without images.

    A file holds one entry or a list of them. Three kinds are told apart by their fields:

    - ``boxes``, ``labels`` and, if wanted, ``key``, ``caption``, ``captions``, ``points``, ``scribbles``, ``height``,
      ``width`` and ``unit``: boxes are ``x_min y_min x_max y_max``, a point is ``x y`` or null, a scribble is a list of
      points, all as ``fractions`` of the canvas or in its ``pixels``;
    - ``bboxes`` in pixels and ``labels``, which describe: the demo of Rich-Context, on a canvas of 512 by 512 unless
      ``height`` and ``width`` say another;
    - ``annos``, each a ``bbox`` of ``x y width height`` in pixels with its ``caption`` and, if wanted,
      ``category_name``, ``mask`` (run lengths, compressed or not), ``point`` and ``scribble`` (pairs, or one flat
      list): the demos of InstanceDiffusion. Masks are brought to the size of the canvas; where only some regions have
      one, those of the others are empty.

    The canvas is ``metadata["height"]`` and ``metadata["width"]``; entries that do not say theirs have neither. Boxes
    that reach outside of the canvas are clipped, those that lie outside dropped, as are points outside of it, and
    ``warnings`` counts them all.

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
class _Regions:
    """The regions of an entry as they are written, one list each; the last three are what messages call them."""

    boxes: Sequence[Any]
    labels: Sequence[Any]
    captions: Sequence[Any]
    unit: Any
    points: Sequence[Any] | None = None
    scribbles: Sequence[Any] | None = None
    masks: Sequence[Any] | None = None
    box: str = "boxes[{}]"
    point: str = "points[{}]"
    scribble: str = "scribbles[{}]"


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
        """The layout on its canvas, and what had to be clipped or dropped for that."""
        given = self._regions()
        if given.unit not in ("fractions", "pixels"):
            raise self._error("unit", "'fractions' or 'pixels'", given.unit)
        if given.unit == "pixels" and canvas is None:
            raise self._error("height, width", "given where boxes are in pixels", None)
        self._check_lists(given)
        scale = None if given.unit == "fractions" else canvas
        boxes, warnings = self._boxes(given, scale)
        points, lost = self._points(given, scale)
        scribbles, also_lost = self._scribbles(given, scale)
        masks = self._masks(given.masks, *canvas) if given.masks is not None and canvas is not None else None
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        known = {"masks": masks, "points": points, "scribbles": scribbles}
        layout = Layout(boxes, list(given.labels), list(given.captions), **known)
        return layout.keep(kept), warnings + lost + also_lost

    def _regions(self) -> _Regions:
        """The entry's lists, whichever kind it is of."""
        if "annos" in self.fields:
            return self._annos()
        if "bboxes" in self.fields:
            described = self._list("labels")
            return _Regions(self._list("bboxes"), described, described, "pixels", box="bboxes[{}]")
        captions = self._list("captions") if self.fields.get("captions") else []
        points, scribbles = (None if self.fields.get(x) is None else self._list(x) for x in ("points", "scribbles"))
        unit = self.fields.get("unit", "fractions")
        return _Regions(self._list("boxes"), self._list("labels"), captions, unit, points, scribbles)

    def _annos(self) -> _Regions:
        """InstanceDiffusion's entries, one list for each of their fields."""
        annos = self._list("annos")
        boxes, labels, captions = [], [], []
        for i, anno in enumerate(annos):
            if not isinstance(anno, dict) or "bbox" not in anno:
                raise self._error(f"annos[{i}]", 'a {"bbox": [x, y, width, height], "caption": text}', anno)
            x, y, width, height = self._numbers(f"annos[{i}].bbox", anno["bbox"])
            boxes.append([x, y, x + width, y + height])
            captions.append(anno.get("caption") or anno.get("category_name") or "")
            labels.append(anno.get("category_name") or captions[-1])
        every = ([anno.get(name) for anno in annos] for name in ("point", "scribble", "mask"))
        points, scribbles, masks = (some if any(some) else None for some in every)
        names = {"box": "annos[{}].bbox", "point": "annos[{}].point", "scribble": "annos[{}].scribble"}
        return _Regions(boxes, labels, captions, "pixels", points, scribbles, masks, **names)

    def _check_lists(self, given: _Regions) -> None:
        for field in ("labels", "captions", "points", "scribbles"):
            values = getattr(given, field)
            if values is None or (field == "captions" and not values):
                continue
            if len(values) != len(given.boxes):
                raise self._error(field, f"one entry per box ({len(given.boxes)})", len(values), shown=False)
            if field in ("labels", "captions"):
                for i, text in enumerate(values):
                    self._text(f"{field}[{i}]", text)

    def _boxes(self, given: _Regions, scale: tuple[int, int] | None) -> tuple[Float[Tensor, "n 4"], list[str]]:
        """Boxes clipped to the canvas, without area where they lie outside of it."""
        rows = []
        for i, box in enumerate(given.boxes):
            name = given.box.format(i)
            x_min, y_min, x_max, y_max = self._numbers(name, box)
            if x_min >= x_max or y_min >= y_max:
                raise self._error(name, "x_min y_min x_max y_max with x_min < x_max and y_min < y_max", box)
            rows.append(self._fractions(name, [x_min, y_min, x_max, y_max], box, scale))
        corners = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)  # as exact as they were written
        inside = corners.clamp(0, 1)
        kept = ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
        clipped = int(((inside - corners).abs().amax(1) > _ROUNDING)[kept].sum()) if rows else 0
        counts = {"clipped to the canvas": clipped, "dropped, being outside of the canvas": int((~kept).sum())}
        warnings = [f"boxes {what}: {number} of {len(rows)}" for what, number in counts.items() if number]
        return inside.float(), warnings

    def _points(self, given: _Regions, scale: tuple[int, int] | None) -> tuple[Float[Tensor, "n 2"] | None, list[str]]:
        """Points on the canvas, NaN for regions that have none there."""
        if given.points is None:
            return None, []
        rows = []
        for i, point in enumerate(given.points):
            name = given.point.format(i)
            missing = point is None or point == []
            rows.append([math.nan] * 2 if missing else self._pair(name, point, scale))
        found, outside = _on_canvas(rows)
        lost, every = int(outside.sum()), int((~found.isnan().any(1)).sum())
        warnings = [f"points dropped, being outside of the canvas: {lost} of {every}"] if lost else []
        return found.where(~outside[:, None], math.nan), warnings

    def _scribbles(
        self, given: _Regions, scale: tuple[int, int] | None
    ) -> tuple[list[Float[Tensor, "_k 2"]] | None, list[str]]:
        """Scribbles on the canvas."""
        if given.scribbles is None:
            return None, []
        scribbles, lost, every = [], 0, 0
        for i, scribble in enumerate(given.scribbles):
            name = given.scribble.format(i)
            pairs = [self._pair(f"{name}[{k}]", pair, scale) for k, pair in enumerate(self._pairs(name, scribble))]
            found, outside = _on_canvas(pairs)
            scribbles.append(found[~outside])
            lost, every = lost + int(outside.sum()), every + len(found)
        warnings = [f"points of scribbles dropped, being outside of the canvas: {lost} of {every}"] if lost else []
        return scribbles, warnings

    def _masks(self, masks: Sequence[Any], height: int, width: int) -> list[RunLengths]:
        """Masks at the size of the canvas."""
        nothing = RunLengths.encode(torch.zeros(1, height, width, dtype=torch.bool))[0]
        found = []
        for i, mask in enumerate(masks):
            try:
                known = mask_of(mask, *map(int, mask["size"])) if mask else None
                found.append(nothing if known is None else RunLengths.encode(known.decode()[None])[0])
            except Exception:  # pycocotools raises nothing more particular
                expected = 'run lengths {"size": [height, width], "counts": text or numbers}, or []'
                raise self._error(f"annos[{i}].mask", expected, mask) from None
        return [x.resized(height, width) for x in found]

    def _fractions(
        self, name: str, values: Sequence[float], written: Any, scale: tuple[int, int] | None
    ) -> list[float]:
        """``x y x y …`` as fractions of the canvas."""
        if scale is None:
            if max(map(abs, values)) > _LARGEST_FRACTION:
                raise self._error(name, 'fractions of the canvas; for pixels add "unit": "pixels"', written)
            return list(values)
        return [x / scale[1 - i % 2] for i, x in enumerate(values)]

    def _pair(self, name: str, value: Any, scale: tuple[int, int] | None) -> list[float]:
        fine = isinstance(value, list) and len(value) == 2
        if not fine or not all(type(x) in (int, float) and math.isfinite(x) for x in value):
            raise self._error(name, "two finite numbers, x y", value)
        return self._fractions(name, [float(x) for x in value], value, scale)

    def _pairs(self, name: str, value: Any) -> list[Any]:
        """The points of a scribble, which may be written as one flat list."""
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(name, "a list of points", value)
        if not value or isinstance(value[0], list):
            return value
        if len(value) % 2:
            raise self._error(name, "a list of points, or a flat one of as many x as y", value)
        return [value[i : i + 2] for i in range(0, len(value), 2)]

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


def _on_canvas(rows: Sequence[Sequence[float]]) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Points, and which of them lie outside of the canvas."""
    found = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)
    outside = ((found < -_ROUNDING) | (found > 1 + _ROUNDING)).any(1)
    return found.clamp(0, 1).float(), outside
