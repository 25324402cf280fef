"""The order in which a process sees a dataset when a model learns from it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from scenewright.layout import Sample
from scenewright.protocols import RangedDataset


@dataclass(frozen=True)
class _Part:
    """Samples ``start`` up to ``stop`` of the dataset."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Stream(IterableDataset[Sample]):
    """One process's share of a dataset, shuffled, split among workers, resumable anywhere.

    An epoch is a permutation of blocks of neighbouring samples, cut into equal shares
    for the processes and then for a loader's workers; within a window of blocks the
    samples are shuffled. Blocks are read from front to back, so tars are too. The order
    is a pure function of (seed, epoch, rank, world size, worker), which is why a
    resumed stream goes straight to its place without reading what came before.

    Iterating ends after an epoch; the next iteration is the next epoch. ``state_dict``
    counts the samples handed out, here or in this worker (as torchdata's
    ``StatefulDataLoader`` asks); samples are decoded by whoever touches their image.

    Args:
        dataset: any that can start anywhere.
        shuffle: False keeps the dataset's order.
        seed: of the order.
        rank: this process, in [0, world_size).
        world_size: how many processes there are.
        remainder: what happens when the samples do not divide by the processes: ``drop``
            leaves up to ``world_size - 1`` of them out of the epoch, ``repeat`` gives as many
            twice, ``keep`` makes shares uneven. With the first two all processes see
            equally many, so that none waits for another for ever.
        block: samples that stay neighbours on disk.
        window: blocks whose samples are shuffled together; ``block * window`` encoded
            images are in memory.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        dataset: RangedDataset,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        remainder: str = "drop",
        block: int = 64,
        window: int = 16,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        if remainder not in ("drop", "repeat", "keep"):
            raise ValueError(f"remainder must be 'drop', 'repeat' or 'keep', got {remainder!r}")
        if block < 1 or window < 1:
            raise ValueError(f"block and window must be at least 1, got {block} and {window}")
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed
        self.rank, self.world_size, self.remainder = rank, world_size, remainder
        self.block, self.window = block, window
        self._epoch = 0
        self._position = 0

    @property
    def samples_per_epoch(self) -> int:
        """How many samples an epoch has for this process."""
        start, stop = self._share()
        return stop - start

    def __iter__(self) -> Iterator[Sample]:
        epoch, position = self._epoch, self._position
        for sample in self._samples(epoch, skip=position):
            position += 1
            self._position = position
            yield sample
        self._epoch, self._position = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; needed where worker processes iterate and this one does not."""
        self._epoch, self._position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, and what its order depends on."""
        return {"epoch": self._epoch, "position": self._position, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another stream of the same order was.

        Raises:
            ValueError: its order was another one; the message names what differs.
        """
        changed = [f"{k} was {state.get(k)!r}, is {v!r}" for k, v in self._order().items() if state.get(k) != v]
        if changed:
            raise ValueError(f"the stream was saved in another order: {'; '.join(changed)}")
        self._epoch, self._position = state["epoch"], state["position"]

    def _order(self) -> dict[str, Any]:
        names = ("shuffle", "seed", "rank", "world_size", "remainder", "block", "window")
        return {name: getattr(self, name) for name in names} | {"length": len(self.dataset), "workers": _worker()[1]}

    def _samples(self, epoch: int, skip: int) -> Iterator[Sample]:
        parts = self._parts(epoch)
        for number in range(0, len(parts), self.window):
            group = parts[number : number + self.window]
            count = sum(map(len, group))
            if skip >= count:
                skip -= count
                continue
            if not self.shuffle:
                yield from (s for part in _after(group, skip) for s in self.dataset.read(part.start, part.stop))
            else:
                order = np.random.default_rng([self.seed, epoch, group[0].start, 1]).permutation(count)[skip:]
                samples: list[Sample | None] = [s for part in group for s in self.dataset.read(part.start, part.stop)]
                for place in order.tolist():
                    sample, samples[place] = samples[place], None  # what was handed out is not kept alive
                    assert sample is not None
                    yield sample
            skip = 0

    def _parts(self, epoch: int) -> list[_Part]:
        """What this worker of this process reads in an epoch, in order."""
        length = len(self.dataset)
        starts = np.arange(0, length, self.block)
        if self.shuffle:
            starts = np.random.default_rng([self.seed, epoch]).permutation(starts)
        blocks = [_Part(int(s), min(int(s) + self.block, length)) for s in starts]
        start, stop = self._share()
        worker, workers = _worker()
        size = stop - start
        start, stop = start + size * worker // workers, start + size * (worker + 1) // workers
        return _cut(blocks * math.ceil(stop / max(length, 1)), start, stop)

    def _share(self) -> tuple[int, int]:
        """The places of this process in the epoch; those past the end begin it again."""
        length, n = len(self.dataset), self.world_size
        if self.remainder == "keep":
            return length * self.rank // n, length * (self.rank + 1) // n
        size = length // n if self.remainder == "drop" else math.ceil(length / n)
        return self.rank * size, (self.rank + 1) * size


def _cut(blocks: list[_Part], start: int, stop: int) -> list[_Part]:
    """The blocks, laid end to end, from one place up to another."""
    parts, place = [], 0
    for block in blocks:
        first, last = max(start - place, 0), min(stop - place, len(block))
        if first < last:
            parts.append(_Part(block.start + first, block.start + last))
        place += len(block)
    return parts


def _after(parts: list[_Part], skip: int) -> list[_Part]:
    return _cut(parts, skip, sum(map(len, parts)))


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
