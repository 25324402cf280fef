"""Patterns: whether a region is plain, striped, dotted, checkered, or fades from one colour to another.

All is read from one number per pixel, its place on the line in CIELAB along which the region's colours vary most.
The directions in which that number changes tell the patterns apart at any rotation: stripes have one direction,
checkers two at a right angle, dots all. A gradient is a ramp: a plane explains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray

PATTERNS = ("plain", "striped", "dotted", "checkered", "gradient")
FLAT = 1.5  # ΔE of noise below which a surface has no texture at all
DRAWN = 4.0  # ΔE of noise below which a region looks drawn
SMALL = 300  # pixels below which many lie on an edge
_LEAST = 30  # pixels below which no pattern is claimed
_END = 0.1  # share of a gradient's length that is looked at on either end


@dataclass(frozen=True, eq=False)
class Pattern:
    """A region's pattern and where its colours are.

    Attributes:
        name: one of ``PATTERNS``.
        parts: one or two masks, that of the first colour first. Of a gradient, its two ends, from the top or, where
            it goes across, from the left.
        noise: how much colour varies within a part, in ΔE: near 0 in drawings, 4 and more in most photographs; 0 for
            too few pixels to tell.
    """

    name: str
    parts: tuple[Bool[ndarray, "h w"], ...]
    noise: float


def read_pattern(
    pixels: UInt8[ndarray, "h w 3"], lab: Float[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]
) -> Pattern:
    """Tell a region's pattern.

    Args:
        pixels: RGB.
        lab: the same in CIELAB.
        inside: the region, best without its rim, where pixels mix with the background; not empty.
    """
    if inside.sum() < _LEAST:
        return Pattern("plain", (inside,), 0.0)
    plain = Pattern("plain", (inside,), _noise(lab, (inside,)))
    field, spread = _principal(lab, inside)
    if spread < 3:  # ΔE: noise, or nothing
        return plain
    ramp, slope = _fit_ramp(pixels, inside)
    threshold, bimodality = _otsu(field[inside])
    # a ramp explains 0.75 of a region that is half one colour and half another, and up to 0.4 of other patterns
    if ramp > 0.9 or (ramp > 0.6 and bimodality < 0.87):
        ends = _ends(slope, inside)
        return Pattern("gradient", ends, _noise(lab, ends))
    high = inside & (field > threshold)
    low = inside & ~high
    step = float(np.linalg.norm(median(lab[high]) - median(lab[low])))
    parts = (low, high) if low.sum() >= high.sum() else (high, low)
    noise = _noise(lab, parts)
    if step < 12 or bimodality < 0.72 or parts[1].sum() < 0.08 * inside.sum():
        return Pattern("plain", (inside,), noise if noise < FLAT else plain.noise)
    # light and dark places of something natural are no pattern, however they lie; small drawings are blurred
    clean = noise < max(DRAWN, (0.12 if inside.sum() > SMALL else 0.3) * step)
    name = _two_tone(field, inside, *parts) if clean else "plain"
    return Pattern(name, parts, noise)


def _noise(lab: Float[ndarray, "h w 3"], parts: tuple[Bool[ndarray, "h w"], ...]) -> float:
    """The larger parts' usual distance from their median colour."""
    worst = 0.0
    for part in parts:
        values = lab[part]
        away = values - median(values)
        worst = max(worst, float(median((away * away).sum(1, keepdims=True))[0]))
    return float(np.sqrt(worst))


def median(values: Shaped[ndarray, "n k"]) -> Shaped[ndarray, " k"]:
    """The upper median of each column: what ``np.median`` takes several times as long for."""
    half = len(values) // 2
    return np.partition(values, half, axis=0)[half]


def _principal(lab: Float[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]) -> tuple[Float[ndarray, "h w"], float]:
    """Each pixel's place along the main axis of colour, and the standard deviation there."""
    values = lab[inside]
    centre = values.mean(0)
    away = (values - centre).astype(np.float64)
    variances, axes = np.linalg.eigh(away.T @ away / max(len(away) - 1, 1))
    axis = axes[:, -1] * (1 if axes[np.abs(axes[:, -1]).argmax(), -1] > 0 else -1)
    return ((lab - centre) @ axis).astype(np.float32), float(np.sqrt(max(variances[-1], 0)))


def _fit_ramp(pixels: UInt8[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]) -> tuple[float, Float[ndarray, " 2"]]:
    """The share of the variance that a linear ramp of colour explains, in [0, 1], and its direction in x and y.

    Fitted in RGB: two colours that are mixed in equal steps lie on a line there, in CIELAB on an arc.
    """
    y, x = np.nonzero(inside)
    design = np.stack([x - x.mean(), y - y.mean()], 1)
    values = pixels[inside].astype(np.float64)
    values -= values.mean(0)
    slopes = np.linalg.pinv(design.T @ design) @ (design.T @ values)  # (2, 3)
    total = float((values**2).sum())
    ramp = float(1 - ((values - design @ slopes) ** 2).sum() / total) if total else 0.0
    return ramp, np.linalg.svd(slopes)[0][:, 0]


def _ends(direction: Float[ndarray, " 2"], inside: Bool[ndarray, "h w"]) -> tuple[ndarray, ndarray]:
    """The first and the last part of a region along a direction, in reading order."""
    if direction[1] < -0.34 or (abs(direction[1]) <= 0.34 and direction[0] < 0):
        direction = -direction
    y, x = np.indices(inside.shape)
    along = x * direction[0] + y * direction[1]
    values = along[inside]
    reach = np.ptp(values) * _END
    # a triangle's tip is small: enough pixels to tell a colour by
    few = min(0.5, 6 / len(values))
    low = max(values.min() + reach, np.quantile(values, few))
    high = min(values.max() - reach, np.quantile(values, 1 - few))
    return inside & (along <= low), inside & (along >= high)


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


def _two_tone(
    field: Float[ndarray, "h w"],
    inside: Bool[ndarray, "h w"],
    first: Bool[ndarray, "h w"],
    second: Bool[ndarray, "h w"],
) -> str:
    """Stripes, dots or checkers, by the directions of the edges inside the region; plain when nothing repeats."""
    least = max(2, round(0.006 * int(inside.sum())))
    pieces = [_count_pieces(part, least) for part in (first, second)]
    two, four = _directions(field, inside)
    if two > 0.6:
        return "striped" if sum(pieces) >= 3 else "plain"
    if four > 0.45:
        return "checkered" if sum(pieces) >= 4 else "plain"
    return "dotted" if sum(pieces) >= 3 else "plain"


def _count_pieces(part: Bool[ndarray, "h w"], least: int) -> int:
    """Connected pieces of at least so many pixels; diagonal neighbours do not connect."""
    sizes = cv2.connectedComponentsWithStats(part.astype(np.uint8), connectivity=4)[2][1:, cv2.CC_STAT_AREA]
    return int((sizes >= least).sum())


def _directions(field: Float[ndarray, "h w"], inside: Bool[ndarray, "h w"]) -> tuple[float, float]:
    """How far all edges share one direction, and how far they share two at a right angle; both in [0, 1]."""
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    smooth = cv2.GaussianBlur(field, (0, 0), 0.7)
    gradient = (cv2.Scharr(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Scharr(smooth, cv2.CV_32F, 0, 1))[core]
    strength = np.abs(gradient)
    strong = strength > 0.35 * strength.max(initial=0)  # the rest is texture, or the corner of a cell
    if not strong.any():
        return 0.0, 0.0
    unit, weight = gradient[strong] / strength[strong], strength[strong] / strength[strong].sum()
    return float(np.abs((weight * unit**2).sum())), float(np.abs((weight * unit**4).sum()))
