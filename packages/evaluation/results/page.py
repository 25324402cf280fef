"""The page of one run, as one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scenewright.evaluation import html_file, trends
from scenewright.evaluation.readable import ends, known, number, percent, scale
from scenewright.evaluation.results.cards import Card, Extremes, Picture, cards
from scenewright.evaluation.trends import TRAITS

_FOLDER = Path(__file__).parent
_LOOK = _FOLDER.parent / "report" / "page.css"

#: Keys listed under one heading; ``metrics.json`` names them all.
MOST_KEYS = 500

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Whisker:
    """A number and its interval on an axis, in percent of it; ``low`` and ``high`` are its ends as text."""

    middle: float
    start: float
    width: float
    low: str
    high: str


@dataclass(frozen=True)
class Entry:
    """A line of the table of numbers."""

    name: str
    higher_is_better: bool | None
    value: str
    interval: str
    whisker: Whisker | None
    images: int
    regions: int
    scored: int
    expected: int
    coverage: str
    is_whole: bool


@dataclass(frozen=True)
class Score:
    """What images or regions were scored with: one option of the page's selector."""

    name: str
    higher_is_better: bool | None
    extremes: Extremes
    plots: Mapping[str, tuple[str, str]]


def write_results(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    images: Sequence[Row],
    objects: Sequence[Row],
    picture: Picture,
    count: int = 24,
) -> Path:
    """Write one HTML file that shows what an evaluation run found.

    The file needs nothing beside it, and equal arguments give equal bytes.

    Args:
        path: of the HTML file; its folder is made if it is missing.
        results: the content of ``metrics.json``.
        images: one row per image: ``key``, ``image`` (its index among those of the layout) and its scores by name; None
            or NaN where it has none.
        objects: one row per region: ``key``, ``image``, ``object``, ``area``, ``count``, ``overlap``, ``words`` and its
            scores by name.
        picture: looks up an image; asked for those only that are shown, once each.
        count: of each score, so many images are shown: half of them the best, half the worst.

    Returns:
        ``path``.

    Raises:
        ValueError: ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    names = score_names(results, images)
    metrics = results.get("metrics", {})
    directions = {name: metrics.get(name, {}).get("higher_is_better") for name in names}
    shown, extremes = cards(names, directions, images, objects, picture, count)
    found = [trends.points(name, images, objects) for name in names]
    scores = [Score(name, directions[name], extremes[i], trends.draw(i, found[i])) for i, name in enumerate(names)]
    return html_file.write(Path(path), _render(title, results, images, objects, shown, scores))


def score_names(results: Mapping[str, Any], images: Sequence[Row]) -> list[str]:
    """Names under which images have scores: first those of the numbers, then what else the metrics measured."""
    metrics = results.get("metrics", {})
    families = {name.partition("/")[0] for name in metrics}
    columns = dict.fromkeys(name for row in images for name in row if name.partition("/")[0] in families)
    has = {name for row in images for name in columns if known(row.get(name)) is not None}
    return [x for x in dict.fromkeys((*metrics, *columns)) if x in has]


def _render(
    title: str,
    results: Mapping[str, Any],
    images: Sequence[Row],
    objects: Sequence[Row],
    shown: Sequence[Card],
    scores: Sequence[Score],
) -> str:
    metrics = results.get("metrics", {})
    coverage = {"expected": len(images), "found": len(images), "missing": {}, **(results.get("coverage") or {})}
    return html_file.render(
        _FOLDER / "page.html.j2",
        styles=(_LOOK, _FOLDER / "page.css"),
        script=_FOLDER / "page.js",
        title=title,
        entries=[entry(name, x) for name, x in metrics.items()],
        coverage=coverage,
        lost=_lost(coverage["missing"], results.get("unscored") or {}),
        most_keys=MOST_KEYS,
        scored_images=len(images),
        regions=len(objects),
        cards=shown,
        shape=min(2.0, max(0.5, median([x.ratio for x in shown if x.picture] or [1.0]))),
        scores=scores,
        traits=TRAITS,
        fingerprints=_fingerprints(metrics),
        made_by=results.get("made_by") or {},
        versions=results.get("versions") or {},
    )


def entry(name: str, found: Mapping[str, Any]) -> Entry:
    """A number of ``metrics.json`` as a line of the table."""
    value, interval = known(found.get("value")), ends(found.get("interval"))
    spread = interval[1] - interval[0] if interval else None
    share = known(found.get("coverage"))
    return Entry(
        name=name,
        higher_is_better=found.get("higher_is_better"),
        value=number(value, spread),
        interval=f"{number(interval[0], spread)} – {number(interval[1], spread)}" if interval else "",
        whisker=None if value is None else whisker(value, interval),
        images=found.get("n") or 0,
        regions=found.get("objects") or 0,
        scored=found.get("scored") or 0,
        expected=found.get("expected") or 0,
        coverage="–" if share is None else percent(share),
        is_whole=share is not None and share >= 1,
    )


def whisker(value: float, interval: tuple[float, float] | None) -> Whisker:
    """A number and its interval on an axis of their own."""
    low, high = scale(value, interval)
    middle, *both = (100 * (x - low) / (high - low) for x in (value, *(interval or (value, value))))
    return Whisker(middle, both[0], both[1] - both[0], number(low), number(high))


def _lost(missing: Mapping[str, str], unscored: Mapping[str, Sequence[Sequence[str]]]) -> list[tuple[str, list]]:
    """What is not in the numbers: headings, each with keys and why."""
    groups = [("Images that are missing", sorted(missing.items()))] if missing else []
    for name, rows in unscored.items():
        if rows:
            groups.append((f"Not scored by {name}", sorted((str(key), str(why)) for key, why in rows)))
    return groups


def _fingerprints(metrics: Mapping[str, Any]) -> list[tuple[list[str], Any]]:
    """Names of numbers that were measured in the same way, with how."""
    groups: list[tuple[list[str], Any]] = []
    for name, found in metrics.items():
        one = found.get("fingerprint") or {}
        names = next((names for names, other in groups if other == one), None)
        if names is None:
            groups.append(([name], one))
        else:
            names.append(name)
    return groups
