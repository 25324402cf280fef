"""Coordinates as sines and cosines of several frequencies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def frequencies(bands: int = 16, temperature: float = 100.0) -> Float[Tensor, " k"]:
    """``temperature ** (k / bands)``, without a factor of pi."""
    return temperature ** (torch.arange(bands, dtype=torch.float32) / bands)


def fourier_code(
    coordinates: Float[Tensor, "*b d"], bands: int = 16, temperature: float = 100.0
) -> Float[Tensor, "*b e"]:
    """For each band the sines of all coordinates, then their cosines: ``2 * bands * d`` numbers.

    Args:
        coordinates: in fractions of the image.
        bands: how many frequencies.
        temperature: the frequency that the bands go up to, exclusive.

    Source: arXiv 2301.07093, section 3.2; 16 bands in arXiv 2402.03290.
    """
    angles = coordinates[..., None, :] * frequencies(bands, temperature).to(coordinates)[:, None]
    return torch.stack((angles.sin(), angles.cos()), -2).flatten(-3)
