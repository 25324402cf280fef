"""How well a metric agrees with people: pair by pair, image by image, and run by run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from scenewright.evaluation.human_preference.votes import Comparison, Place, Vote, comparisons, win_shares

#: Of one run: by metric and image, what the image got; NaN where it could not be scored.
Scores = Mapping[str, Mapping[Place, float]]

#: What a correlation consists of, with what each is called for people.
NUMBERS = {"agreement": "agrees", "tau": "τ-b", "rho": "ρ", "run_tau": "τ-b of runs", "run_rho": "ρ of runs"}


@dataclass(frozen=True)
class Number:
    """A number and the range in which it is with 95 % confidence; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Correlation:
    """How one metric agrees with people.

    Attributes:
        compared: judges' comparisons in which judge and metric prefer one image each.
        ties: comparisons in which the judge saw no difference.
        equal: others in which the metric saw none.
        unscored: others in which an image has no score.
        images: judged images that have a score.
        numbers: ``agreement``, the share of ``compared`` in which both prefer the same image; ``tau`` and ``rho``,
            Kendall's tau-b and Spearman's rho between the images' win shares and scores; ``run_tau`` and ``run_rho``,
            the same between the runs' means over these images, where there are three runs or more.
    """

    metric: str
    compared: int
    ties: int
    equal: int
    unscored: int
    images: int
    numbers: Mapping[str, Number]


def correlations(
    votes: Iterable[Vote],
    scores: Mapping[str, Scores],
    *,
    lower_is_better: Collection[str] = (),
    rounds: int = 1000,
    seed: int = 0,
) -> list[Correlation]:
    """Of every metric that a run has, in the order they come.

    Intervals are percentiles of what layouts give that are drawn with replacement, all images and all judges of a
    layout together; they do not cover that other judges might think otherwise.

    Args:
        scores: by run, of all that were judged.
        lower_is_better: names of metrics whose signs are turned.
        rounds: how many times layouts are drawn.

    Raises:
        ValueError: the votes name a run without scores; ``lower_is_better`` names no metric.

    Source: Kendall 1945, "The treatment of ties in ranking problems"; intervals as in Efron and Tibshirani 1993.
    """
    found = comparisons(votes)
    if unknown := sorted({run for x in found for run in x.runs} - set(scores)):
        raise ValueError(f"the votes name the run {unknown[0]!r}, which is none of {', '.join(map(repr, scores))}")
    names = dict.fromkeys(name for run in scores.values() for name in run)
    if unknown := sorted(set(lower_is_better) - set(names)):
        raise ValueError(f"lower_is_better names {unknown[0]!r}, which is none of the metrics {', '.join(names)}")
    every = []
    for name in names:
        sign = -1.0 if name in lower_is_better else 1.0
        table = _Table.of(found, {run: metrics.get(name, {}) for run, metrics in scores.items()}, sign)
        every.append(table.correlation(name, rounds, seed))
    return every


@dataclass(frozen=True, eq=False)
class _Table:
    """One metric beside the votes: a row per judged image, and a row per comparison; both have a layout's number."""

    layouts: int
    image_layouts: np.ndarray
    runs: np.ndarray
    shares: np.ndarray
    values: np.ndarray
    comparison_layouts: np.ndarray
    preferences: np.ndarray  # of judges: 1, -1, 0
    differences: np.ndarray  # of the metric: 1, -1, 0; NaN where it has none

    @classmethod
    def of(cls, found: Sequence[Comparison], scores: Mapping[str, Mapping[Place, float]], sign: float) -> _Table:
        won = win_shares(found)
        images = sorted((run, place) for run, shares in won.items() for place in shares)
        layouts = {key: i for i, key in enumerate(sorted({x.place.key for x in found}))}
        runs = {run: i for i, run in enumerate(sorted(won))}

        def difference(x: Comparison) -> float:
            first, second = (sign * scores[run].get(x.place, math.nan) for run in x.runs)
            return math.nan if math.isnan(first) or math.isnan(second) else float((first > second) - (first < second))

        return cls(
            layouts=len(layouts),
            image_layouts=np.array([layouts[place.key] for _, place in images], int),
            runs=np.array([runs[run] for run, _ in images], int),
            shares=np.array([won[run][place] for run, place in images], float),
            values=np.array([sign * scores[run].get(place, math.nan) for run, place in images], float),
            comparison_layouts=np.array([layouts[x.place.key] for x in found], int),
            preferences=np.array([x.preference for x in found], float),
            differences=np.array([difference(x) for x in found], float),
        )

    def correlation(self, metric: str, rounds: int, seed: int) -> Correlation:
        prefers, known = self.preferences != 0, ~np.isnan(self.differences)
        value = self._numbers(np.arange(len(self.values)), np.arange(len(self.preferences)))
        resampled = self._resampled(rounds, seed)
        return Correlation(
            metric,
            compared=int((prefers & known & (self.differences != 0)).sum()),
            ties=int((~prefers).sum()),
            equal=int((prefers & (self.differences == 0)).sum()),
            unscored=int((prefers & ~known).sum()),
            images=int((~np.isnan(self.values)).sum()),
            numbers={name: Number(value[name], *_percentiles([x[name] for x in resampled])) for name in NUMBERS},
        )

    def _resampled(self, rounds: int, seed: int) -> list[dict[str, float]]:
        if self.layouts < 2:
            return []
        generator = np.random.default_rng(seed)
        images = [np.flatnonzero(self.image_layouts == i) for i in range(self.layouts)]
        compared = [np.flatnonzero(self.comparison_layouts == i) for i in range(self.layouts)]
        found = []
        for _ in range(rounds):
            chosen = generator.integers(self.layouts, size=self.layouts)
            rows = [np.concatenate([some[i] for i in chosen]) for some in (images, compared)]
            found.append(self._numbers(*rows))
        return found

    def _numbers(self, images: np.ndarray, compared: np.ndarray) -> dict[str, float]:
        """All numbers of these rows; a row may be there more than once."""
        scored = images[~np.isnan(self.values[images])]
        products = self.preferences[compared] * self.differences[compared]
        clear = products[(products != 0) & ~np.isnan(products)]
        tau, rho = _rank(self.shares[scored], self.values[scored])
        run_tau, run_rho = _rank(*self._run_means(scored))
        agreement = float((clear > 0).mean()) if len(clear) else math.nan
        return {"agreement": agreement, "tau": tau, "rho": rho, "run_tau": run_tau, "run_rho": run_rho}

    def _run_means(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of win shares and scores; none of fewer than three runs."""
        counts = np.bincount(self.runs[rows])
        seen = counts > 0
        if seen.sum() < 3:
            return np.empty(0), np.empty(0)
        runs = self.runs[rows]
        shares, values = (np.bincount(runs, x[rows])[seen] / counts[seen] for x in (self.shares, self.values))
        return _rounded(shares), _rounded(values)


def _rank(shares: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho; NaN where all of one side are the same."""
    if len(shares) < 2 or np.ptp(shares) == 0 or (values == values[0]).all():
        return math.nan, math.nan
    found: list[Any] = [stats.kendalltau(shares, values), stats.spearmanr(shares, values)]  # scipy's types are wrong
    return float(found[0].statistic), float(found[1].statistic)


def _rounded(values: np.ndarray) -> np.ndarray:
    """To 12 digits, so that equal means of thirds stay equal."""
    return np.array([float(f"{x:.12g}") for x in values])


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    known = [x for x in values if not math.isnan(x)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
