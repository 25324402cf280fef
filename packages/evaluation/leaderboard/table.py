"""Runs as rows, ranked; and as means over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scenewright.evaluation.leaderboard.comparing import sentence, unequal
from scenewright.evaluation.leaderboard.runs import Run
from scenewright.evaluation.readable import known

_SEED = "seed"


@dataclass(frozen=True)
class Column:
    """One number.

    Attributes:
        unequal: why it cannot be compared over the runs; empty if it can.
    """

    name: str
    higher_is_better: bool | None
    unequal: str = ""


@dataclass(frozen=True, eq=False)
class Row:
    """One run. ``rank`` is None where it has no number to be ranked by; ``best`` names the numbers none betters."""

    run: Run
    rank: int | None
    best: frozenset[str]


@dataclass(frozen=True, eq=False)
class SeedRow:
    """Runs that differ in their seeds only: of each number the mean, the standard deviation, and of how many seeds.

    The standard deviation is None of one seed; numbers that cannot be compared are left out.
    """

    settings: Mapping[str, Any]
    seeds: int
    numbers: Mapping[str, tuple[float, float | None, int]]


@dataclass(frozen=True, eq=False)
class Table:
    """What the leaderboard shows.

    Attributes:
        ranked_by: the number that ranks the rows; None if none can.
        settings: names of those that differ between the runs.
        same: settings that are the same in all runs.
        seeds: rows of the second table; none if no two runs differ in their seeds only.
    """

    columns: tuple[Column, ...]
    ranked_by: str | None
    settings: tuple[str, ...]
    same: Mapping[str, Any]
    rows: tuple[Row, ...]
    seeds: tuple[SeedRow, ...]

    @property
    def seed_settings(self) -> tuple[str, ...]:
        return tuple(x for x in self.settings if x != _SEED)


def make_table(runs: Sequence[Run], by: str | None, allow_unequal: bool) -> Table:
    """Rank runs by a number; see ``write_leaderboard``."""
    if not runs:
        raise ValueError("there is no run to rank")
    names = list(dict.fromkeys(name for x in runs for name in x.metrics))
    if by is not None and by not in names:
        raise ValueError(f"by must be one of {', '.join(names)}, got {by!r}")
    columns = tuple(_column(name, runs) for name in names)
    reasons = [x.unequal for x in columns if x.unequal]
    if reasons and not allow_unequal:
        raise ValueError("\n".join([*reasons, "allow_unequal=true shows such numbers without ranking them"]))
    comparable = [x for x in columns if not x.unequal]
    if any(x.name == by and x.higher_is_better is None for x in columns):
        raise ValueError(f"neither more nor less of {by} is better: it ranks nothing")
    ranking = [x for x in comparable if x.higher_is_better is not None]
    measured = {x.name for x in ranking if any(value(y, x.name) is not None for y in runs)}
    leading = next((x for x in ranking if x.name == by or (by is None and x.name in measured)), None)
    ranks = [None] * len(runs) if leading is None else _ranks([value(x, leading.name) for x in runs], leading)
    best = _best(runs, comparable)
    rows = [Row(run, rank, best[i]) for i, (run, rank) in enumerate(zip(runs, ranks, strict=True))]
    every = list(dict.fromkeys(name for x in runs for name in x.settings))
    # what some kinds of run do not have at all tells them apart no better than their kind does
    differ = tuple(x for x in every if len({setting(run.settings, x) for run in runs if x in run.settings}) > 1)
    return Table(
        columns=columns,
        ranked_by=leading.name if leading else None,
        settings=differ,
        same={name: next(x.settings[name] for x in runs if name in x.settings) for name in every if name not in differ},
        rows=tuple(sorted(rows, key=lambda x: math.inf if x.rank is None else x.rank)),
        seeds=_over_seeds(runs, columns, leading),
    )


def value(run: Run, name: str) -> float | None:
    """A number of a run, or None where it has none."""
    return known(run.metrics.get(name, {}).get("value"))


def setting(settings: Mapping[str, Any], name: str) -> str:
    """A setting as text; empty where the run does not have it."""
    found = settings.get(name)
    if found is None:
        return ""
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True, ensure_ascii=False, default=str)


def without_seed(run: Run) -> str:
    """Equal for runs that differ in their seeds only."""
    return json.dumps({name: setting(run.settings, name) for name in run.settings if name != _SEED}, sort_keys=True)


def _column(name: str, runs: Sequence[Run]) -> Column:
    first = next(x for x in runs if name in x.metrics)
    found = unequal(name, runs)
    return Column(name, first.metrics[name]["higher_is_better"], sentence(name, *found) if found else "")


def _ranks(values: Sequence[float | None], column: Column) -> list[int | None]:
    """From 1; equal values share a rank, and as many ranks are left out behind them."""
    sign = 1 if column.higher_is_better else -1
    there = [sign * x for x in values if x is not None]
    return [None if x is None else 1 + sum(other > sign * x for other in there) for x in values]


def _best(runs: Sequence[Run], columns: Sequence[Column]) -> list[frozenset[str]]:
    """Of each run, the numbers in which it is first, unless all are equal."""
    first: list[set[str]] = [set() for _ in runs]
    for column in columns:
        values = [value(x, column.name) for x in runs]
        if column.higher_is_better is not None and len(set(values) - {None}) > 1:
            for names, rank in zip(first, _ranks(values, column), strict=True):
                if rank == 1:
                    names.add(column.name)
    return [frozenset(x) for x in first]


def _over_seeds(runs: Sequence[Run], columns: Sequence[Column], leading: Column | None) -> tuple[SeedRow, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(without_seed(run), []).append(run)
    rows = [_seed_row(group, columns) for group in groups.values()]
    if all(x.seeds < 2 for x in rows):
        return ()
    if leading is not None:
        means = [x.numbers.get(leading.name, (None,))[0] for x in rows]
        ranks = _ranks(means, leading)
        order = sorted(range(len(rows)), key=lambda i: math.inf if (rank := ranks[i]) is None else rank)
        rows = [rows[i] for i in order]
    return tuple(rows)


def _seed_row(runs: Sequence[Run], columns: Sequence[Column]) -> SeedRow:
    numbers = {}
    for column in columns:
        by_seed: dict[str, list[float]] = {}
        for run in runs:
            found = value(run, column.name)
            if found is not None:
                by_seed.setdefault(setting(run.settings, _SEED), []).append(found)
        means = [statistics.fmean(x) for x in by_seed.values()]  # a seed that ran twice counts once
        if means and not unequal(column.name, runs):
            spread = statistics.stdev(means) if len(means) > 1 else None
            numbers[column.name] = statistics.fmean(means), spread, len(means)
    settings = {name: x for name, x in runs[0].settings.items() if name != _SEED}
    return SeedRow(settings, len({setting(x.settings, _SEED) for x in runs}), numbers)
