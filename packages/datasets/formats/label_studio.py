"""Label Studio: tasks to correct, and back.

Source: labelstud.io/guide/task_format and /guide/predictions; brushes in ``brush``.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from more_itertools import chunked

from scenewright.datasets.files import expand, join, read_bytes
from scenewright.datasets.formats import brush
from scenewright.datasets.formats.categories import Categories
from scenewright.datasets.formats.documents import to_json
from scenewright.datasets.formats.overlay import Correction, Region
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.datasets.formats.pixels import corners
from scenewright.datasets.formats.polygons import inside
from scenewright.layout import RunLengths, Sample

#: The second half of a region's two ids: its rectangle is ``r0``, its brush ``r0-mask``.
_BRUSH = "-mask"


class LabelStudio:
    """``tasks-00000.json`` …, ``labeling_config.xml`` and ``images/``.

    A region is a rectangle and, with masks, a brush; it is gone when a person deleted both. Its caption is a text
    area of its own, which can be edited.

    Args:
        shapes: ``both``, ``boxes`` or ``masks``; regions without masks are boxes in any case.
        state: ``predictions``, which Label Studio offers to be corrected, or ``annotations``, which count as done.
        prefix: what the images' addresses start with.
        tasks_per_file: Label Studio takes files of up to 250 MB.
        images: ``copy``, ``link``, ``path`` or ``none``.
        image_root: for ``link`` and ``path``: where the images are.
        labels: the labels to choose from, or a file of them; those of the samples, if None.

    Raises:
        ValueError: ``shapes`` or ``state`` is none of these.
    """

    def __init__(
        self,
        shapes: str = "both",
        state: str = "predictions",
        prefix: str = "/data/local-files/?d=images/",
        tasks_per_file: int = 1000,
        images: str = "copy",
        image_root: str | None = None,
        labels: Sequence[str] | str | None = None,
    ) -> None:
        if shapes not in ("both", "boxes", "masks"):
            raise ValueError(f"shapes must be both, boxes or masks, got {shapes!r}")
        if state not in ("predictions", "annotations"):
            raise ValueError(f"state must be predictions or annotations, got {state!r}")
        self.shapes, self.state, self.prefix, self.tasks_per_file = shapes, state, prefix, tasks_per_file
        self.images, self.image_root, self.labels = images, image_root, labels

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns what was done besides."""
        pictures = Pictures(folder / "images", self.images, self.image_root)
        categories = Categories(self.labels)
        for number, some in enumerate(chunked(samples, self.tasks_per_file)):
            with open(folder / f"tasks-{number:05d}.json", "wb") as file:
                for i, sample in enumerate(some):
                    file.write((b",\n" if i else b"[\n") + to_json(self._task(sample, pictures, categories)))
                file.write(b"\n]\n")
        (folder / "labeling_config.xml").write_text(_interface(categories.names), encoding="utf-8")
        return {"pictures made anew": pictures.redrawn}

    def _task(self, sample: Sample, pictures: Pictures, categories: Categories) -> dict[str, Any]:
        name = pictures.place(sample)
        image = name if self.images == "path" else f"{self.prefix}{name}"
        results = [result for i in range(len(sample.layout)) for result in self._results(sample, i)]
        for label in sample.layout.labels:
            categories.number(label)
        made = {"model_version": "scenewright"} if self.state == "predictions" else {}
        return {
            "data": {"image": image, "key": sample.key, "caption": sample.caption},
            self.state: [{**made, "result": results}],
        }

    def _results(self, sample: Sample, i: int) -> Iterator[dict[str, Any]]:
        layout, (height, width) = sample.layout, size_of(sample)
        x0, y0, x1, y1 = (corners(layout, height, width)[i] / [width, height, width, height] * 100).tolist()
        box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}
        image = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
        if layout.scores is not None:
            image["score"] = float(str(layout.scores.cpu().numpy()[i]))
        with_mask = layout.masks is not None and self.shapes != "boxes"
        if not with_mask or self.shapes == "both":
            value = {**box, "rectanglelabels": [layout.labels[i]]}
            yield {"id": f"r{i}", "type": "rectanglelabels", "from_name": "box", "value": value, **image}
        if layout.masks is not None and with_mask:
            value = {"format": "rle", "rle": brush.encode(layout.masks[i]), "brushlabels": [layout.labels[i]]}
            yield {"id": f"r{i}{_BRUSH}", "type": "brushlabels", "from_name": "mask", "value": value, **image}
        if layout.captions:
            of = f"r{i}" if not with_mask or self.shapes == "both" else f"r{i}{_BRUSH}"
            value = {"text": [layout.captions[i]]} | (box if of == f"r{i}" else {})
            yield {"id": of, "type": "textarea", "from_name": "caption", "value": value, **image}

    def corrections(self, source: str) -> dict[str, Correction]:
        """What people left, changed and drew, by key: the task's ``key``, or the stem of its image.

        Of a task's annotations the latest counts that was not cancelled; a task without any was not looked at,
        and is not among them. Rectangles, brushes, polygons and ellipses are read.

        Args:
            source: the exported JSON, a pattern for several, or a folder of them.

        Raises:
            ValueError: it is no such export.
        """
        found: dict[str, Correction] = {}
        for path in expand(join(source, "*.json") if Path(source).is_dir() else source):
            try:
                for task in json.loads(read_bytes(path)):
                    done = [x for x in task.get("annotations", []) if not x.get("was_cancelled")]
                    if done:
                        latest = max(done, key=lambda x: x.get("updated_at") or x.get("created_at") or "")
                        found[_key(task["data"])] = partial(_regions, latest["result"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is no JSON export of Label Studio: {type(error).__name__}: {error}") from None
        return found


def _key(data: Mapping[str, Any]) -> str:
    if "key" in data:
        return str(data["key"])
    # uploads get eight characters in front of their name
    return re.sub(r"^[0-9a-f]{8}-", "", PurePosixPath(re.split(r"[?=]", str(data["image"]))[-1]).stem)


def _regions(results: Sequence[Mapping[str, Any]], height: int, width: int) -> list[Region]:
    """Regions of results: a rectangle and a brush whose ids belong together are one."""
    texts: dict[str, str] = {}
    parts: dict[str, list[Region]] = {}
    for result in results:
        name = str(result.get("id", len(parts)))
        if result["type"] == "textarea":
            texts[name.removesuffix(_BRUSH)] = " ".join(result["value"].get("text", []))
        elif (region := _region(result, height, width)) is not None:
            parts.setdefault(name.removesuffix(_BRUSH), []).append(region)
    return [_joined(found, texts.get(name)) for name, found in parts.items()]


def _joined(parts: Sequence[Region], caption: str | None) -> Region:
    """A region of its rectangle, whose box and label it gets, and of its mask."""
    first = min(parts, key=lambda x: x.mask is not None)
    mask = next((x.mask for x in parts if x.mask is not None), None)
    return Region(first.box, first.label, caption, first.score, mask, first.warning)


def _region(result: Mapping[str, Any], height: int, width: int) -> Region | None:
    """One shape; None for what is none, as choices for the whole image."""
    size = (result.get("original_height", height), result.get("original_width", width))
    if size != (height, width):
        raise ValueError(f"it is {width} x {height} in the shards, {size[1]} x {size[0]} in the file")
    value, kind = result["value"], result["type"]
    score = None if result.get("score") is None else float(result["score"])
    labels = value.get(kind) or value.get("labels")
    if kind not in _SHAPES:
        if {"x", "points", "rle"} & set(value):
            raise ValueError(f"a shape of kind {kind} cannot be read, only {', '.join(_SHAPES)}")
        return None
    label, warning = (labels[0], "") if labels else ("", "a region has no label")
    box, mask = _SHAPES[kind](value, height, width)
    return Region(box, label, None, score, mask, warning)


_Shape = tuple[tuple[float, float, float, float], RunLengths | None]


def _rectangle(value: Mapping[str, Any], height: int, width: int) -> _Shape:
    """A rectangle in per cent, turned clockwise about its first corner; of a turned one, the box around it."""
    x, y, w, h = (value[name] / 100 for name in ("x", "y", "width", "height"))
    if not value.get("rotation"):
        return (x, y, x + w, y + h), None
    angle = math.radians(value["rotation"])
    right = np.array([math.cos(angle), math.sin(angle)]) * w * width
    down = np.array([-math.sin(angle), math.cos(angle)]) * h * height
    points = (np.array([x * width, y * height]) + [right * 0, right, down, right + down]) / [width, height]
    return (*points.min(0).tolist(), *points.max(0).tolist()), None


def _brush(value: Mapping[str, Any], height: int, width: int) -> _Shape:
    return _of_mask(brush.decode(value["rle"], height, width))


def _polygon(value: Mapping[str, Any], height: int, width: int) -> _Shape:
    return _of_mask(inside(np.asarray(value["points"], dtype=np.float64) / 100 * [width, height], height, width))


def _ellipse(value: Mapping[str, Any], height: int, width: int) -> _Shape:
    angles, turn = np.linspace(0, 2 * np.pi, 72, endpoint=False), math.radians(value.get("rotation", 0))
    x, y = np.cos(angles) * value["radiusX"] * width, np.sin(angles) * value["radiusY"] * height
    points = np.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], 1) / 100
    centre = np.array([value["x"] * width, value["y"] * height]) / 100
    return _of_mask(inside(points + centre, height, width))


def _of_mask(mask: RunLengths) -> _Shape:
    x0, y0, x1, y1 = mask.box.tolist()
    return (x0, y0, x1, y1), mask


_SHAPES = {
    "rectanglelabels": _rectangle,
    "brushlabels": _brush,
    "polygonlabels": _polygon,
    "ellipselabels": _ellipse,
}


def _interface(labels: Iterable[str]) -> str:
    """The labeling interface: rectangles and brushes with all labels, a caption for each region."""
    choices = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <RectangleLabels name="box" toName="image">\n{choices}  </RectangleLabels>\n'
        f'  <BrushLabels name="mask" toName="image">\n{choices}  </BrushLabels>\n'
        f'  <PolygonLabels name="polygon" toName="image">\n{choices}  </PolygonLabels>\n'
        '  <TextArea name="caption" toName="image" perRegion="true" editable="true" maxSubmissions="1"/>\n</View>\n'
    )
