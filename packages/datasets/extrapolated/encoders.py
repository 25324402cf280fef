"""What an image is compared by: CLIP's features, or colours and edges, which need no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image


@runtime_checkable
class ImageText(Protocol):
    """Two towers on one sphere: pictures and texts."""

    @property
    def checkpoints(self) -> list[Checkpoint]: ...

    def of_pictures(self, pictures: Sequence[Image], whole: bool = False) -> Float[Tensor, "n d"]: ...

    def of_texts(self, texts: Sequence[str], device: torch.device | str) -> Float[Tensor, "n d"]: ...


class CLIPFeatures:
    """CLIP's projected features, of length 1.

    Args:
        towers: CLIP's.
        whole: a picture is scaled to fit, with a border; else the middle square is seen, as CLIP was trained.

    Source: Radford et al. 2021, arXiv 2103.00020.
    """

    def __init__(self, towers: ImageText, whole: bool = False) -> None:
        self.towers, self.whole = towers, whole

    def fingerprint(self) -> str:
        """The weights' files, and what is seen of a picture."""
        return self._fingerprint

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """One direction per image, in float32.

        Raises:
            CheckpointError: the weights are not there, or are none of a CLIP.
        """
        return self.towers.of_pictures(images, whole=self.whole).float()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One direction per text, in float32; of a long one the beginning.

        Raises:
            CheckpointError: the weights are not there, or are none of a CLIP.
        """
        return self.towers.of_texts(texts, "cpu").float()

    @cached_property
    def _fingerprint(self) -> str:
        settings = {x: getattr(self.towers, x, None) for x in ("dtype", "revision")}
        return f"clip {[_identity(x) for x in self.towers.checkpoints]} {settings} whole={self.whole}"


class HistogramFeatures:
    """A stand-in without weights: which colours are in each quarter, and which way edges run where.

    The roots of colour shares in a ``bins³`` cube of RGB for each quarter of the image, beside scikit-image's HOG of
    its grey, ``side`` pixels wide and high; each half has length 1, and so the same say. It tells plain classes apart,
    not species.

    Args:
        side: what images are scaled to, in pixels: at least 32.
        bins: of one colour channel, from 2 to 16.

    Raises:
        ValueError: a setting is out of its range.

    Source: Swain and Ballard 1991, "Color indexing"; Dalal and Triggs 2005, "Histograms of Oriented Gradients".
    """

    def __init__(self, side: int = 64, bins: int = 4) -> None:
        if side < 32 or not 2 <= bins <= 16:
            raise ValueError(f"side must be at least 32 and bins from 2 to 16, got {side} and {bins}")
        self.side, self.bins = side, bins

    def fingerprint(self) -> str:
        """Its settings."""
        return f"histogram features {self.side} {self.bins}"

    def encode_images(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """One vector of length 1 per image, in float32."""
        if not len(images):
            return torch.zeros(0, self._width)
        device = images[0].device
        rows = [torch.cat([self._colours(x), self._edges(x)]) for x in map(self._small, images)]
        return normalize(torch.stack(rows)).to(device)

    @property
    def _width(self) -> int:
        return len(self._colours(x := torch.zeros(3, self.side, self.side))) + len(self._edges(x))

    def _small(self, image: Image) -> Float[Tensor, "3 side side"]:
        pixels = image[None].float().cpu()
        small = interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)[0]
        return small.round().clamp(0, 255)  # or what is flat would have the edges of rounding errors

    def _colours(self, pixels: Float[Tensor, "3 side side"]) -> Float[Tensor, " d"]:
        level = (pixels * (self.bins / 256)).long().clamp(max=self.bins - 1)
        code = (level[0] * self.bins + level[1]) * self.bins + level[2]
        half = self.side // 2
        quarters = [
            code[y, x].flatten() for y in (slice(half), slice(half, None)) for x in (slice(half), slice(half, None))
        ]
        shares = torch.stack([torch.bincount(x, minlength=self.bins**3) / len(x) for x in quarters])
        return normalize(shares.float().sqrt().flatten(), dim=0)

    def _edges(self, pixels: Float[Tensor, "3 side side"]) -> Float[Tensor, " d"]:
        from skimage.feature import hog

        grey = pixels.mean(0).numpy().astype(np.float64) / 255
        cell = self.side // 4
        found = hog(grey, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(2, 2), feature_vector=True)
        return normalize(torch.from_numpy(found).float(), dim=0)


def _identity(checkpoint: Checkpoint) -> str:
    """Which weights exactly: the digest of a folder's files, or the commit of a hub's repository."""
    if not checkpoint.is_local:
        return f"{checkpoint.name} {checkpoint.commit or checkpoint.revision}"
    root = Path(checkpoint.name).expanduser()
    digest = hashlib.sha256()
    for path in [root] if root.is_file() else [x for x in (root / name for name in checkpoint.files) if x.exists()]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
