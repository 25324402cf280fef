"""Several datasets as one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from scenewright.datasets.files import fingerprint_of, key_of
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset


class Mixture:
    """Interleaves datasets by weight, in a seeded order, each sample once and each dataset in its own order.

    Keys get the dataset's name in front, so that they never collide.

    Args:
        datasets: by name.
        weights: by name, any positive numbers; equal if not given. A weight of 0 leaves a dataset out.
        seed: of the order.
        until: ``first`` ends when the first dataset runs dry, so that the proportions
            hold to the end; ``all`` goes on until every sample was drawn.

    Raises:
        ValueError: no datasets, or weights that name others or are negative.
    """

    def __init__(
        self,
        datasets: Mapping[str, RangedDataset],
        weights: Mapping[str, float | int] | None = None,
        seed: int = 0,
        until: str = "first",
    ) -> None:
        if until not in ("first", "all"):
            raise ValueError(f"until must be 'first' or 'all', got {until!r}")
        self.until = until
        self.datasets, self.seed = dict(datasets), seed
        self.weights = {name: 1.0 for name in self.datasets} if weights is None else dict(weights)
        if not self.datasets:
            raise ValueError("a mixture needs at least one dataset; +dataset@dataset.datasets.NAME=… adds one")
        if self.weights.keys() != self.datasets.keys():
            raise ValueError(f"weights must name the datasets {sorted(self.datasets)}, got {sorted(self.weights)}")
        if min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"weights must not be negative and not all zero, got {self.weights}")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(x for name, dataset in self.datasets.items() for x in (name, dataset.fingerprint))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        names = list(self.datasets)
        order = self._order
        before = np.bincount(order[:start], minlength=len(names))
        inside = np.bincount(order[start:stop], minlength=len(names))
        parts = [self.datasets[n].read(int(b), int(b + i)) for n, b, i in zip(names, before, inside, strict=True)]
        for which in order[start:stop]:
            sample = next(parts[which])
            yield replace(sample, key=f"{key_of(names[which])}-{sample.key}")

    @cached_property
    def _order(self) -> np.ndarray:
        """Which dataset each sample comes from."""
        random = np.random.default_rng(self.seed)
        which, when, ends = [], [], []
        for number, (name, dataset) in enumerate(self.datasets.items()):
            if self.weights[name] and len(dataset):
                # its samples arrive at a rate of its weight, each somewhere in its own span of time
                times = (np.arange(len(dataset)) + random.random(len(dataset))) / self.weights[name]
                which.append(np.full(len(dataset), number))
                when.append(times)
                ends.append(times[-1])
        if not which:
            return np.zeros(0, dtype=int)
        times = np.concatenate(when)
        order = np.concatenate(which)[np.argsort(times, kind="stable")]
        return order if self.until == "all" else order[: int((times <= min(ends)).sum())]
