"""What the metrics have in common: one record per image, and numbers that come of all records at once.

A number is a function of records and of nothing else, so that it can be merged over processes, kept on disk, and
computed anew of images that are drawn with replacement.
"""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scenewright.layout import Image, Sample


@dataclass(frozen=True, eq=False)
class Record:
    """What one metric found in one generated image.

    Attributes:
        key: of the sample it was drawn from; several images of one layout have the same.
        objects: by name, one score per region in the layout's order; NaN where a region could not be scored.
        image: by name, a number of the whole image; NaN where it could not be scored.
        arrays: what else the numbers are made of: features, detections.
        problems: why something could not be scored, for people.
    """

    key: str
    objects: Mapping[str, Sequence[float]] = field(default_factory=dict)
    image: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def expected(self) -> int:
        """How many scores there are to be."""
        return sum(map(len, self.objects.values())) + len(self.image)

    @property
    def scored(self) -> int:
        """How many of them there are."""
        every = [x for scores in self.objects.values() for x in scores] + list(self.image.values())
        return sum(not math.isnan(x) for x in every)


class RecordingMetric(ABC):
    """A metric that makes one record per image; its numbers are means over images unless it says otherwise.

    A subclass stores its settings under the names of its constructor's arguments, calls ``super().__init__()`` and
    has ``score``; one whose numbers are no means has ``summarize`` too. ``version`` goes up when numbers change.
    """

    higher_is_better: bool = True

    #: Numbers of which neither more nor less is better, such as standard deviations.
    undirected: frozenset[str] = frozenset()
    version: int = 1

    #: For an interval, the numbers are computed so many times of images drawn with replacement.
    rounds: int = 1000

    def __init__(self) -> None:
        self.records: list[Record] = []

    @abstractmethod
    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        """One record per image, in order, whatever else is in the batch."""

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        """The numbers that come of these records, by name; the same for any order of them.

        Where a record is in it twice, its image counts twice.
        """
        names, values = image_values(records)
        return dict(zip(names, means(values).tolist(), strict=True))

    def update(self, generated: Sequence[Image], samples: Sequence[Sample]) -> None:
        """Score these images; see ``Metric``."""
        if len(generated) != len(samples):
            raise ValueError(f"there must be one sample per image ({len(generated)}), got {len(samples)}")
        self.records += self.score(generated, samples)

    def compute(self) -> dict[str, float]:
        """The numbers of all processes' images. Collective."""
        return self.summarize(gathered(self.records))

    def reset(self) -> None:
        """Forget all images."""
        self.records = []

    @property
    def is_mean(self) -> bool:
        """Whether each number is the mean of one number per image."""
        return type(self).summarize is RecordingMetric.summarize


def image_values(records: Sequence[Record]) -> tuple[list[str], np.ndarray]:
    """Names, and one row of numbers per record: a score of the image itself, or the mean over its scored regions.

    NaN where an image has none: an image without regions says nothing about regions.
    """
    names = list(dict.fromkeys(name for x in records for name in (*x.objects, *x.image)))
    values = np.full((len(records), len(names)), np.nan)
    for row, record in zip(values, records, strict=True):
        for i, name in enumerate(names):
            if name in record.image:
                row[i] = record.image[name]
            elif name in record.objects:
                row[i] = mean(record.objects[name])
    return names, values


def mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN of none."""
    known = [x for x in values if not math.isnan(x)]
    return math.fsum(known) / len(known) if known else math.nan


def means(values: np.ndarray) -> np.ndarray:
    """Of each column, over what is a number; NaN of none."""
    return np.array([mean(column) for column in values.T.tolist()])


def gathered(records: Sequence[Record]) -> list[Record]:
    """The records of all processes, in the order of their keys: the same for any number of processes. Collective."""
    every = [list(records)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        every = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(every, list(records))
    return sorted((x for some in every for x in some), key=lambda x: x.key)  # stable: a layout's images stay in order


def pack(records: Sequence[Record]) -> bytes:
    """Records as a file: numpy's ``.npz``."""
    plain: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for i, x in enumerate(records):
        objects = {name: list(map(float, scores)) for name, scores in x.objects.items()}
        image = {name: float(score) for name, score in x.image.items()}
        about = {"key": x.key, "objects": objects, "image": image, "arrays": list(x.arrays)}
        plain.append({**about, "problems": list(x.problems)})
        arrays |= {f"{i}/{name}": array for name, array in x.arrays.items()}
    file = io.BytesIO()
    text = json.dumps(plain, ensure_ascii=False).encode(errors="surrogateescape")
    np.savez_compressed(file, allow_pickle=False, records=np.frombuffer(text, np.uint8), **arrays)
    return file.getvalue()


def unpack(data: bytes) -> list[Record]:
    """What ``pack`` packed.

    Raises:
        ValueError, OSError, KeyError: it is not whole.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        plain = json.loads(stored["records"].tobytes().decode(errors="surrogateescape"))
        return [
            Record(**{**x, "arrays": {name: stored[f"{i}/{name}"] for name in x["arrays"]}})
            for i, x in enumerate(plain)
        ]
