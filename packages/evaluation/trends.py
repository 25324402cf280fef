"""How scores depend on what was asked for: means in bins, with how sure they are, as plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from scenewright.evaluation.plot import FIRST, INK, plot
from scenewright.evaluation.readable import known

#: Bins of about as many scores each.
MOST_BINS = 8

#: So many different whole numbers still have a bin each.
_MOST_VALUES = 12

#: Fewer scores than this are not divided further, where values are no whole numbers.
_LEAST_IN_BIN = 10

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Trait:
    """What scores may depend on: a column of the regions' rows."""

    column: str
    heading: str
    axis: str
    is_whole: bool


TRAITS = (
    Trait("area", "Object size", "% of the image", False),
    Trait("count", "Object count", "regions in the layout", True),
    Trait("overlap", "Overlap", "% of the box that is covered", False),
    Trait("words", "Caption length", "words", True),
)


@dataclass(frozen=True)
class Bin:
    """Scores whose trait lies from ``low`` to ``high``.

    Attributes:
        interval: of the mean, 95 %; None where there are not enough layouts to tell.
        count: of the scores.
    """

    low: float
    high: float
    mean: float
    interval: tuple[float, float] | None
    count: int


@dataclass(frozen=True, eq=False)
class Points:
    """Scores with their traits.

    Attributes:
        values: by trait, one per score; NaN where it is not known.
        owners: the layout that each score belongs to; scores of one layout are not independent.
        of_regions: whether each is the score of a region, and not of an image.
    """

    scores: np.ndarray
    values: Mapping[str, np.ndarray]
    owners: np.ndarray
    of_regions: bool

    @property
    def is_binary(self) -> bool:
        return bool(np.isin(self.scores, (0, 1)).all())


def points(name: str, images: Sequence[Row], objects: Sequence[Row]) -> Points:
    """All scores of one name: those of the regions, or those of the images if regions have none.

    An image's traits are the means over its regions; one without regions has a count only, which is 0.
    """
    scored = [x for x in objects if known(x.get(name)) is not None]
    if scored:
        return _points(name, scored, [{t.column: x.get(t.column) for t in TRAITS} for x in scored], True)
    regions: dict[tuple[Any, Any], list[Row]] = {}
    for x in objects:
        regions.setdefault((x["key"], x["image"]), []).append(x)
    scored = [x for x in images if known(x.get(name)) is not None]
    traits = []
    for x in scored:
        own = regions.get((x["key"], x["image"]), [])
        traits.append({**{t.column: _mean([y.get(t.column) for y in own]) for t in TRAITS}, "count": len(own)})
    return _points(name, scored, traits, False)


def _points(name: str, rows: Sequence[Row], traits: Sequence[Row], of_regions: bool) -> Points:
    numbers = {key: i for i, key in enumerate(dict.fromkeys(x["key"] for x in rows))}
    columns = {t.column: [known(x[t.column]) for x in traits] for t in TRAITS}
    return Points(
        scores=np.array([float(x[name]) for x in rows]),
        values={k: np.array([math.nan if x is None else x for x in v], float) for k, v in columns.items()},
        owners=np.array([numbers[x["key"]] for x in rows], int),
        of_regions=of_regions,
    )


def _mean(values: Sequence[Any]) -> float | None:
    found = [x for x in map(known, values) if x is not None]
    return math.fsum(found) / len(found) if found else None


def binned(found: Points, trait: Trait, ranges: Sequence[tuple[float, float]] | None = None) -> list[Bin]:
    """Scores in bins of the trait, those that hold any; in ``ranges`` of the points themselves if not given."""
    values = found.values[trait.column]
    bins = []
    for low, high in ranges_of(values, trait) if ranges is None else ranges:
        inside = (values >= low) & (values <= high)
        chosen = found.scores[inside]
        if len(chosen):
            interval = interval_of_mean(chosen, found.owners[inside], found.is_binary)
            bins.append(Bin(low, high, math.fsum(chosen) / len(chosen), interval, len(chosen)))
    return bins


def ranges_of(values: np.ndarray, trait: Trait) -> list[tuple[float, float]]:
    """The first and the last value of each bin, about as many in each; equal values are never in two bins."""
    different, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    if trait.is_whole and len(different) <= _MOST_VALUES:
        return [(float(x), float(x)) for x in different]
    count = int(counts.sum())
    wanted = count / max(1, min(MOST_BINS, count // _LEAST_IN_BIN))
    bins: list[list[float]] = []  # first, last, count
    for value, equal in zip(different.tolist(), counts.tolist(), strict=True):
        if not bins or bins[-1][2] >= wanted or equal >= wanted:
            bins.append([value, value, 0])
        bins[-1] = [bins[-1][0], value, bins[-1][2] + equal]
    if len(bins) > 1 and bins[-1][2] < wanted / 2 and bins[-2][0] < bins[-2][1]:
        first, last = bins[-2:]
        bins[-2:] = [[first[0], last[1], first[2] + last[2]]]
    return [(low, high) for low, high, _ in bins]


def interval_of_mean(scores: np.ndarray, owners: np.ndarray, is_binary: bool) -> tuple[float, float] | None:
    """The range in which the mean is with 95 % confidence, if layouts are drawn at random and not regions.

    For shares it is Wilson's, with the number of scores that would be as sure if they were independent; where all
    are equal, that is the number of layouts. For others it is the mean ± t standard deviations.

    Returns:
        None of fewer than two layouts.

    Source: Cochran 1977, "Sampling Techniques", section 6 (ratio estimates); Dean and Pagano 2015, "Evaluating
    confidence interval methods for binomial proportions in clustered surveys"; Wilson 1927.
    """
    layouts, of = np.unique(owners, return_inverse=True)
    if len(layouts) < 2:
        return None
    mean, count = math.fsum(scores) / len(scores), len(scores)
    rest = np.bincount(of, weights=scores - mean)
    variance = len(layouts) / (len(layouts) - 1) * float((rest**2).sum()) / count**2
    if not is_binary:
        half = float(stats.t.ppf(0.975, len(layouts) - 1)) * math.sqrt(variance)
        return mean - half, mean + half
    independent = min(count, mean * (1 - mean) / variance) if 0 < mean < 1 and variance > 0 else len(layouts)
    return _wilson(mean, float(independent))


def _wilson(share: float, count: float) -> tuple[float, float]:
    z = float(stats.norm.ppf(0.975))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def draw(number: int, found: Points) -> dict[str, tuple[str, str]]:
    """A plot of each trait that is known of two scores or more: what it shows in words, and SVG.

    Args:
        number: tells the plots of several scores apart.
    """
    every = {t: binned(found, t) for t in TRAITS}
    limits = _limits([x for bins in every.values() for x in bins], found)
    drawn = {}
    for trait, bins in every.items():
        count = sum(x.count for x in bins)
        if count > 1:
            what = "regions" if found.of_regions else "images" if trait.column == "count" else "images, mean of regions"
            svg = plot(f"trend-{number}-{trait.column}", lambda axes, t=trait, b=bins: _draw(axes, t, b, limits, found))
            drawn[trait.column] = (f"{count:,} {what}", svg)
    return drawn


def _limits(bins: Sequence[Bin], found: Points) -> tuple[float, float]:
    """Of the scores' axis, with room for the numbers above; the widest intervals of a few scores may be cut."""
    if found.is_binary:
        return -0.02, 1.16
    usual = np.percentile(found.scores, [2.5, 97.5])
    ends = np.clip([y for x in bins for y in x.interval or ()], *usual).tolist()
    every = [x.mean for x in bins] + ends
    low, high = min(every, default=0.0), max(every, default=1.0)
    room = (high - low) or abs(high) or 1.0
    return low - 0.06 * room, high + 0.2 * room


def _draw(axes: Axes, trait: Trait, bins: Sequence[Bin], limits: tuple[float, float], found: Points) -> None:
    places = np.arange(len(bins))
    axes.axhline(math.fsum(found.scores) / len(found.scores), color=INK, linewidth=0.8, dashes=(3, 3))
    axes.plot(places, [x.mean for x in bins], color=FIRST, linewidth=1, alpha=0.45)
    for place, x in zip(places, bins, strict=True):
        if x.interval:
            axes.plot([place, place], x.interval, color=FIRST, linewidth=1.6)
        above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top", "fontsize": 8, "color": INK}
        axes.annotate(f"{x.count:,}", (place, 0.995), **above)
    axes.plot(places, [x.mean for x in bins], "o", color=FIRST, markersize=5.5)
    axes.set(ylabel="share" if found.is_binary else "mean score", ylim=limits)
    if found.is_binary:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    label_bins(axes, trait, [(x.low, x.high) for x in bins])


def label_bins(axes: Axes, trait: Trait, ranges: Sequence[tuple[float, float]]) -> None:
    """Say below the axis which values each bin has; bins stand at 0, 1, 2 ..."""
    places = np.arange(len(ranges))
    axes.set(xlabel=trait.axis, xlim=(-0.5, max(0.5, len(ranges) - 0.5)))
    if trait.is_whole:
        axes.set_xticks(places, [f"{low:g}" if low == high else f"{low:g}–{high:g}" for low, high in ranges])
    else:  # the edges of the bins
        edges = [*(low for low, _ in ranges), ranges[-1][1]]
        axes.set_xticks([*(places - 0.5), len(ranges) - 0.5], [_short(x) for x in edges])
    axes.tick_params(axis="x", labelsize=9)


def _short(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.095 else f"{100 * share:.2g}" if share >= 1e-5 or not share else "0+"
