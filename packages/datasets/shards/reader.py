"""Reading shards back."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from scenewright.datasets.files import fingerprint_of, join, open_binary
from scenewright.datasets.shards.ledger import Manifest, manifests
from scenewright.datasets.shards.record import decode
from scenewright.datasets.tars import TarIndexes, read_entries, spans
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset


class Shards:
    """The samples of a folder of shards, in order.

    Only whole shards are read: those with a manifest. Samples that ended in an error
    are not among them. Nothing is unpickled, and no member's name is used as a path.

    Args:
        directory: what ``output_dir`` was; a path, or any URL that fsspec opens.
        images: for shards written with ``images=none``: the dataset they were made
            from, which gives the images back by key.

    Raises:
        FileNotFoundError: there is no whole shard.
        ValueError: a tar is not as long as its manifest says, or ``images`` is not what they were made from.
    """

    def __init__(self, directory: str | Path, images: RangedDataset | None = None) -> None:
        self.directory, self.images = str(directory), images
        self._manifests: list[Manifest] = []
        self._ends: list[int] = []
        self._indexes = TarIndexes()

    @property
    def fingerprint(self) -> str:
        self._open()
        return fingerprint_of(m.sha256 for m in self._manifests)

    def __len__(self) -> int:
        self._open()
        return self._ends[-1]

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        self._open()
        for place, first, last in spans(self._ends, start, stop):
            manifest = self._manifests[place]
            samples = self._read_shard(manifest, first, last)
            yield from samples if self.images is None else self._joined(manifest, first, last, samples)

    def _read_shard(self, manifest: Manifest, start: int, stop: int) -> Iterator[Sample]:
        url = join(self.directory, f"{manifest.number:05d}.tar")
        self._check(url, manifest)
        for entry, members in read_entries(url, self._indexes[url][start:stop]):
            if entry.error:
                raise ValueError(f"{url}: {entry.error}; entrypoints/shards.py repair redoes it")
            yield decode(entry.key, members, name=f"{url}/{entry.key}")

    def _check(self, url: str, manifest: Manifest) -> None:
        """Compare the length only: reading every byte twice is what ``verify`` is for."""
        with open_binary(url) as file:
            size = file.seek(0, 2)
        if size != manifest.length:
            raise ValueError(
                f"{url} has {size} bytes, its manifest says {manifest.length}; entrypoints/shards.py repair redoes it"
            )

    def _joined(self, manifest: Manifest, start: int, stop: int, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples with their images, from the dataset that the shard was made of."""
        assert self.images is not None
        # every shard but the last is full, and one before it may be missing
        before = manifest.number * max(len(m.samples) for m in self._manifests)
        keys = list(manifest.samples)
        wanted = set(manifest.keys[start:stop])
        places = [i for i, key in enumerate(keys) if key in wanted]
        originals = self.images.read(before + places[0], before + places[-1] + 1)
        for original in (x for x, key in zip(originals, keys[places[0] :], strict=False) if key in wanted):
            sample = next(samples)
            if original.key != sample.key:
                raise ValueError(
                    f"images gives {original.key!r} where {self.directory} has {sample.key!r}: "
                    "it is not the dataset these shards were made from"
                )
            yield replace(sample, source=original.source)

    def _open(self) -> None:
        if not self._manifests:
            found = manifests(self.directory)
            self._ends = list(accumulate(len(m.keys) for m in found))
            self._manifests = found
