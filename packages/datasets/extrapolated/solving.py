"""Linear extrapolation: an image's text feature from those of the originals nearest to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Cosines that are computed at once: a quarter of a gigabyte of them.
_CELLS = 1 << 26

#: A pivot of this share of the largest squared length is rounding: float32 features are that exact.
_DEPENDENT = 1e-12


@dataclass(frozen=True, eq=False)
class Solved:
    """What ``extrapolate`` found, for ``b`` images.

    Attributes:
        texts: ``(b, c)``, the extrapolated text features; zero where there is no solution.
        weights: ``(b, k)``, of any sign and sum.
        residuals: ``(b,)``, ``|F w - f| / |f|``: 0 where the neighbours span the image, 1 where they say nothing of it.
            Infinite where there is no solution.
        singular: ``(b,)``, where the neighbours depend on each other, so that there is no one solution.
    """

    texts: Float[Tensor, "b c"]
    weights: Float[Tensor, "b k"]
    residuals: Float[Tensor, " b"]
    singular: Bool[Tensor, " b"]


def extrapolate(
    images: Float[Tensor, "b d"],
    neighbours: Float[Tensor, "b k e"],
    texts: Float[Tensor, "b k c"],
    ridge: float | int = 1e-3,
    valid: Bool[Tensor, "b k"] | None = None,
) -> Solved:
    """Solve ``w = (F'F + λ)⁻¹ F'f`` and return ``s = S w``, for a batch of images, by Cholesky in float64.

    The weights neither sum to one nor have one sign: ``s`` may lie outside of what its neighbours span by averages.

    Args:
        images: features ``f``.
        neighbours: the columns of ``F``: features of the nearest originals, as wide as those of the images.
        texts: the columns of ``S``: their text features.
        ridge: ``λ = ridge · tr(F'F) / k``; 0 is ordinary least squares.
        valid: which neighbours are there, where images have unequally many; the others weigh nothing.

    Raises:
        ValueError: the features are not equally wide, ``ridge`` is negative, there are no neighbours, or more of them
            than a feature has values and no ridge.

    Source: Ye and Liu 2024, arXiv 2410.01638; the ridge is ours.
    """
    (_, k, width), count = neighbours.shape, len(images)
    if width != images.shape[1]:
        raise ValueError(f"features of images have {images.shape[1]} values, those of their neighbours {width}")
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    if k < 1 or (ridge == 0 and k > width):
        raise ValueError(f"without a ridge there must be 1 to {width} neighbours, got {k}")
    there = torch.ones(count, k, dtype=torch.bool, device=images.device) if valid is None else valid
    f = images.double()
    columns = neighbours.double() * there[..., None]
    gram = columns @ columns.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    penalty = ridge * squares.sum(1) / there.sum(1).clamp(min=1)
    system = gram + torch.diag_embed(penalty[:, None] * there + (~there).double() * squares.amax(1, keepdim=True))
    factor, failed = torch.linalg.cholesky_ex(system)
    pivots = torch.where(there, factor.diagonal(dim1=1, dim2=2).square(), torch.inf).amin(1)
    singular = (failed > 0) | ~(pivots > _DEPENDENT * squares.amax(1)) | ~there.any(1)
    factor = torch.where(singular[:, None, None], torch.eye(k, dtype=f.dtype, device=f.device), factor)
    aim = columns @ f[..., None]
    weights = torch.cholesky_solve(aim, factor)[..., 0].masked_fill(singular[:, None], 0)
    missed = ((weights[:, None] @ columns)[:, 0] - f).norm(dim=1)
    residuals = (missed / f.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)).masked_fill(singular, torch.inf)
    found = (weights[:, None] @ texts.double())[:, 0]
    return Solved(found.float(), weights.float(), residuals.float(), singular)


def nearest(
    images: Float[Tensor, "n d"], originals: Float[Tensor, "m d"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The cosines with the ``k`` originals most like each image, or with all where there are fewer, and their places.

    Args:
        images, originals: of length 1.
    """
    k = min(k, len(originals))
    rows = max(1, _CELLS // max(len(originals), 1))
    found = [(images[i : i + rows] @ originals.T).topk(k) for i in range(0, len(images), rows)]
    if not found:
        return images.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=images.device)
    return torch.cat([x.values for x in found]), torch.cat([x.indices for x in found])


def rescaled(texts: Float[Tensor, "n c"], length: float) -> Float[Tensor, "n c"]:
    """The features with this length; those without a direction stay zero."""
    norms = texts.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, texts * (length / norms.clamp(min=torch.finfo(texts.dtype).tiny)), texts)
