"""A dataset in two parts: what is trained on, and what never is."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from scenewright.datasets.files import fingerprint_of
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset


def hold_out(dataset: RangedDataset, count: int) -> tuple[RangedDataset, RangedDataset]:
    """Split off some samples, spread evenly over the dataset.

    Args:
        count: how many are held out.

    Returns:
        All others, and those; each in the dataset's order.

    Raises:
        ValueError: the dataset does not have more than ``count`` samples, or ``count`` is negative.
    """
    length = len(dataset)
    if not 0 <= count < max(length, 1):
        raise ValueError(f"the number of samples held out must be in [0, {length}), the dataset's length, got {count}")
    places = [(2 * i + 1) * length // (2 * count) for i in range(count)]
    gaps = zip([0, *(x + 1 for x in places)], [*places, length], strict=True)
    return Spans(dataset, [(a, b) for a, b in gaps if a < b]), Spans(dataset, [(x, x + 1) for x in places])


class Spans:
    """The samples of some spans of a dataset, one span after the other.

    Args:
        spans: where each starts, and the place behind its last sample.
    """

    def __init__(self, dataset: RangedDataset, spans: Sequence[tuple[int, int]]) -> None:
        self.dataset, self.spans = dataset, list(spans)
        self._ends = list(accumulate(stop - start for start, stop in self.spans))

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self.dataset.fingerprint, repr(self.spans)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        number = bisect_right(self._ends, start)
        while start < stop:
            first, last = self.spans[number]
            behind = self._ends[number] - (last - first)  # samples of the spans before
            here = min(stop, self._ends[number])
            yield from self.dataset.read(first + start - behind, first + here - behind)
            start, number = here, number + 1
