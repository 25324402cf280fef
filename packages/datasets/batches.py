"""From a dataset to the batches that a model is trained on, exact after a resume."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from scenewright.datasets.framing import Framing
from scenewright.datasets.stream import Stream
from scenewright.layout import Batch, Frame, Layout, Sample
from scenewright.protocols import RangedDataset

_logger = logging.getLogger(__name__)

#: Where a sample on its way through a stream carries its place in the dataset.
_PLACE = "scenewright.datasets.batches.place"


class Batches(IterableDataset[Batch]):
    """One process's share of a dataset in batches of one image size, shuffled, resumable anywhere.

    Samples of an image size wait until there are ``batch_size`` of them. Those that still wait at the end of an
    epoch go into batches of the next one, so nothing is left out; at the end of the last epoch they make smaller
    batches. A sample is visited once per epoch, with a seed that depends on ``seed``, the epoch and its key only.
    Samples that a filter or an error dropped, or whose image cannot be read, are skipped: logged, and counted in
    ``skipped``.

    ``state_dict`` says where the stream is and who waits; a resumed object reads and frames those anew and goes on
    with the same batches. Iterating goes on where it stopped; after ``epochs`` epochs, it begins again.

    Args:
        dataset: any that can start anywhere.
        framing: brings samples to a size.
        batch_size: images in a batch of this process.
        seed: of the order and of all visits.
        rank: this process, in [0, world_size).
        world_size: how many processes there are.
        shuffle: False keeps the dataset's order.
        epochs: None goes on for ever.
        remainder: "drop", "repeat" or "keep", see ``Stream``.
        block: samples that stay neighbours on disk, see ``Stream``.
        window: blocks whose samples are shuffled together; ``block * window`` samples are read at once, so where
            reading one is work (``Shapes`` draws it), few are better than many.

    Raises:
        ValueError: an argument is out of its range, or there are too few samples for one batch.
    """

    def __init__(
        self,
        dataset: RangedDataset,
        framing: Framing,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        epochs: int | None = None,
        remainder: str = "drop",
        block: int = 64,
        window: int = 16,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs must be at least 1, or null to go on for ever, got {epochs}")
        self.dataset, self.framing, self.batch_size = dataset, framing, batch_size
        self.seed, self.epochs = seed, epochs
        self._options = {"shuffle": shuffle, "seed": seed, "rank": rank, "world_size": world_size}
        self._options |= {"remainder": remainder, "block": block, "window": window}
        self._stream = Stream(_Placed(dataset), **self._options)
        least = batch_size if epochs is None else 1
        if self.samples_per_epoch < least:
            raise ValueError(
                f"the dataset has {len(dataset)} samples, {self.samples_per_epoch} for each of {world_size} processes, "
                f"too few for a batch_size of {batch_size}; lower batch_size, or add samples"
            )
        self.skipped = 0
        self._waiting: dict[tuple[int, int], list[_Visit]] = {}
        self._unread: list[list[int]] = []

    @property
    def samples_per_epoch(self) -> int:
        """How many samples an epoch has for this process."""
        return self._stream.samples_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        if self._is_past_the_epochs() and not (self._waiting or self._unread):
            self._stream.set_epoch(0)
        self._read_waiting()
        while not self._is_past_the_epochs():
            (epoch, start), visits = self._position(), 0
            for sample in self._stream:
                visit = self._visit(sample, epoch)
                if visit is not None:
                    visits += 1
                    yield from self._add(visit)
            if not visits and not start:
                raise ValueError(
                    f"no sample of epoch {epoch} could be used ({self.skipped} skipped so far, see the log); "
                    "there must be at least one for each process and each of a loader's workers"
                )
        while self._waiting:
            yield _batch(self._waiting.pop(next(iter(self._waiting))))

    def state_dict(self) -> dict[str, Any]:
        """Where this is, and what its batches depend on: plain numbers, words and lists."""
        waiting = [[v.place, v.epoch] for visits in self._waiting.values() for v in visits] + self._unread
        return {
            "depends_on": self.depends_on,
            "stream": self._stream.state_dict(),
            "waiting": waiting,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another one of the same batches was.

        Raises:
            ValueError: its batches were others; the message names what differs.
        """
        check(state["depends_on"], self.depends_on)
        self._stream.load_state_dict(state["stream"])
        self._waiting, self._unread, self.skipped = {}, [list(x) for x in state["waiting"]], state["skipped"]

    @cached_property
    def depends_on(self) -> dict[str, Any]:
        """All that the batches are a function of; asked of the dataset once, as a fingerprint may take long."""
        return {
            "dataset": self.dataset.fingerprint,
            **{f"framing.{name}": str(value) for name, value in vars(self.framing).items()},
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            **self._options,
        }

    def _is_past_the_epochs(self) -> bool:
        return self.epochs is not None and self._position()[0] >= self.epochs

    def _position(self) -> tuple[int, int]:
        state = self._stream.state_dict()
        return state["epoch"], state["position"]

    def _read_waiting(self) -> None:
        """Frame anew what waited when the state was saved."""
        while self._unread:
            place, epoch = self._unread.pop(0)
            for sample in _Placed(self.dataset).read(place, place + 1):
                visit = self._visit(sample, epoch)
                if visit is not None:
                    self._waiting.setdefault(visit.size, []).append(visit)

    def _add(self, visit: _Visit) -> Iterator[Batch]:
        """Put a visit to those of its size; the batch, if it is full then."""
        self._waiting.setdefault(visit.size, []).append(visit)
        if len(self._waiting[visit.size]) == self.batch_size:
            yield _batch(self._waiting.pop(visit.size))

    def _visit(self, sample: Sample, epoch: int) -> _Visit | None:
        """A sample as it is seen in an epoch; None where it cannot be used."""
        why = sample.error or sample.rejected
        if not why:
            try:
                _ = sample.image  # decodes it
            except (OSError, ValueError) as error:
                why = str(error) or type(error).__name__
        if why:
            self.skipped += 1
            _logger.warning("skipped sample %r: %s", sample.key, why)
            return None
        seed = visit_seed(self.seed, epoch, sample.key)
        framed, frame = self.framing(sample, seed)
        return _Visit(framed, frame, seed, sample.metadata[_PLACE], epoch)


@dataclass(frozen=True, eq=False)
class _Visit:
    """A framed sample, and where to find it again."""

    sample: Sample
    frame: Frame
    seed: int
    place: int
    epoch: int

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.sample.image.shape[1:]
        return height, width


class _Placed:
    """A dataset whose samples carry their places."""

    def __init__(self, dataset: RangedDataset) -> None:
        self.dataset = dataset

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        for place, sample in enumerate(self.dataset.read(start, stop), start):
            yield replace(sample, metadata={**sample.metadata, _PLACE: place})


def visit_seed(seed: int, epoch: int, key: str) -> int:
    """The seed of a sample's visit in an epoch, in [0, 2**63); the same in every run and on every machine."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{key}".encode("utf-8", errors="surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest()) >> 1


def check(was: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what batches depended on with what they depend on.

    Raises:
        ValueError: they differ; the message names each difference.
    """
    changed = [f"{name} was {was.get(name)!r}, is {value!r}" for name, value in now.items() if was.get(name) != value]
    if changed:
        raise ValueError(f"the state was saved with other batches and cannot go on exactly: {'; '.join(changed)}")


def _batch(visits: list[_Visit]) -> Batch:
    return Batch.collate([v.sample for v in visits], frames=[v.frame for v in visits], seeds=[v.seed for v in visits])


class Loader(StatefulDataLoader[Batch]):
    """Loads batches in worker processes; made by ``loader``."""

    batches: Batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(_Parcel.unpack, super().__iter__())

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, batches that workers hold ready not counted; plain numbers, words and lists."""
        return {"depends_on": self._depends_on, "loader": super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where another loader of the same batches was.

        Raises:
            ValueError: its batches or the number of its workers were others; the message names what differs.
        """
        check(state_dict["depends_on"], self._depends_on)
        super().load_state_dict(state_dict["loader"])

    @property
    def skipped(self) -> int:
        """Samples that were skipped so far, by this process and its workers."""
        state = super().state_dict()
        workers = state["_snapshot"]["_worker_snapshots"].values() if self.num_workers else [state]
        return sum(worker["dataset_state"]["skipped"] for worker in workers)

    @property
    def _depends_on(self) -> dict[str, Any]:
        return {**self.batches.depends_on, "workers": self.num_workers}


def loader(batches: Batches, workers: int = 0, *, prefetch: int = 2, context: str | None = None) -> Loader:
    """Load batches ahead in worker processes.

    The workers share the process's samples and take turns, so the order of batches depends on their number. None of
    them touches the random state of this process.

    Args:
        batches: they are iterated once, from where they are.
        workers: processes; 0 loads when a batch is asked for.
        prefetch: batches that each worker holds ready.
        context: how workers begin: "fork", "forkserver" or "spawn"; None leaves it to the system.

    Raises:
        ValueError: there are more workers than samples.
    """
    if workers > batches.samples_per_epoch:
        raise ValueError(
            f"workers must be at most the {batches.samples_per_epoch} samples of this process's epoch, got {workers}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 under torch 2.15
        made = Loader(
            batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=cast(Any, _Parcel.pack),  # without automatic batching it is given what the dataset yields
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            multiprocessing_context=context if workers else None,
            generator=torch.Generator(),  # else it draws from the global one, which a resume has to restore
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            snapshot_every_n_steps=1,
        )
    made.batches = batches
    return made


def _start_worker(worker: int) -> None:
    """One thread each; OpenCV's threads, unlike torch's, do not outlive a fork either."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@dataclass(frozen=True, eq=False)
class _Parcel:
    """A batch between processes: every tensor is a file handle of shared memory there, so only the images are one."""

    images: Tensor
    layouts: list[dict[str, Any]]
    rest: dict[str, Any]

    @staticmethod
    def pack(batch: Batch) -> _Parcel:
        layouts = [_arrays(vars(x)) for x in batch.layouts]
        rest = {name: getattr(batch, name) for name in ("captions", "keys", "frames", "seeds")}
        return _Parcel(batch.images, layouts, rest | {"text_features": _arrays(batch.text_features)})

    def unpack(self) -> Batch:
        layouts = [Layout(**_tensors(x)) for x in self.layouts]
        features = _tensors(self.rest["text_features"])
        return Batch(images=self.images, layouts=layouts, **{**self.rest, "text_features": features})

    def pin_memory(self, device: str | None = None) -> _Parcel:
        """For the loader, where there is an accelerator."""
        return replace(self, images=self.images.pin_memory())


def _arrays(value: Any) -> Any:
    """Tensors, alone and in lists and mappings, as arrays."""
    if isinstance(value, Mapping):
        return {name: _arrays(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_arrays(x) for x in value]
    return value.numpy() if isinstance(value, Tensor) else value


def _tensors(value: Any) -> Any:
    """What ``_arrays`` was given."""
    if isinstance(value, Mapping):
        return {name: _tensors(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_tensors(x) for x in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
