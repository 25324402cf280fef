"""What the rooms of the extrapolation hand to each other: encoders, pools, and what was decided of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor

from scenewright.layout import Image
from scenewright.protocols import RangedDataset

#: Why an image is left out, in the order in which it is looked at; "kept" is the rest.
STAGES = ("unreadable", "keyword", "copy", "evaluation", "cluster", "class", "singular", "residual")


@runtime_checkable
class ImageEncoder(Protocol):
    """Says one vector of an image, which depends on that image alone."""

    def fingerprint(self) -> str:
        """Of all that its vectors depend on besides the image."""
        ...

    def encode_images(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """One row per image, in order, where the images are."""
        ...


@runtime_checkable
class JointEncoder(ImageEncoder, Protocol):
    """An image encoder whose vectors can be compared with those that it says of texts."""

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]: ...


@runtime_checkable
class TextEncoder(Protocol):
    """Says one vector of a text: what the model that learns from the samples reads."""

    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "n c"]: ...


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of ``n`` images, in the order of their samples.

    Attributes:
        keys: of the samples.
        digests: of the files' bytes; empty where they cannot be read.
        features: ``(n, d)`` of length 1; zero where the image cannot be read.
        hashes: ``(n,)`` perceptual hashes.
        problems: why an image cannot be read; empty for all others.
    """

    keys: list[str]
    digests: list[str]
    features: Float[Tensor, "n d"]
    hashes: UInt64[np.ndarray, " n"]
    problems: list[str]


@runtime_checkable
class Gauge(Protocol):
    """Measures a dataset's images; what was measured once is not measured again."""

    encoder: ImageEncoder

    def measure(self, dataset: RangedDataset, places: Sequence[int] | None = None) -> Measured: ...


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for.

    Attributes:
        keyword: a class of the originals, as it is written there.
        feature: the mean feature of its originals, of length 1.
    """

    keyword: str
    feature: Float[Tensor, " d"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Retrieved images.

    Attributes:
        places: of the images in the retrieval's dataset, ascending.
        keywords: what each was found by; empty where that is not known.
        notes: for the summary: what was asked for, what came.
    """

    places: list[int]
    keywords: list[str]
    notes: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Retrieval(Protocol):
    """Finds images by keyword, without a network."""

    @property
    def dataset(self) -> RangedDataset:
        """That it finds them in."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that the pool depends on besides the queries."""
        ...

    def retrieve(self, queries: Sequence[Query], gauge: Gauge) -> Pool: ...


@dataclass
class Decision:
    """What became of one retrieved image.

    Attributes:
        place: of the image in the pool's dataset.
        key: of its sample there.
        keyword: what it was found by, as the originals write it if they have it.
        stage: of ``STAGES``, or "kept".
        reason: why it was left out; empty for those that are kept.
        number: what was compared with a threshold, where there is one.
        cluster: its number within the keyword; -1 where it was not clustered.
        probability: of its keyword by the linear probe.
        predicted: the probe's keyword.
        residual: of the extrapolation.
        neighbours: keys of the originals that it was extrapolated from, nearest first.
        weights: one for each of them.
    """

    place: int
    key: str
    keyword: str
    stage: str = "kept"
    reason: str = ""
    number: float | None = None
    cluster: int = -1
    probability: float | None = None
    predicted: str = ""
    residual: float | None = None
    neighbours: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def reject(self, stage: str, reason: str, number: float | None = None) -> None:
        """Leave the image out."""
        self.stage, self.reason, self.number = stage, reason, number
