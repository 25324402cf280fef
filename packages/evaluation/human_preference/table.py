"""The correlations as people read them (Markdown) and as programs do (CSV)."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scenewright.evaluation.human_preference.correlation import NUMBERS, Correlation, Number
from scenewright.evaluation.human_preference.judges import judges, together
from scenewright.evaluation.human_preference.metric import HumanPreference
from scenewright.evaluation.human_preference.votes import Place, Vote, comparisons, win_shares
from scenewright.evaluation.intervals import intervals
from scenewright.evaluation.scoring import Record, mean

_COUNTS = ("compared", "ties", "equal", "unscored", "images")


def write_table(votes: Sequence[Vote], found: Sequence[Correlation], path: str | os.PathLike[str]) -> str:
    """Write the table as Markdown, and as CSV beside it.

    Returns:
        The Markdown.
    """
    path, text = Path(path), as_markdown(votes, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".csv").write_text(as_csv(found), encoding="utf-8")
    return text


def as_markdown(votes: Sequence[Vote], found: Sequence[Correlation]) -> str:
    """All there is to say: metrics, the best agreement first; then runs and judges."""
    compared = comparisons(votes)
    among = together(compared)
    parts = ["# Human preference", _summary(votes), "## Metrics", _metrics(found)]
    if among.compared + among.ties:
        parts.append(
            f"For comparison: two judges prefer the same image in {_plain(among.agreement)} of {among.compared} cases "
            f"in which both prefer one; in {among.ties} more, one or both see no difference."
        )
    parts += [_legend(), "## Runs", _runs(win_shares(compared)), "## Judges", _judges(votes)]
    return "\n\n".join(parts) + "\n"


def as_csv(found: Sequence[Correlation]) -> str:
    """One line per metric; a number that does not exist is empty."""
    file = io.StringIO()
    columns = [x for name in NUMBERS for x in (name, f"{name}_low", f"{name}_high")]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", *columns, *_COUNTS])
    for x in found:
        values = [v for name in NUMBERS for v in (x.numbers[name].value, x.numbers[name].low, x.numbers[name].high)]
        counts = [getattr(x, name) for name in _COUNTS]
        writer.writerow([x.metric, *("" if math.isnan(v) else repr(v) for v in values), *counts])
    return file.getvalue()


def _summary(votes: Sequence[Vote]) -> str:
    names = sorted({run for vote in votes for run in vote.runs})
    layouts, who = len({vote.place.key for vote in votes}), len({vote.judge for vote in votes})
    said = f"{_counted(len(votes), 'vote')} of {_counted(who, 'judge')} on {_counted(layouts, 'layout')}"
    return f"{said}; runs: {', '.join(map(_cell, names))}."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _metrics(found: Sequence[Correlation]) -> str:
    shown = [name for name in NUMBERS if any(not math.isnan(x.numbers[name].value) for x in found)] or ["agreement"]

    def order(x: Correlation) -> float:
        value = x.numbers["agreement"].value
        return math.inf if math.isnan(value) else -value

    rows = [
        [x.metric, *(_number(x.numbers[name]) for name in shown), *(str(getattr(x, name)) for name in _COUNTS)]
        for x in sorted(found, key=order)
    ]
    return _table(["metric", *(NUMBERS[name] for name in shown), *_COUNTS], rows)


def _legend() -> str:
    return (
        "agrees: share of comparisons in which metric and judge prefer the same image (0.5 is chance), of those "
        "compared: without ties of the judge, without those where the metric is equal or has no score. τ-b and ρ: rank "
        "correlation of the images' win shares with their scores. In brackets: 95 % bootstrap intervals, by layout."
    )


def _runs(won: Mapping[str, Mapping[Place, float]]) -> str:
    rows = []
    for run, shares in won.items():
        name = "human_preference"
        records = [Record(place.key, image={name: share}) for place, share in sorted(shares.items())]
        interval = intervals(HumanPreference((), run), records)[name]
        rows.append((mean(list(shares.values())), interval, run, len(shares)))
    rows.sort(key=lambda row: (-row[0], row[2]))
    lines = [[run, _number(Number(share, *interval)), str(images)] for share, interval, run, images in rows]
    return _table(["run", "share of comparisons won", "images"], lines)


def _judges(votes: Sequence[Vote]) -> str:
    rows = [
        [
            *(x.name, str(x.answers), str(x.ties), _plain(x.left)),
            *(f"{x.same} of {x.repeated}" if x.repeated else "–", f"{x.seconds:.1f}"),
        ]
        for x in judges(votes)
    ]
    return _table(["judge", "answers", "ties", "chose left", "same answer again", "seconds (median)"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([_cell(x) for x in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _number(x: Number) -> str:
    return _plain(x.value) if math.isnan(x.low) else f"{_plain(x.value)} [{_plain(x.low)}, {_plain(x.high)}]"


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")
