"""A metric's numbers as a run reports them: with n, an interval and what share of all is covered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scenewright.evaluation.intervals import intervals
from scenewright.evaluation.readable import arrow
from scenewright.evaluation.scoring import Record, RecordingMetric, gathered, image_values


def entries(
    metric: RecordingMetric, lost: Sequence[int] = (), rounds: int | None = None
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """What a metric found in the images of all processes. Collective.

    Args:
        lost: of each image that is not there, how many regions its layout has: as much as it would have been asked
            for counts as not scored.
        rounds: of the bootstrap; the metric's own number if not given.

    Returns:
        By the number's name, ``value`` (None where nothing could be scored), ``interval`` (or None), ``n`` images and
        ``objects`` regions that it is made of, ``expected`` and ``scored`` scores and their quotient ``coverage``.
        And keys with why something of them could not be scored.
    """
    records = gathered(metric.records)
    ranges = intervals(metric, records, rounds=rounds)
    found = {}
    for name, value in metric.summarize(records).items():
        low, high = ranges[name]
        known = math.isfinite(low) and math.isfinite(high)
        entry = {"value": float(value) if math.isfinite(value) else None, "interval": [low, high] if known else None}
        found[name] = {**entry, **_counts(records, name, lost)}
    return found, [(x.key, why) for x in records for why in x.problems]


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers as people read them in a terminal."""
    rows = [("metric", "value", "95 % interval", "images", "regions", "coverage")]
    for name, x in metrics.items():
        value = "–" if x["value"] is None else f"{x['value']:.4f}"
        interval = "–" if x["interval"] is None else f"{x['interval'][0]:.4f} – {x['interval'][1]:.4f}"
        rows.append(
            (
                f"{name} {arrow(x['higher_is_better'])}".rstrip(),
                value,
                interval,
                str(x["n"]),
                str(x["objects"] or ""),
                f"{x['coverage']:.4g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(x.rjust(width) for x, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _counts(records: Sequence[Record], name: str, lost: Sequence[int]) -> dict[str, Any]:
    """How much was to be scored for one number, and was; one that is no mean is made of all its metric's scores."""
    names, values = image_values(records)
    is_mean = name in names
    asked = {name} if is_mean else set(names)
    regions = [score for x in records for key in asked & set(x.objects) for score in x.objects[key]]
    images = [x.image[key] for x in records for key in asked & set(x.image)]
    scores = [not math.isnan(x) for x in regions + images]
    if not names:  # a metric that keeps features only asks for one thing per image
        scores = [True] * len(records)
    per_region = len(asked.intersection(*(x.objects for x in records))) if records else 0
    per_image = len(asked.intersection(*(x.image for x in records))) if records else 1
    missing = sum(per_region * count + max(per_image, not per_region) for count in lost)
    expected, scored = len(scores) + missing, sum(scores)
    return {
        "n": sum(not math.isnan(x) for x in values[:, names.index(name)]) if is_mean else len(records),
        "objects": sum(not math.isnan(x) for x in regions) if is_mean else 0,
        "expected": expected,
        "scored": scored,
        "coverage": scored / expected if expected else 1.0,
    }
