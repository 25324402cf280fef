"""YOLO: one text file per image, one line per region.

Source: the dataset format of Darknet (Redmon et al. 2016, arXiv 1506.02640) as Ultralytics documents it, with
``data.yaml`` and, for segmentation, polygons.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scenewright.datasets.files import IMAGE_EXTENSIONS, extension
from scenewright.datasets.formats.categories import Categories
from scenewright.datasets.formats.overlay import Correction, Region
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.datasets.formats.pixels import corners
from scenewright.datasets.formats.polygons import from_ring, ring, shape_of
from scenewright.layout import Sample


class YOLO:
    """``images/SPLIT/KEY.jpg``, ``labels/SPLIT/KEY.txt`` and ``data.yaml``.

    A line is a number of a label, then centre, width and height of the box, or points around the mask; all are
    fractions. Parts and holes of a mask are joined into one line of points. A region without a mask has the
    four corners of its box. Captions and scores have no place.

    Args:
        shape: ``boxes`` or ``polygons``.
        val: share of the images that goes to ``val``, chosen by their keys; with 0, ``val`` is ``train``.
        images: ``copy``, ``link`` or ``none``.
        image_root: for ``link``: where the images are.
        labels: the names in the order of their numbers, or a file of them; in the order they come, if None.

    Raises:
        ValueError: ``shape`` or ``val`` is out of range.
    """

    def __init__(
        self,
        shape: str = "boxes",
        val: float = 0.0,
        images: str = "copy",
        image_root: str | None = None,
        labels: Sequence[str] | str | None = None,
    ) -> None:
        if shape not in ("boxes", "polygons"):
            raise ValueError(f"shape must be boxes or polygons, got {shape!r}")
        if not 0 <= val < 1:
            raise ValueError(f"val must be in [0, 1), got {val}")
        if images == "path":
            raise ValueError("YOLO finds labels beside its images, so images must be copy, link or none")
        self.shape, self.val, self.images, self.image_root, self.labels = shape, val, images, image_root, labels

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns what was done besides."""
        splits = ("train", "val") if self.val else ("train",)
        pictures = {x: Pictures(folder / "images" / x, self.images, self.image_root) for x in splits}
        categories = Categories(self.labels)
        for split in splits:
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        for sample in samples:
            split = "val" if _share(sample.key) < self.val else "train"
            name = pictures[split].place(sample)
            lines = [" ".join(line) + "\n" for line in self._lines(sample, categories)]
            (folder / "labels" / split / name).with_suffix(".txt").write_text("".join(lines))
        about: dict[str, Any] = {"path": ".", "train": "images/train", "val": f"images/{splits[-1]}"}
        about["names"] = dict(enumerate(categories.names))
        text = yaml.safe_dump(about, allow_unicode=True, sort_keys=False)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        return {"pictures made anew": sum(x.redrawn for x in pictures.values())}

    def _lines(self, sample: Sample, categories: Categories) -> Iterable[list[str]]:
        height, width = size_of(sample) if len(sample.layout) else (1, 1)
        boxes = corners(sample.layout, height, width) / [width, height, width, height]
        for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            numbers = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            if self.shape == "polygons":
                numbers = [x0, y0, x1, y0, x1, y1, x0, y1]
                if sample.layout.masks is not None and len(points := ring(sample.layout.masks[i])):
                    numbers = (points / [width, height]).ravel().tolist()
            yield [str(categories.number(sample.layout.labels[i])), *(f"{x:.6f}" for x in numbers)]

    def corrections(self, source: str) -> dict[str, Correction]:
        """What a folder says of its images, by key: the files' names without extension.

        An image without a text file has no regions. Lines may be boxes or polygons, whatever ``shape`` is.

        Args:
            source: the folder of ``data.yaml``, or that file.

        Raises:
            ValueError: there is no ``data.yaml`` or it names no labels.
        """
        path = Path(source, "data.yaml") if Path(source).is_dir() else Path(source)
        try:
            names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not name YOLO's labels: {type(error).__name__}: {error}") from None
        labels = dict(enumerate(names)) if isinstance(names, list) else {int(k): v for k, v in names.items()}
        images = {x.stem: None for x in path.parent.glob("images/**/*") if extension(x.name) in IMAGE_EXTENSIONS}
        texts = images | {x.stem: x for x in path.parent.glob("labels/**/*.txt")}
        return {key: partial(_regions, text, labels) for key, text in texts.items()}


def _regions(path: Path | None, labels: Mapping[int, str], height: int, width: int) -> list[Region]:
    found = []
    for number, line in enumerate([] if path is None else path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        label, *rest = line.split()
        if int(label) not in labels:
            raise ValueError(f"{path}, line {number}: data.yaml has no label {label}")
        numbers = [float(x) for x in rest]
        if len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
            raise ValueError(f"{path}, line {number}: a line has a label and a box or points, got {len(rest)} numbers")
        found.append(_region(labels[int(label)], numbers, height, width))
    return found


def _region(label: str, numbers: list[float], height: int, width: int) -> Region:
    if len(numbers) == 4:
        x, y, w, h = numbers
        return Region((x - w / 2, y - h / 2, x + w / 2, y + h / 2), label)
    points = shape_of(numbers)
    if _is_box(points):
        return Region((*points.min(0).tolist(), *points.max(0).tolist()), label)
    mask = from_ring(points * [width, height], height, width)
    x0, y0, x1, y1 = mask.box.tolist()
    return Region((x0, y0, x1, y1), label, mask=mask)


def _is_box(points: np.ndarray) -> bool:
    """Four corners of an upright rectangle are a box that has no mask."""
    return len(points) == 4 and all(len(set(column)) == 2 for column in points.T.tolist())


def _share(key: str) -> float:
    """A number in [0, 1) of a key's own."""
    return int.from_bytes(sha256(key.encode(errors="surrogateescape")).digest()[:4]) / 2**32
