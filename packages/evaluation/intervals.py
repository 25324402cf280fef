"""How sure a number is: 95 % bootstrap intervals, by layout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from scenewright.evaluation.scoring import Record, RecordingMetric, image_values

#: Percentiles of what resampled layouts give.
_LOW, _HIGH = 2.5, 97.5

#: Resampled layouts at once, such that their weights stay small in memory.
_CELLS_AT_ONCE = 2**24


def intervals(
    metric: RecordingMetric, records: Sequence[Record], *, rounds: int | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Of each number of a metric, the range in which it is with 95 % confidence.

    Layouts are drawn with replacement, all images of a layout together, since they are not independent. For means these
    are percentiles. A statistic of a whole set (FID, AP) of a set with repetitions is biased, so its interval is the
    number itself ± 1.96 standard deviations of what the resampled sets give.

    Args:
        records: in the order of their keys.
        rounds: how many times layouts are drawn; the metric's own number if not given.

    Returns:
        By name; (NaN, NaN) of fewer than two layouts.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap".
    """
    rounds = metric.rounds if rounds is None else rounds
    layouts = [list(group) for _, group in groupby(records, key=lambda x: x.key)]
    names = list(metric.summarize(records))
    if len(layouts) < 2 or not rounds:
        return dict.fromkeys(names, (np.nan, np.nan))
    if metric.is_mean:
        return _of_means(layouts, rounds, seed)
    value = metric.summarize(records)
    generator, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        chosen = generator.integers(len(layouts), size=len(layouts))
        found.append(metric.summarize([x for i in chosen for x in layouts[i]]))
    spread = {name: 1.96 * _deviation([x[name] for x in found]) for name in names}
    return {name: (value[name] - spread[name], value[name] + spread[name]) for name in names}


def _of_means(layouts: Sequence[Sequence[Record]], rounds: int, seed: int) -> dict[str, tuple[float, float]]:
    names, values = image_values([x for some in layouts for x in some])
    owners = np.repeat(np.arange(len(layouts)), [len(x) for x in layouts])
    known = ~np.isnan(values)
    sums, counts = np.zeros((len(layouts), len(names))), np.zeros((len(layouts), len(names)))
    np.add.at(sums, owners, np.where(known, values, 0))
    np.add.at(counts, owners, known)
    generator, found = np.random.default_rng(seed), []
    step = max(1, _CELLS_AT_ONCE // len(layouts))
    for start in range(0, rounds, step):
        chosen = generator.integers(len(layouts), size=(min(step, rounds - start), len(layouts)))
        times = np.stack([np.bincount(x, minlength=len(layouts)) for x in chosen])
        with np.errstate(invalid="ignore"):
            found.append((times @ sums) / (times @ counts))
    every = np.concatenate(found)
    whole = {name: every[:, i][~np.isnan(every[:, i])] for i, name in enumerate(names)}
    return {name: _percentiles(x) for name, x in whole.items()}


def _deviation(values: Sequence[float]) -> float:
    known = [x for x in values if not np.isnan(x)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else np.nan


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return np.nan, np.nan
    low, high = np.percentile(values, [_LOW, _HIGH])
    return float(low), float(high)
