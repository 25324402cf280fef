"""How the numbers of several runs depend on what was asked for: a line for each, in one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from scenewright.evaluation.plot import plot
from scenewright.evaluation.trends import TRAITS, Bin, Points, Trait, binned, label_bins, points, ranges_of

#: One for each line, legible on light and on dark; more lines cannot be told apart.
COLOURS = ("#1f77b4", "#d9661f", "#2c9c45", "#b04fc4", "#c08a00", "#c0394b")

#: Files of a run that hold its scores.
IMAGES, OBJECTS = "per_image.parquet", "per_object.parquet"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Line:
    """What is drawn as one line: a run, or several that differ in their seeds only.

    Attributes:
        images: rows of all their images, ``image`` unlike in each run.
        objects: rows of all their regions.
    """

    name: str
    images: Rows
    objects: Rows


def read_line(name: str, folders: Sequence[Path]) -> Line | None:
    """The scores that runs left in their folders; None where one left none."""
    tables: dict[str, list[dict[str, Any]]] = {IMAGES: [], OBJECTS: []}
    for i, folder in enumerate(folders):
        for file, rows in tables.items():
            if not (folder / file).is_file():
                return None
            rows += [{**x, "image": (i, x["image"])} for x in _read(folder / file)]
    return Line(name, tables[IMAGES], tables[OBJECTS])


def _read(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


def curves(number: int, name: str, lines: Sequence[Line]) -> list[tuple[Trait, str]]:
    """A plot of one score for each trait that varies, as SVG; nothing where fewer than two lines have the score.

    Args:
        number: tells the plots of several scores apart.
        name: of the score.
        lines: in the order of ``COLOURS``.
    """
    found = [points(name, x.images, x.objects) for x in lines]
    if sum(len(x.scores) > 0 for x in found) < 2:
        return []
    drawn = []
    for trait in TRAITS:
        ranges = ranges_of(np.concatenate([x.values[trait.column] for x in found]), trait)
        if len(ranges) > 1:
            bins = [binned(x, trait, ranges) for x in found]

            def draw(axes: Axes, t: Trait = trait, r: Any = ranges, b: Any = bins) -> None:
                _draw(axes, t, r, b, name, found)

            drawn.append((trait, plot(f"curve-{number}-{trait.column}", draw, height=3.1)))
    return drawn


def _draw(
    axes: Axes,
    trait: Trait,
    ranges: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[Bin]],
    name: str,
    found: Sequence[Points],
) -> None:
    place = {low: i for i, (low, _) in enumerate(ranges)}
    aside = np.linspace(-0.16, 0.16, len(lines)) if len(lines) > 1 else np.zeros(1)
    for bins, shift, colour in zip(lines, aside, COLOURS, strict=False):
        x = [place[one.low] + shift for one in bins]
        for at, one in zip(x, bins, strict=True):
            if one.interval:
                axes.plot([at, at], one.interval, color=colour, linewidth=1.3, alpha=0.55)
        axes.plot(x, [one.mean for one in bins], "o-", color=colour, linewidth=1.3, markersize=4.5)
    axes.set(ylabel=name)
    if all(x.is_binary for x in found):
        axes.set_ylim(-0.02, 1.02)
    label_bins(axes, trait, ranges)
