"""What pixels alone say about a whole picture: its main colours, light, contrast and texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scenewright.annotators.appearance.colours import TERMS, terms, to_lab

_SIDE = 128  # longest side at which a picture is looked at
_SHARE = 0.15  # of the picture that a colour needs to be named


@dataclass(frozen=True)
class Scene:
    """How a picture looks as a whole; each word may be missing.

    Attributes:
        colours: up to three colour terms, the most common first; at least one.
        light: ``bright`` or ``dark``.
        contrast: ``high-contrast`` or ``low-contrast``.
        palette: ``colourful``, ``muted`` or ``black-and-white``.
        texture: ``smooth`` or ``textured``.
        halves: where it is darker: ``upper half``, ``lower half``, ``left half`` or ``right half``.
    """

    colours: tuple[str, ...]
    light: str
    contrast: str
    palette: str
    texture: str
    halves: str


def describe_scene(pixels: UInt8[ndarray, "h w 3"]) -> Scene:
    """Describe a picture as a whole.

    Args:
        pixels: RGB, of any size.
    """
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    lab = to_lab(pixels)
    shares = np.bincount(terms(pixels).reshape(-1), minlength=len(TERMS)) / (pixels.shape[0] * pixels.shape[1])
    order = [int(i) for i in np.argsort(-shares, kind="stable")]
    lightness = lab[..., 0]
    level, spread = float(lightness.mean()), float(lightness.std())
    return Scene(
        colours=tuple(TERMS[i] for rank, i in enumerate(order[:3]) if rank == 0 or shares[i] >= _SHARE),
        light="bright" if level > 70 else "dark" if level < 30 else "",
        contrast="high-contrast" if spread > 27 else "low-contrast" if spread < 8 else "",
        palette=_palette(pixels, lab),
        texture=_texture(lightness),
        halves=_halves(lightness),
    )


def _palette(pixels: UInt8[ndarray, "h w 3"], lab: Float[ndarray, "h w 3"]) -> str:
    """How much colour there is. Source: Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images"."""
    if np.quantile(np.hypot(lab[..., 1], lab[..., 2]), 0.97) < 7:
        return "black-and-white"
    r, g, b = (pixels[..., i].astype(np.float64) for i in range(3))
    first, second = r - g, (r + g) / 2 - b
    measure = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
    return "colourful" if measure > 59 else "muted" if measure < 20 else ""


def _texture(lightness: Float[ndarray, "h w"]) -> str:
    """By how much lightness varies within five pixels, over most of the picture."""
    mean = cv2.blur(lightness, (5, 5))
    local = np.sqrt(np.maximum(cv2.blur(lightness**2, (5, 5)) - mean**2, 0))
    middle = float(np.median(local))
    return "smooth" if middle < 1.2 else "textured" if middle > 6.5 else ""


def _halves(lightness: Float[ndarray, "h w"]) -> str:
    """Which half of the picture is clearly darker."""
    height, width = lightness.shape
    if min(height, width) < 2:
        return ""
    down = float(lightness[: height // 2].mean() - lightness[height // 2 :].mean())
    across = float(lightness[:, : width // 2].mean() - lightness[:, width // 2 :].mean())
    if max(abs(down), abs(across)) < 15:
        return ""
    if abs(down) >= abs(across):
        return "lower half" if down > 0 else "upper half"
    return "right half" if across > 0 else "left half"
