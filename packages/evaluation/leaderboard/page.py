"""The leaderboard as a page, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from scenewright.evaluation import html_file
from scenewright.evaluation.leaderboard.curves import COLOURS, Line, curves, read_line
from scenewright.evaluation.leaderboard.runs import Run
from scenewright.evaluation.leaderboard.table import (
    Column,
    Row,
    SeedRow,
    Table,
    make_table,
    setting,
    value,
    without_seed,
)
from scenewright.evaluation.plot import FIRST, plot
from scenewright.evaluation.readable import NONE, arrow, ends, known, number, percent, with_interval

_FOLDER = Path(__file__).parent
_LOOK = _FOLDER.parent / "report" / "page.css"

#: Letters of a setting, and of a run's settings together, beside a plot; the table has them whole.
_LONGEST_SETTING, _LONGEST_NAME = 24, 32

#: What marks a run that is not covered as a whole.
_MARK = "†"


def write_leaderboard(
    runs: Sequence[Run],
    folder: str | os.PathLike[str],
    *,
    by: str | None = None,
    allow_unequal: bool = False,
    title: str = "Leaderboard",
) -> list[Path]:
    """Write ``leaderboard.md``, ``.csv`` and ``.html``: runs as rows, ranked, with intervals; and means over seeds.

    Equal arguments give equal bytes.

    Args:
        folder: is made if it is missing.
        by: the number that ranks; the first that can be compared if not given. Runs that have none come last.
        allow_unequal: show numbers that were measured in different ways, unranked and with what differs.

    Returns:
        The three files.

    Raises:
        ValueError: there is no run; no run has the number ``by``; a number was measured in different ways.
    """
    table = make_table(runs, by, allow_unequal)
    written = {"md": markdown(table, title), "csv": as_csv(table), "html": html(table, title)}
    return [html_file.write(Path(folder, f"leaderboard.{kind}"), text) for kind, text in written.items()]


def markdown(table: Table, title: str) -> str:
    """The table for a README or a terminal."""
    head = ["rank", *table.settings, *map(_heading, table.columns)]
    rows = [
        [_rank(x), *(_cell(setting(x.run.settings, name)) for name in table.settings)]
        + [_number(x, column) for column in table.columns]
        for x in table.rows
    ]
    place = len(head) if table.settings else 1  # names of folders say little beside settings
    for line, name in zip([head, *rows], ["run", *(_cell(x.run.name) for x in table.rows)], strict=True):
        line.insert(place, name)
    parts = [f"# {_cell(title)}", ranking(table), _markdown_table([_cell(x) for x in head], rows)]
    parts += [f"{_MARK} {_cell(note)}  " for note in notes(table)]
    parts += [f"Not ranked: {_cell(x.unequal)}" for x in table.columns if x.unequal]
    if table.seeds:
        head = [*table.seed_settings, "seeds", *map(_heading, table.columns)]
        rows = [
            [*(_cell(setting(x.settings, name)) for name in table.seed_settings), str(x.seeds)]
            + [over_seeds(x, y) for y in table.columns]
            for x in table.seeds
        ]
        parts += ["## Over seeds", "Mean ± standard deviation.", _markdown_table([_cell(x) for x in head], rows)]
    return "\n\n".join(parts) + "\n"


def as_csv(table: Table) -> str:
    """The table for programs: full precision, and nothing in one cell that are two things."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = ("value", "low", "high", "n", "coverage")
    numbers = [f"{x.name}.{part}" for x in table.columns for part in parts]
    writer.writerow(["rank", "run", *table.settings, "coverage", *numbers])
    for row in table.rows:
        cells: list[Any] = ["" if row.rank is None else row.rank, row.run.name]
        cells += [setting(row.run.settings, name) for name in table.settings] + [row.run.coverage]
        for column in table.columns:
            entry = row.run.metrics.get(column.name, {})
            low, high = ends(entry.get("interval")) or ("", "")
            found = known(entry.get("value"))
            cells += ["" if found is None else found, low, high, entry.get("n", ""), entry.get("coverage", "")]
        writer.writerow(cells)
    return file.getvalue()


def html(table: Table, title: str) -> str:
    """The page as text."""
    lines = _lines(table)
    return html_file.render(
        _FOLDER / "page.html.j2",
        styles=(_LOOK, _FOLDER / "page.css"),
        title=title,
        table=table,
        ranking=ranking(table),
        notes=notes(table),
        mark=_MARK,
        plots=[(x, _panel(i, x, table)) for i, x in enumerate(table.columns) if not x.unequal],
        lines=[(x.name, colour) for x, colour in zip(lines, COLOURS, strict=False)],
        most_lines=len(COLOURS),
        curves=[
            (x, found) for i, x in enumerate(table.columns) if not x.unequal and (found := curves(i, x.name, lines))
        ],
        setting=setting,
        cell=lambda row, column: with_interval(*_entry(row.run, column)),
        share=lambda row, column: _share(row.run, column),
        over_seeds=over_seeds,
    )


def ranking(table: Table) -> str:
    """How the rows are ordered, in words."""
    count = f"{len(table.rows)} run" + ("s" if len(table.rows) > 1 else "")
    if table.ranked_by is None:
        return f"{count}, in no order: no number that was asked for can be compared. In brackets: 95 % intervals."
    column = next(x for x in table.columns if x.name == table.ranked_by)
    better = "higher" if column.higher_is_better else "lower"
    return f"{count}, ranked by {column.name} ({better} is better). In brackets: 95 % intervals."


def notes(table: Table) -> list[str]:
    """One line for each run that is not covered as a whole."""
    return [
        f"{x.run.name}: not everything was scored: " + ", ".join(f"{name} {percent(share)}" for name, share in lacks)
        for x in table.rows
        if (lacks := x.run.lacks)
    ]


def over_seeds(row: SeedRow, column: Column) -> str:
    """``0.63 ± 0.04``, with the number of seeds where it is not that of the row."""
    if column.name not in row.numbers:
        return NONE
    mean, spread, count = row.numbers[column.name]
    text = number(mean, spread) + (f" ± {number(spread, spread)}" if spread is not None else "")
    return text if count == row.seeds else f"{text} (of {count})"


def _entry(run: Run, column: Column) -> tuple[Any, Any]:
    entry = run.metrics.get(column.name, {})
    return entry.get("value"), entry.get("interval")


def _share(run: Run, column: Column) -> str:
    """How much a number covers, where that is not all."""
    share = known(run.metrics.get(column.name, {}).get("coverage"))
    return "" if share is None or share >= 1 else percent(share)


def _heading(column: Column) -> str:
    return f"{column.name} {arrow(column.higher_is_better)}".rstrip()


def _rank(row: Row) -> str:
    rank = NONE if row.rank is None else str(row.rank)
    return f"{rank} {_MARK}" if row.run.lacks else rank


def _number(row: Row, column: Column) -> str:
    text = with_interval(*_entry(row.run, column))
    text = f"**{text}**" if column.name in row.best else text
    share = _share(row.run, column)
    return f"{text} {_MARK} {share}" if share else text


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays itself in a cell of Markdown."""
    return re.sub(r"([\\|`*<\[\]])", r"\\\1", " ".join(text.split()))


def _panel(place: int, column: Column, table: Table) -> str:
    """Dots and whiskers of one number, a run in each line, as SVG."""
    found = [(x, value(x.run, column.name)) for x in table.rows]
    rows, values = [x for x, y in found if y is not None], [y for _, y in found if y is not None]
    names = _short_names(rows, table.settings)

    def draw(axes: Axes) -> None:
        lines = np.arange(len(rows))[::-1]
        for line, row in zip(lines, rows, strict=True):
            interval = ends(_entry(row.run, column)[1])
            if interval:
                axes.plot(interval, [line, line], color=FIRST, linewidth=1.6)
        axes.plot(values, lines, "o", color=FIRST, markersize=5.5)
        axes.set_yticks(lines, names, fontsize=9)
        axes.set_ylim(-0.7, max(1, len(rows)) - 0.3)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.tick_params(axis="x", labelsize=9)
        axes.locator_params(axis="x", nbins=4)
        axes.margins(x=0.08)

    longest = max(map(len, names), default=0)
    height = 0.7 + 0.2 * max(2, len(rows))
    return plot(f"board-{place}", draw, height=height, left=0.2 + 0.07 * longest) if rows else ""


def _lines(table: Table) -> list[Line]:
    """The first runs, or groups of runs that differ in their seeds only, as far as their folders hold scores."""
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(without_seed(row.run), []).append(row)
    names = _short_names([rows[0] for rows in groups.values()], table.seed_settings)
    lines: list[Line] = []
    for name, rows in zip(names, groups.values(), strict=True):
        folders = [x.run.folder for x in rows if x.run.folder is not None]
        line = read_line(name, folders) if len(folders) == len(rows) and len(lines) < len(COLOURS) else None
        if line is not None:
            lines.append(line)
    return lines


def _short_names(rows: Sequence[Row], settings: Sequence[str]) -> list[str]:
    """What tells runs apart, in a few letters: the first settings that do; else all, and the row's number."""

    def short(row: Row, some: Sequence[str]) -> str:
        values = [_cut(x, _LONGEST_SETTING) for name in some if (x := setting(row.run.settings, name))]
        return _cut(" · ".join(values) or row.run.name, _LONGEST_NAME)

    tried = [[short(row, settings[:count]) for row in rows] for count in range(1, len(settings) + 1)]
    names = next((x for x in tried if len(set(x)) == len(rows)), [short(row, settings) for row in rows])
    return [f"{i}  {x}" if names.count(x) > 1 else x for i, x in enumerate(names, 1)]


def _cut(text: str, most: int) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
