"""Which process writes which shards."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from more_itertools import consume, ichunked

from scenewright.datasets.shards.writer import ShardWriter
from scenewright.layout import Sample
from scenewright.protocols import Dataset, RangedDataset


@dataclass
class Counts:
    """How many samples ended how."""

    ok: int = 0
    empty: int = 0
    error: int = 0
    dropped: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.empty + self.error + self.dropped

    def add(self, sample: Sample) -> None:
        kind = sample.status.split(":")[0]
        setattr(self, kind, getattr(self, kind) + 1)


#: What is done to the samples: one comes out for each that goes in, in order.
Annotate = Callable[[Iterable[Sample]], Iterator[Sample]]


def shard_numbers(length: int, samples_per_shard: int, rank: int = 0, world_size: int = 1) -> range:
    """The shards of one process: every ``world_size``-th, from ``rank`` on.

    Raises:
        ValueError: ``samples_per_shard`` or ``world_size`` is below 1, or ``rank`` is not below ``world_size``.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    return range(rank, math.ceil(length / samples_per_shard), world_size)


def write_shards(
    dataset: Dataset,
    writer: ShardWriter,
    annotate: Annotate,
    *,
    samples_per_shard: int = 1000,
    rank: int = 0,
    world_size: int = 1,
    on_sample: Callable[[Sample], None] | None = None,
) -> None:
    """Annotate this process's part of a dataset into the shards that are not there yet.

    Args:
        dataset: a ranged one is read only where shards are missing; any other is
            walked through by every process.
        annotate: called once for a ranged dataset, so work goes on across shards.
        on_sample: called with each sample as it is handed to the writer.
    """
    if isinstance(dataset, RangedDataset):
        length = len(dataset)
        numbers = [n for n in shard_numbers(length, samples_per_shard, rank, world_size) if not writer.has(n)]
        _write_ranges(dataset, length, writer, annotate, samples_per_shard, numbers, on_sample)
        return
    shard_numbers(1, samples_per_shard, rank, world_size)  # checks the numbers
    for number, samples in enumerate(ichunked(dataset, samples_per_shard)):
        if number % world_size == rank and not writer.has(number):
            _write_shard(writer, number, annotate(samples), on_sample)
        else:
            consume(samples)  # or they would be kept


def _write_shard(
    writer: ShardWriter, number: int, annotated: Iterator[Sample], on_sample: Callable[[Sample], None] | None
) -> None:
    try:
        writer.write(number, annotated, on_sample)
    finally:
        if isinstance(annotated, Generator):
            annotated.close()


def _read(dataset: RangedDataset, start: int, stop: int) -> Iterator[Sample]:
    """The samples of a range, counted: one too few would shift all that come after."""
    count = 0
    for sample in dataset.read(start, stop):
        count += 1
        yield sample
    if count != stop - start:
        name = type(dataset).__name__
        raise ValueError(f"{name}.read({start}, {stop}) must give {stop - start} samples, it gave {count}")


def _write_ranges(
    dataset: RangedDataset,
    length: int,
    writer: ShardWriter,
    annotate: Annotate,
    samples_per_shard: int,
    numbers: Sequence[int],
    on_sample: Callable[[Sample], None] | None,
) -> None:
    ranges = {n: (n * samples_per_shard, min((n + 1) * samples_per_shard, length)) for n in numbers}
    samples = (sample for start, stop in ranges.values() for sample in _read(dataset, start, stop))
    annotated = annotate(samples)
    try:
        for number, (start, stop) in ranges.items():
            writer.write(number, islice(annotated, stop - start), on_sample)
    finally:
        if isinstance(annotated, Generator):
            annotated.close()
