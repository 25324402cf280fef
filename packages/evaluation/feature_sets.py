"""Two sets of images compared by their features: those that were drawn, and those they are to look like.

The second set is the images of the dataset, or a file of an earlier one. Such a file is made once and used again::

    network = InceptionV3("weights-inception-2015-12-05-6726825d.pth")
    Reference.of_images(network, (sample.image for sample in dataset)).save("coco.npz")
    Reference.merged([Reference.load("coco.npz"), Reference.load("more.npz")]).save("both.npz")

and ``metric.fid.reference=both.npz`` compares with it. It holds what network made it, and any other is refused.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from more_itertools import chunked
from torch import Tensor

from scenewright.checkpoints import Checkpoint, CheckpointError, MissingWeights
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample

logger = logging.getLogger(__name__)

#: How many numbers of its features tell the images of one layout apart, to put them in order.
_TELLING = 32


@runtime_checkable
class FeatureNetwork(Protocol):
    """Turns images into features, one row per image, whatever else is in the batch."""

    @property
    def settings(self) -> dict[str, str]:
        """By name, what decides the features besides the weights; loads nothing."""
        ...

    def digest(self) -> str:
        """Of the weights."""
        ...

    def features(self, images: Sequence[Image]) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True, eq=False)
class Reference:
    """What is known of the features of a set of images.

    Attributes:
        network: its settings and, as ``weights``, its digest.
        n: how many images.
        mean: of the features.
        covariance: of the features, without bias.
        features: of every image, where they were kept: KID needs them, Frechet distances do not.
    """

    network: Mapping[str, str]
    n: int
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    features: Float[np.ndarray, "n d"] | None = None

    @classmethod
    def of_images(cls, network: FeatureNetwork, images: Iterable[Image], keep_features: bool = True) -> Reference:
        """Of any number of images, which are looked at one after the other.

        Args:
            keep_features: False makes a smaller file, of which FID can be told but not KID.

        Raises:
            ValueError: fewer than two images.
        """
        found = [network.features(some).float().cpu() for some in chunked(images, 64)]
        return cls._of(named(network), torch.cat(found) if found else torch.zeros(0, 0), keep_features)

    @classmethod
    def merged(cls, parts: Sequence[Reference]) -> Reference:
        """Of all their images together.

        Raises:
            CheckpointError: they are of several networks.
        """
        first = parts[0]
        for x in parts[1:]:
            refuse_others(x.network, first.network, "one of the references")
        kept = [x.features for x in parts if x.features is not None]
        if len(kept) == len(parts):
            return cls._of(first.network, torch.from_numpy(np.concatenate(kept)), True)
        n = sum(x.n for x in parts)
        mean = np.sum([x.n * x.mean for x in parts], axis=0) / n
        scatter = np.zeros_like(first.covariance)
        for x in parts:  # within, and between
            scatter += (x.n - 1) * x.covariance + x.n * np.outer(x.mean - mean, x.mean - mean)
        return cls(first.network, n, mean, scatter / (n - 1))

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """What ``save`` wrote.

        Raises:
            MissingWeights: there is no such file.
            CheckpointError: it is another kind of file.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise MissingWeights(
                f"there is no reference {path}; make it with scenewright.evaluation.feature_sets.Reference.of_images, "
                "or set reference to null to compare with the dataset's own images"
            )
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                known = json.loads(stored["network"].tobytes())
                features = stored["features"] if "features" in stored else None
                return cls(known, int(stored["n"]), stored["mean"], stored["covariance"], features)
        except Exception as error:  # zip's own, numpy's and json's
            raise CheckpointError(f"{path} is no reference: {type(error).__name__}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a ``.npz``."""
        path = Path(path).expanduser()
        arrays = {"n": np.array(self.n), "mean": self.mean, "covariance": self.covariance}
        arrays["network"] = np.frombuffer(json.dumps(dict(self.network)).encode(), np.uint8)
        if self.features is not None:
            arrays["features"] = self.features
        unfinished = path.with_name(f".{path.name}.unfinished")
        with open(unfinished, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(unfinished, path)

    @classmethod
    def _of(cls, network: Mapping[str, str], features: Float[Tensor, "n d"], keep_features: bool) -> Reference:
        if len(features) < 2:
            raise ValueError(f"a reference needs at least 2 images, got {len(features)}")
        moments = _moments(features)
        kept = features.numpy() if keep_features else None
        return cls(network, len(features), moments["mu"], moments["sigma"], kept)


class ComparingMetric(RecordingMetric):
    """A metric that compares features of the drawn images with those of the dataset's images, or of a saved set.

    An image is looked at whole, whatever its size: boxes, labels and captions play no part. The dataset's image of a
    layout counts once, however many were drawn of it. The score ``seen`` of an image is 1 if its features, and those of
    the dataset's image where they are due, could be told.

    Args:
        network: makes the features.
        reference: a file that ``Reference.save`` wrote, to compare with; None: the dataset's images.
    """

    higher_is_better = False

    #: Seconds each with 2048 features, so few; what they are for, a standard deviation, needs no more.
    rounds = 20

    #: Whether a saved reference must have its images' features too.
    needs_features = False

    def __init__(self, network: FeatureNetwork, reference: str | None = None) -> None:
        super().__init__()
        self.network, self.reference = network, reference
        self._said: set[str] = set()

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The saved reference decides the numbers just as weights do."""
        there = self.reference is not None and Path(self.reference).expanduser().is_file()
        return [Checkpoint(str(self.reference))] if there else []

    def check(self) -> None:
        """Make sure that the reference is one of this network, as far as can be told without loading weights.

        Raises:
            CheckpointError: it is missing, of another network, or lacks what is needed.
        """
        if self.reference is not None:
            self._suits(Reference.load(self.reference), self.network.settings)

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        if not generated:
            return []
        references, problems = ({}, {}) if self._saved else _first_images(samples)
        device = generated[0].device
        images = [x.to(device) for x in (*generated, *references.values())]
        rows = self.network.features(images).float().cpu().numpy()
        found = dict(zip(references, rows[len(generated) :], strict=True))
        records = []
        for i, (sample, row) in enumerate(zip(samples, rows, strict=False)):
            arrays = {"features": row} | ({"reference": found[i]} if i in found else {})
            records.append(seen(sample.key, arrays, problems.get(i, "")))
        return records

    def compared_with(self, records: Sequence[Record]) -> Float[Tensor, "m d"] | Reference:
        """The features of the dataset's images, or what was saved."""
        return self._saved or stacked(records, "reference")

    def frechet_distance(self, records: Sequence[Record]) -> float:
        """Between the two sets; NaN where one of them has fewer than two images, and so no covariance."""
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        drawn, other = stacked(records, "features"), self.compared_with(records)
        m = other.n if isinstance(other, Reference) else len(other)
        if min(len(drawn), m) < 2:
            why = f"a covariance needs at least 2 images, got {len(drawn)} and {m} to compare them with"
            return unknown(self, why, self._said)
        known = {"mu": other.mean, "sigma": other.covariance} if isinstance(other, Reference) else _moments(other)
        return fid_statistics_to_metric(_moments(drawn), known, verbose=False)[KEY_METRIC_FID]

    @cached_property
    def _saved(self) -> Reference | None:
        if self.reference is None:
            return None
        saved = Reference.load(self.reference)
        self._suits(saved, named(self.network))
        return saved

    def _suits(self, saved: Reference, network: Mapping[str, str]) -> None:
        refuse_others({x: saved.network.get(x, "") for x in network}, network, str(self.reference))
        if self.needs_features and saved.features is None:
            raise CheckpointError(
                f"{self.reference} holds mean and covariance only, and {type(self).__name__} needs every image's "
                "features; make it anew with keep_features=True"
            )


def unknown(metric: RecordingMetric, why: str, said: set[str]) -> float:
    """NaN, and say why, but not in every round of a bootstrap.

    Args:
        said: what was said before; this is added.
    """
    if why not in said:
        said.add(why)
        logger.warning("%s: %s", type(metric).__name__, why)
    return np.nan


def named(network: FeatureNetwork) -> dict[str, str]:
    """What decides a network's features, weights and all."""
    return {**network.settings, "weights": network.digest()}


def refuse_others(theirs: Mapping[str, str], ours: Mapping[str, str], name: str) -> None:
    """Raise if features were made by another network.

    Raises:
        CheckpointError: they were; it says in what they differ.
    """
    fields = [x for x in {**ours, **theirs} if theirs.get(x) != ours.get(x)]
    if fields:
        differ = "; ".join(f"{x} must be {ours.get(x)}, got {theirs.get(x)}" for x in fields)
        raise CheckpointError(f"{name} is of another network, and its numbers cannot be compared: {differ}")


def seen(key: str, arrays: Mapping[str, np.ndarray], problem: str = "") -> Record:
    """The record of an image that a network has seen; without its arrays if they are no numbers."""
    broken = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    problems = [x for x in (problem, *(f"the network gave no numbers for its {name}" for name in broken)) if x]
    kept = {name: x for name, x in arrays.items() if name not in broken}
    return Record(key, image={"seen": np.nan if problems else 1.0}, arrays=kept, problems=problems)


def stacked(records: Sequence[Record], name: str) -> Float[Tensor, "n d"]:
    """One row per record that has such an array, as float64, in an order that does not depend on the records'.

    Images of one layout, which share its key, are put in order by what their features begin with.
    """
    found = [(x.key, x.arrays[name]) for x in records if name in x.arrays]
    found.sort(key=lambda x: (x[0], x[1][:_TELLING].tolist()))
    rows = np.stack([x for _, x in found]) if found else np.zeros((0, 0))
    return torch.from_numpy(rows.astype(np.float64))


def _moments(features: Float[Tensor, "n d"]) -> dict[str, Any]:
    from torch_fidelity.metric_fid import fid_features_to_statistics

    return fid_features_to_statistics(features.double())


def _first_images(samples: Sequence[Sample]) -> tuple[dict[int, Image], dict[int, str]]:
    """The dataset's image of every layout, at the place of its first image; or what is wrong with it."""
    images, problems, keys = {}, {}, set()
    for i, sample in enumerate(samples):
        if sample.key in keys:
            continue
        keys.add(sample.key)
        try:
            images[i] = sample.image
        except (OSError, ValueError) as error:
            problems[i] = f"the dataset's image cannot be read: {error}"
    return images, problems
