"""Features and hashes of images, kept on disk by what the files hold: a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from more_itertools import chunked
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated.records import ImageEncoder, Measured
from scenewright.datasets.files import digest_of, whole
from scenewright.layout import Image, Sample
from scenewright.perceptual_hashes import phash
from scenewright.protocols import RangedDataset

#: Images whose features are written together, and at most so many are lost when a run is stopped.
_TOGETHER = 256


class FeatureStore:
    """Feature and hash of each file by the digest of its bytes, for one encoder.

    ``FOLDER/ENCODER/….npz``, each some hundred images. Several processes may share a folder: files appear whole.

    Args:
        folder: read now; made when something is kept.
        fingerprint: of the encoder.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / digest_of(fingerprint)
        self._known: dict[str, tuple[np.ndarray, int]] = {}
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as stored:
                columns = stored["digests"].tolist(), stored["features"], stored["hashes"].tolist()
            self._known.update((digest, (row, value)) for digest, row, value in zip(*columns, strict=True))

    def get(self, digest: str) -> tuple[np.ndarray, int] | None:
        """The ``(d,)`` float32 feature and the hash of a file, if they are known."""
        return self._known.get(digest)

    def put(self, digests: Sequence[str], features: np.ndarray, hashes: Sequence[int]) -> None:
        """Keep those of some files."""
        if not digests:
            return
        with whole(self.folder / f"{uuid4().hex}.npz") as part, open(part, "wb") as file:
            np.savez(file, digests=np.array(digests), features=features, hashes=np.array(hashes, np.uint64))
        self._known.update(zip(digests, zip(features, hashes, strict=True), strict=True))


@dataclass(frozen=True, eq=False)
class _Read:
    """A file that was read: with its image if that is to be measured, or what is wrong with it."""

    key: str
    digest: str = ""
    image: Image | None = None
    hash: int = 0
    problem: str = ""


class FileGauge:
    """Measures images with an encoder.

    Args:
        encoder: of the features; they are brought to length 1.
        folder: of what was measured.
        batch_size: images that are encoded together.
        workers: threads that read and decode.
        device: that images are encoded on; None: a GPU where there is one.

    Raises:
        ValueError: on use, if the encoder's features are no numbers, not one per image, or not equally wide.
    """

    def __init__(
        self, encoder: ImageEncoder, folder: Path, batch_size: int = 64, workers: int = 4, device: str | None = None
    ) -> None:
        self.encoder, self.folder = encoder, folder
        self.batch_size, self.workers, self.device = batch_size, workers, device
        self._width: int | None = None

    def measure(
        self,
        dataset: RangedDataset,
        places: Sequence[int] | None = None,
        look: Callable[[Sample], None] = lambda sample: None,
    ) -> Measured:
        """Measure a dataset's images.

        Args:
            places: of the samples; ascending; None: all of them.
            look: is shown each sample.
        """
        store = self._store  # read before threads ask for it
        found: list[_Read] = []
        rows: list[np.ndarray | None] = []
        hashes: list[int] = []
        samples = read_places(dataset, range(len(dataset)) if places is None else places)
        with ThreadPoolExecutor(self.workers) as pool:
            for some in chunked(samples, _TOGETHER):
                for sample in some:
                    look(sample)
                reads = list(pool.map(self._read, some))
                self._encode(reads)
                for read in reads:
                    row, value = (None, 0) if read.problem else store.get(read.digest) or (None, 0)
                    if row is not None:
                        self._check(len(row))
                    found.append(_Read(read.key, read.digest, problem=read.problem))
                    rows.append(row)
                    hashes.append(value)
        width = self._width or 0
        features = [torch.zeros(width) if x is None else torch.from_numpy(x) for x in rows]
        return Measured(
            keys=[x.key for x in found],
            digests=[x.digest for x in found],
            features=torch.stack(features) if features else torch.zeros(0, width),
            hashes=np.array(hashes, np.uint64),
            problems=[x.problem for x in found],
        )

    def _read(self, sample: Sample) -> _Read:
        if sample.error or sample.source is None:
            return _Read(sample.key, problem=sample.error or "it has no image")
        try:
            digest = sha256(sample.source.data).hexdigest()
            if self._store.get(digest) is not None:
                return _Read(sample.key, digest)
            image = sample.image
            return _Read(sample.key, digest, image, phash(image))
        except (OSError, ValueError, MemoryError) as error:
            return _Read(sample.key, problem=f"{error}")

    def _encode(self, reads: Sequence[_Read]) -> None:
        """Measure and keep what is not known yet, each file once."""
        fresh = list({x.digest: x for x in reads if x.image is not None}.values())
        features = []
        for some in chunked(fresh, self.batch_size):
            images = [x.image.to(self._device) for x in some if x.image is not None]
            features.append(self._checked(self.encoder.encode_images(images), len(images)))
        if features:
            self._store.put([x.digest for x in fresh], torch.cat(features).numpy(), [x.hash for x in fresh])

    def _checked(self, features: Tensor, count: int) -> Tensor:
        if features.ndim != 2 or len(features) != count:
            raise ValueError(
                f"the encoder must give one feature for each of {count} images, got {tuple(features.shape)}"
            )
        self._check(features.shape[1])
        if not features.isfinite().all():
            raise ValueError("the encoder gave features that are not finite")
        return normalize(features.float()).cpu()

    def _check(self, width: int) -> None:
        if self._width is None:
            self._width = width
        if width != self._width:
            raise ValueError(f"features of one encoder must be equally wide, got {width} values after {self._width}")

    @cached_property
    def _device(self) -> torch.device:
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def _store(self) -> FeatureStore:
        return FeatureStore(self.folder, self.encoder.fingerprint())


def read_places(dataset: RangedDataset, places: Sequence[int]) -> Iterator[Sample]:
    """The samples at these places, in this order; neighbours are read in one go."""
    start = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[i - 1] + 1:
            yield from dataset.read(places[start], places[i - 1] + 1)
            start = i
