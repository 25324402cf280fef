"""What a stream of samples is like, in counts whose size does not grow with the stream.

Only words and labels are kept one by one; everything else goes into histograms
with fixed edges as it passes.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from PIL import ExifTags
from PIL import Image as PILImage

from scenewright.layout import Layout, Sample

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?=\s|$)")
#: the e of "stripe" and "whale" but not of "table"; of "striped" but not "dotted"; of "stripes" but not "houses"
_SILENT = re.compile(r"([^aeiouyl]|[aeiouy]l)e$|[^aeiouydt]ed$|[^aeiouylscxzgh]es$")
#: the vowels of "triangle", "usual" and "video" are not one, those of "nation" and "square" are
_HIATUS = re.compile(r"(?<![tcsgxh])i[ao]|(?<![gq])ua|(?<!g)eo(?!p)")
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d.,]*")


class Histogram:
    """Counts in equal bins between two edges; what lies outside is counted in the nearest bin."""

    def __init__(self, low: float, high: float, bins: int) -> None:
        self.edges: Float[np.ndarray, " edges"] = np.linspace(low, high, bins + 1)
        self.counts: Int[np.ndarray, " bins"] = np.zeros(bins, dtype=np.int64)
        self._sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Count values; those that are not numbers are left out."""
        array = np.fromiter(values, dtype=np.float64)
        array = array[np.isfinite(array)]
        np.add.at(self.counts, _bins(array, self.edges), 1)
        self._sum += float(array.sum())

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean of the values themselves; 0 for none."""
        return self._sum / self.total if self.total else 0.0


class Heat:
    """Counts of points of the unit square, on a grid whose first row is the top."""

    def __init__(self, cells: int = 40) -> None:
        self.counts: Int[np.ndarray, "cells cells"] = np.zeros((cells, cells), dtype=np.int64)
        self._edges = np.linspace(0.0, 1.0, cells + 1)

    def add(self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> None:
        """Count points given as fractions of width and height."""
        known = np.isfinite(x) & np.isfinite(y)
        np.add.at(self.counts, (_bins(y[known], self._edges), _bins(x[known], self._edges)), 1)


class Texts:
    """The captions of one kind: how long, how varied, how hard to read."""

    def __init__(self) -> None:
        self.lengths: Counter[int] = Counter()
        self.fog = Histogram(0.0, 24.0, 48)
        self.vocabulary: set[str] = set()

    def add(self, text: str) -> None:
        """Count one caption; a blank one is none."""
        if not text.strip():
            return
        found = words(text)
        self.lengths[len(found)] += 1
        self.fog.add([gunning_fog(text)])
        self.vocabulary.update(word.casefold() for word in found)

    @property
    def total(self) -> int:
        """How many captions were counted."""
        return self.lengths.total()


@dataclass(eq=False)
class Statistics:
    """Everything the report counts. Samples are added one by one and not kept.

    Attributes:
        statuses: how many samples are ``ok``, ``empty``, ``dropped`` and ``error``.
        objects: how many images have this many regions, failed ones left out.
        box_sizes: the square root of each box's share of its image, in [0, 1].
        centres: where the boxes' centres lie.
        labels: how often each label names a region.
        box_shapes: log2 of each box's width by height, in pixels where the image's size is known.
        fills: the share of its box that each mask covers.
        scores: the detector's confidence, where it gave one.
        captions: the captions of images, and of regions.
        aspects: log2 of width by height.
        sides: the longer side in pixels, as log2.
        warned: how many samples carry warnings, and the kinds of warnings.
        rejected: why filters dropped images, by kind.
        dropped: why filters dropped regions, by kind.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    box_sizes: Histogram = field(default_factory=lambda: Histogram(0.0, 1.0, 25))
    box_shapes: Histogram = field(default_factory=lambda: Histogram(-3.0, 3.0, 24))
    fills: Histogram = field(default_factory=lambda: Histogram(0.0, 1.0, 20))
    centres: Heat = field(default_factory=Heat)
    labels: Counter[str] = field(default_factory=Counter)
    scores: Histogram = field(default_factory=lambda: Histogram(0.0, 1.0, 20))
    image_captions: Texts = field(default_factory=Texts)
    region_captions: Texts = field(default_factory=Texts)
    aspects: Histogram = field(default_factory=lambda: Histogram(-2.0, 2.0, 32))
    sides: Histogram = field(default_factory=lambda: Histogram(4.0, 14.0, 40))
    warned: int = 0
    warnings: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """All samples, those that failed too."""
        return self.statuses.total()

    @property
    def regions(self) -> int:
        """All regions of all images."""
        return sum(count * images for count, images in self.objects.items())

    def add(self, sample: Sample) -> None:
        """Count one sample. Its image is not decoded; at most the file's header is read."""
        self.statuses[sample.status.partition(":")[0]] += 1
        self.warned += bool(sample.warnings)
        self.warnings.update(kind(warning) for warning in sample.warnings)
        self.dropped.update(kind(reason) for reason in sample.reasons)
        if sample.error:
            return
        size = image_size(sample)
        self._add_layout(sample.layout, size)
        self.image_captions.add(sample.caption)
        for caption in sample.layout.captions:
            self.region_captions.add(caption)
        if size:
            height, width = size
            self.aspects.add([np.log2(width / height)])
            self.sides.add([np.log2(max(height, width))])

    def _add_layout(self, layout: Layout, size: tuple[int, int] | None) -> None:
        """Count the regions of one image of ``size``, height and width."""
        self.objects[len(layout)] += 1
        if not len(layout):
            return
        x_min, y_min, x_max, y_max = layout.boxes.detach().cpu().numpy().astype(np.float64).T
        widths, heights = (x_max - x_min).clip(0), (y_max - y_min).clip(0)
        self.box_sizes.add(np.sqrt(widths * heights))
        there = (widths > 0) & (heights > 0)
        height, width = size or (1, 1)
        self.box_shapes.add(np.log2(widths[there] * width) - np.log2(heights[there] * height))
        self.centres.add((x_min + x_max) / 2, (y_min + y_max) / 2)
        self.labels.update(layout.labels)
        if layout.scores is not None:
            self.scores.add(layout.scores.tolist())
        if layout.masks is not None:
            boxes = zip(layout.masks, widths * heights, strict=True)
            self.fills.add(min(1.0, m.area / (a * m.size[0] * m.size[1])) for m, a in boxes if a > 0)


def _bins(values: Float[np.ndarray, " n"], edges: Float[np.ndarray, " edges"]) -> Int[np.ndarray, " n"]:
    """The bin of each value; the last bin holds its upper edge."""
    return (np.searchsorted(edges, values, side="right") - 1).clip(0, len(edges) - 2)


def median(counts: Counter[int]) -> float:
    """The median of the values that are counted; 0 for none."""
    if not counts.total():
        return 0.0
    values = sorted(counts)
    reached = np.cumsum([counts[value] for value in values])
    low, high = (values[int(np.searchsorted(reached, rank, side="left"))] for rank in _middle(counts.total()))
    return (low + high) / 2


def _middle(total: int) -> tuple[int, int]:
    """The ranks, from 1, of the one or two values in the middle."""
    return (total + 1) // 2, total // 2 + 1


def mean(counts: Counter[int]) -> float:
    """The mean of the values that are counted; 0 for none."""
    return sum(value * count for value, count in counts.items()) / counts.total() if counts.total() else 0.0


def kind(message: str) -> str:
    """A message without its particulars: names in quotes and numbers become "…"."""
    return _PARTICULAR.sub("…", " ".join(message.split()))


def image_size(sample: Sample) -> tuple[int, int] | None:
    """Height and width as the image is seen, from its masks or its file's header; None where nobody knows."""
    if sample.layout.masks:
        return sample.layout.masks[0].size
    if sample.source is None:
        return None
    try:
        with PILImage.open(io.BytesIO(sample.source.data)) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, EOFError, PILImage.DecompressionBombError):
        return None  # the picture's place in the report will say why
    if turned:
        width, height = height, width
    left, top, right, bottom = sample.source.border
    width, height = width - left - right, height - top - bottom
    return (height, width) if height > 0 and width > 0 else None


def words(text: str) -> list[str]:
    """The words of a text, as written; numbers are none, "two-tone" and "child's" are one each."""
    return _WORD.findall(text)


@lru_cache(maxsize=65536)
def syllables(word: str) -> int:
    """Estimate the syllables of an English word: its groups of vowels, less the silent endings; at least 1."""
    word = word.casefold()
    plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    groups = len(re.findall(r"[aeiouy]+", plain)) + len(_HIATUS.findall(plain))
    return max(1, groups - bool(_SILENT.search(word)))


def is_complex(word: str) -> bool:
    """Whether a word has three syllables or more, as Gunning counts: compounds by their parts, no -es, -ed, -ing."""
    parts = [re.sub(r"(?<=..)(es|ed|ing)$", "", part) for part in re.split(r"[-'’]", word.casefold())]
    return any(syllables(part) >= 3 for part in parts)


def gunning_fog(text: str) -> float:
    """The years of schooling that an English text asks for: 0.4 (words per sentence + percent of complex words).

    Proper names, taken to be the capitalised words inside a sentence, are not complex. 0 for a text without words.

    Source: Gunning 1952, The Technique of Clear Writing.
    """
    sentences = [found for part in _SENTENCE_END.split(text) if (found := words(part))]
    total = sum(map(len, sentences))
    if not total:
        return 0.0
    hard = sum(is_complex(w) for s in sentences for i, w in enumerate(s) if i == 0 or not w[0].isupper())
    return 0.4 * (total / len(sentences) + 100 * hard / total)
