"""Patterns: whether a region is plain, striped, dotted, checkered, or fades from one colour to another.

All is read from one number per pixel, its place on the line in CIELAB along which the region's colours vary most.
The directions in which that number changes tell the patterns apart at any rotation: stripes have one direction,
checkers two at a right angle, dots all. A gradient is a ramp: a plane explains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

PATTERNS = ("plain", "striped", "dotted", "checkered", "gradient")


@dataclass(frozen=True)
class Pattern:
    """A region's pattern and the split of its pixels into two colours.

    Attributes:
        name: one of ``PATTERNS``.
        second: where the second colour is; empty when the region has one colour.
    """

    name: str
    second: Bool[ndarray, "h w"]


def read_pattern(lab: Float[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]) -> Pattern:
    """Tell a region's pattern.

    Args:
        lab: the pixels in CIELAB.
        inside: the region, best without its rim, where pixels mix with the background.
    """
    nothing = np.zeros_like(inside)
    if inside.sum() < 12:
        return Pattern("plain", nothing)
    field, spread = _principal(lab, inside)
    values = field[inside]
    plane = _plane_fit(field, inside)
    threshold, bimodality = _otsu(values)
    if spread < 3:
        return Pattern("plain", nothing)
    high = inside & (field > threshold)
    low = inside & ~high
    second = high if high.sum() <= low.sum() else low
    step = float(values[values > threshold].mean() - values[values <= threshold].mean())
    if plane > 0.8 and bimodality < 0.87 and spread > 4:
        return Pattern("gradient", second)
    if step < 12 or bimodality < 0.72 or second.sum() < 0.06 * inside.sum():
        return Pattern("plain", nothing)
    return Pattern(_two_tone(field, inside, second), second)


def _principal(lab: Float[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]) -> tuple[Float[ndarray, "h w"], float]:
    """Each pixel's place along the main axis of colour, and the standard deviation there."""
    values = lab[inside]
    centre = values.mean(0)
    variances, axes = np.linalg.eigh(np.cov((values - centre).T.astype(np.float64)))
    axis = axes[:, -1] * (1 if axes[np.abs(axes[:, -1]).argmax(), -1] > 0 else -1)
    return ((lab - centre) @ axis).astype(np.float32), float(np.sqrt(max(variances[-1], 0)))


def _plane_fit(field: Float[ndarray, "h w"], inside: Bool[ndarray, "h w"]) -> float:
    """The share of the field's variance that a linear ramp explains, in [0, 1]."""
    y, x = np.nonzero(inside)
    design = np.stack([x - x.mean(), y - y.mean()], 1)
    values = field[inside].astype(np.float64)
    values = values - values.mean()
    total = float(values @ values)
    if total == 0:
        return 0.0
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(1 - ((values - design @ solution) ** 2).sum() / total)


def _otsu(values: Float[ndarray, " n"]) -> tuple[float, float]:
    """The threshold that splits best, and the share of variance the split explains: 0.64 normal, 0.75 ramp, 1 two."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low, 0.0
    counts, edges = np.histogram(values, 64, (low, high))
    middles = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts)
    first = np.cumsum(counts * middles)
    n, total = weight[-1], first[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * weight / n - first) ** 2 / (weight * (n - weight))
    between = np.nan_to_num(between[:-1], posinf=0.0)
    best = int(between.argmax())
    variance = float((counts * (middles - total / n) ** 2).sum())
    return float(edges[best + 1]), float(between[best] * n / variance) if variance else 0.0


def _two_tone(field: Float[ndarray, "h w"], inside: Bool[ndarray, "h w"], second: Bool[ndarray, "h w"]) -> str:
    """Stripes, dots or checkers, by the directions of the edges inside the region."""
    two, four, edges = _directions(field, inside)
    if edges < 0.02:
        return "plain"
    if two > 0.6:
        return "striped"
    return "checkered" if four > 0.45 else "dotted"


def _directions(field: Float[ndarray, "h w"], inside: Bool[ndarray, "h w"]) -> tuple[float, float, float]:
    """How far all edges share one direction, or two at a right angle; and the share of pixels that are edges."""
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    smooth = cv2.GaussianBlur(field, (0, 0), 0.7)
    gradient = cv2.Scharr(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    gradient = gradient[core]
    strength = np.abs(gradient)
    strong = strength > 0.35 * strength.max(initial=0)
    if not strong.any():
        return 0.0, 0.0, 0.0
    unit = gradient[strong] / strength[strong]
    weight = strength[strong] / strength[strong].sum()
    return float(np.abs((weight * unit**2).sum())), float(np.abs((weight * unit**4).sum())), float(strong.mean())
