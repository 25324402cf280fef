"""Images that are also in an evaluation split."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt64
from torch import Tensor

from scenewright.datasets.extrapolated.records import Measured
from scenewright.datasets.extrapolated.solving import nearest
from scenewright.perceptual_hashes import nearest_of


class NearDuplicates:
    """An image is one of another if their perceptual hashes, or their features, are near each other.

    Hashes find copies that were resized, recompressed or retouched; features crops and mirror images too.

    Args:
        distance: Hamming distance of 64 bits up to which hashes are near, in [0, 64].
        cosine: from which features are near, in (0, 1]; None looks at hashes alone. It depends on the encoder: CLIP's
            features of two photos of one species reach 0.95.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(self, distance: int = 4, cosine: float | int | None = 0.97) -> None:
        if not 0 <= distance <= 64 or not (cosine is None or 0 < cosine <= 1):
            raise ValueError(f"distance must be in [0, 64] and cosine in (0, 1], got {distance} and {cosine}")
        self.distance, self.cosine = distance, cosine

    def judge(
        self, features: Float[Tensor, "n d"], hashes: UInt64[np.ndarray, " n"], others: Measured
    ) -> list[tuple[str, float] | None]:
        """Of each image why it is one of the others and by how much, or None.

        Raises:
            ValueError: features are not equally wide.
        """
        readable = [i for i, problem in enumerate(others.problems) if not problem]
        if not readable or not len(features):
            return [None] * len(features)
        theirs = others.features[readable]
        if theirs.shape[1] != features.shape[1]:
            raise ValueError(f"features have {features.shape[1]} values, those of evaluation images {theirs.shape[1]}")
        keys = [others.keys[i] for i in readable]
        twins, bits = nearest_of(hashes, others.hashes[readable])
        cosines, likes = (x[:, 0].tolist() for x in nearest(features, theirs, 1))
        verdicts: list[tuple[str, float] | None] = []
        for twin, apart, like, cosine in zip(twins.tolist(), bits.tolist(), likes, cosines, strict=True):
            verdict = None
            if apart <= self.distance:
                verdict = f"near-duplicate of evaluation image {keys[twin]!r} (distance {apart})", float(apart)
            elif self.cosine is not None and cosine >= self.cosine:
                verdict = f"near-duplicate of evaluation image {keys[like]!r} (cosine {cosine:.3f})", round(cosine, 6)
            verdicts.append(verdict)
        return verdicts
