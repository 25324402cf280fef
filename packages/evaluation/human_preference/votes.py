"""Votes: what the judging page writes, read with care, and what they add up to."""

from __future__ import annotations

import csv
import glob
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

#: Of a file of votes.
COLUMNS = ("key", "image", "run_a", "run_b", "choice", "judge", "seconds")

#: What the run on the left got.
CHOICES = {"a": 1.0, "tie": 0.5, "b": 0.0}


class Place(NamedTuple):
    """Where an image stands in its run: the key of its layout, and its number among the layout's images, from 0."""

    key: str
    image: int


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes:
        place: of the two images in their runs.
        run_a: whose image was on the left.
        run_b: whose image was on the right.
        choice: "a", "b" or "tie".
        judge: a name.
        seconds: that the judge took.
    """

    place: Place
    run_a: str
    run_b: str
    choice: str
    judge: str
    seconds: float

    @property
    def runs(self) -> tuple[str, str]:
        """The two runs, in the order of their names."""
        return (self.run_a, self.run_b) if self.run_a < self.run_b else (self.run_b, self.run_a)

    @property
    def share(self) -> float:
        """What the first of ``runs`` got: 1, 0, or one half."""
        return CHOICES[self.choice] if self.run_a < self.run_b else 1 - CHOICES[self.choice]


@dataclass(frozen=True)
class Comparison:
    """What one judge thinks of two images of one layout.

    Attributes:
        runs: in the order of their names.
        share: what the first of them got, the mean of all answers: in [0, 1], one half for no difference.
    """

    place: Place
    runs: tuple[str, str]
    judge: str
    share: float

    @property
    def preference(self) -> int:
        """1 for the first run, -1 for the second, 0 for neither."""
        return (self.share > 0.5) - (self.share < 0.5)


def read_votes(votes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Vote]:
    """Read all votes of some CSV files or patterns.

    A line that several files have is one vote: a judge who downloads twice is counted once.

    Raises:
        ValueError: a pattern matches no file; a line is malformed: the message names file and line.
        OSError: a file cannot be read.
    """
    together: Counter[Vote] = Counter()
    for path in vote_files(votes):
        together |= Counter(_read(path))  # of each, as often as in the file that has it most
    return list(together.elements())


def vote_files(votes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that are meant, each once.

    Raises:
        ValueError: a pattern matches none.
    """
    patterns = [votes] if isinstance(votes, (str, os.PathLike)) else votes
    return list(dict.fromkeys(path for pattern in patterns for path in _matching(os.fspath(pattern))))


def comparisons(votes: Iterable[Vote]) -> list[Comparison]:
    """Every judge's opinion of every two images, sorted; it does not depend on the order of votes."""
    answers: dict[tuple[Place, tuple[str, str], str], list[float]] = {}
    for vote in votes:
        answers.setdefault((vote.place, vote.runs, vote.judge), []).append(vote.share)
    return [Comparison(*about, math.fsum(shares) / len(shares)) for about, shares in sorted(answers.items())]


def win_shares(found: Iterable[Comparison]) -> dict[str, dict[Place, float]]:
    """By run and image, the share of its comparisons that an image won."""
    won: dict[str, dict[Place, list[float]]] = {}
    for x in found:
        for run, share in zip(x.runs, (x.share, 1 - x.share), strict=True):
            won.setdefault(run, {}).setdefault(x.place, []).append(share)
    return {
        run: {place: math.fsum(shares) / len(shares) for place, shares in images.items()} for run, images in won.items()
    }


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise ValueError(f"no file of votes at {pattern}; the judging page's button makes one")
    return found


def _read(path: Path) -> list[Vote]:
    found = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        number = 1  # where a row starts; a key may hold line ends
        try:
            if (header := next(lines, [])) != list(COLUMNS):
                raise ValueError(f"the columns must be {','.join(COLUMNS)}, got {','.join(header) or 'nothing'}")
            number = lines.line_num + 1
            for row in lines:
                if row:
                    found.append(_vote(row))
                number = lines.line_num + 1
        except UnicodeDecodeError:
            raise ValueError(f"{path}: the file is not UTF-8") from None
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found


def _vote(row: Sequence[str]) -> Vote:
    if len(row) != len(COLUMNS):
        raise ValueError(f"there must be {len(COLUMNS)} values, got {len(row)}")
    key, image, run_a, run_b, choice, judge, seconds = row
    if not (image.isascii() and image.isdigit()):
        raise ValueError(f"image must be a whole number, 0 or more, got {image!r}")
    if choice not in CHOICES:
        raise ValueError(f"choice must be a, b or tie, got {choice!r}")
    for name, value in {"run_a": run_a, "run_b": run_b, "judge": judge}.items():
        if not value:
            raise ValueError(f"{name} must not be empty")
    if run_a == run_b:
        raise ValueError(f"run_a and run_b must differ, both are {run_a!r}")
    return Vote(Place(key, int(image)), run_a, run_b, choice, judge, _seconds(seconds))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf):
        raise ValueError(f"seconds must be a number, 0 or more, got {text!r}")
    return seconds
