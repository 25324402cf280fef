"""The judges: does each agree with themselves, and do they agree with each other?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from scenewright.evaluation.human_preference.votes import Comparison, Place, Vote


@dataclass(frozen=True)
class Judge:
    """What is known of one judge.

    Attributes:
        answers: how many there are.
        ties: how many of them are "no difference".
        left: share of the others that chose the left side; about one half, unless the judge looks at one side only.
        repeated: how many times a question was answered again.
        same: how many of these with the same answer.
        seconds: median of an answer.
    """

    name: str
    answers: int
    ties: int
    left: float
    repeated: int
    same: int
    seconds: float


@dataclass(frozen=True)
class Together:
    """How judges agree: of all pairs of judges who compared the same two images.

    Attributes:
        agreement: share of pairs with the same preference, where both have one.
        compared: how many those are.
        ties: pairs in which one or both see no difference, left out above.
    """

    agreement: float
    compared: int
    ties: int


def judges(votes: Iterable[Vote]) -> list[Judge]:
    """Every judge, in the order of their names."""
    theirs: dict[str, list[Vote]] = {}
    for vote in votes:
        theirs.setdefault(vote.judge, []).append(vote)
    return [_judge(name, some) for name, some in sorted(theirs.items())]


def together(found: Iterable[Comparison]) -> Together:
    """Agreement between judges, by plain counting, as ``correlations`` counts that of a metric with them."""
    opinions: dict[tuple[Place, tuple[str, str]], list[int]] = {}
    for x in found:
        opinions.setdefault((x.place, x.runs), []).append(x.preference)
    pairs = [pair for some in opinions.values() for pair in combinations(some, 2)]
    clear = [first == second for first, second in pairs if first and second]
    return Together(sum(clear) / len(clear) if clear else math.nan, len(clear), len(pairs) - len(clear))


def _judge(name: str, votes: Sequence[Vote]) -> Judge:
    answers: dict[tuple[Place, tuple[str, str]], list[float]] = {}
    for vote in votes:
        answers.setdefault((vote.place, vote.runs), []).append(vote.share)
    again = [first == second for shares in answers.values() for first, second in combinations(shares, 2)]
    sides = [vote.choice == "a" for vote in votes if vote.choice != "tie"]
    left = sum(sides) / len(sides) if sides else math.nan
    ties = len(votes) - len(sides)
    return Judge(name, len(votes), ties, left, len(again), sum(again), median(vote.seconds for vote in votes))
