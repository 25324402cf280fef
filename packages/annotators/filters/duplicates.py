"""Duplicates: drops images that look like an earlier one of the whole dataset, in whatever shard it is.

Source: perceptual hashes (the signs of an image's lowest frequencies), https://www.phash.org; ImageHash does the
work (BSD-2-Clause). No weights.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property

import numpy as np
from jaxtyping import UInt64

from scenewright.annotators.ahead import ahead
from scenewright.layout import Sample, Verdict
from scenewright.perceptual_hashes import first_like, phash
from scenewright.protocols import Dataset


class Duplicates:
    """Keeps the first of every group of near-duplicates.

    Every image of ``among`` is read and hashed once, when the first image is judged; then each is compared with all
    that were kept before it. So the verdicts are the same whichever process asks for which image. An image that is
    not in ``among`` is dropped if anything there looks like it: give the images of a benchmark to keep them out of
    a training set.

    It finds copies that were resized, recompressed or slightly retouched. It does not find crops, mirror images or
    other photographs of the same thing, and takes plain surfaces for each other.

    A million hashes take minutes to compare and 8 MB; reading a million images takes hours, once more in every process
    and in every run.

    Args:
        among: the dataset. An image is known in it by its key.
        distance: Hamming distance of 64 bits up to which images are near-duplicates, in [0, 64]. 0 finds copies,
            above 10 strangers.
        workers: threads that read, decode and hash.
    """

    after = "source"

    def __init__(self, among: Dataset, distance: int = 4, workers: int = 4) -> None:
        if not 0 <= distance <= 64:
            raise ValueError(f"duplicates: distance must be between 0 and 64, got {distance}")
        self.among, self.distance, self.workers = among, distance, workers

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image that looks like another one, which it names."""
        return [Verdict(image=self._twins[s.key] if s.key in self._twins else self._like(s)) for s in samples]

    @cached_property
    def _hashed(self) -> tuple[list[str], UInt64[np.ndarray, " n"]]:
        """The keys of the dataset and their hashes; what cannot be read is left to the pipeline to tell."""
        keys: list[str] = []
        hashes: list[int] = []
        with closing(ahead(_hashed, self.among, workers=self.workers, depth=4 * self.workers)) as found:
            for key, value in found:
                if value is not None:
                    keys.append(key)
                    hashes.append(value)
        return keys, np.array(hashes, np.uint64)

    @cached_property
    def _twins(self) -> Mapping[str, str]:
        """Of every key the reason to drop it, or none."""
        keys, hashes = self._hashed
        twins = first_like(hashes, self.distance)
        apart = np.bitwise_count(hashes ^ hashes[twins])
        # the first of a key that comes twice has the word
        reasons: dict[str, str] = {}
        for i, (key, twin, bits) in enumerate(zip(keys, twins.tolist(), apart.tolist(), strict=True)):
            reasons.setdefault(key, "" if twin == i else _reason(keys[twin], bits))
        return reasons

    def _like(self, sample: Sample) -> str:
        """The reason to drop an image that is not of the dataset."""
        keys, hashes = self._hashed
        if not keys:
            return ""
        apart = np.bitwise_count(hashes ^ np.uint64(phash(sample.image)))
        nearest = int(apart.argmin())
        return _reason(keys[nearest], int(apart[nearest])) if apart[nearest] <= self.distance else ""


def _hashed(sample: Sample) -> tuple[str, int | None]:
    if sample.error:
        return sample.key, None
    try:
        return sample.key, phash(sample.image)
    except Exception:  # a stranger's file: the pipeline says what is wrong with it
        return sample.key, None


def _reason(key: str, bits: int) -> str:
    return f"near-duplicate of '{key}' (distance {bits})"
