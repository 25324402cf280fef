"""Numbers as people read them: no more digits than the interval bears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: What stands where there is no number.
NONE = "–"


def arrow(higher_is_better: bool | None) -> str:
    """Which way is better; empty where neither is."""
    return "" if higher_is_better is None else "↑" if higher_is_better else "↓"


def known(value: Any) -> float | None:
    """A number, or None where there is none: None itself, NaN, infinity."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def ends(interval: Sequence[Any] | None) -> tuple[float, float] | None:
    """Both ends of an interval, or None where it has not both."""
    low, high = (known(x) for x in interval or (None, None))
    return None if low is None or high is None else (low, high)


def number(value: Any, spread: float | None = None) -> str:
    """A number with as many decimals as show two digits of ``spread``; four digits of its own if not given."""
    value = known(value)
    if value is None:
        return NONE
    size = spread or abs(value)
    digits = 1 if spread else 3
    decimals = digits - math.floor(math.log10(size)) if size else 2
    text = f"{value:.{min(6, max(0, decimals))}f}"
    if not spread and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if float(text) else text.removeprefix("-")


def with_interval(value: Any, interval: Sequence[Any] | None) -> str:
    """``0.63 (0.55-0.71)``."""
    found = ends(interval)
    if found is None or known(value) is None:
        return number(value)
    low, high = found
    between = " to " if low < 0 else "-"
    return f"{number(value, high - low)} ({number(low, high - low)}{between}{number(high, high - low)})"


def percent(share: float) -> str:
    """A share; never rounded up to the whole."""
    return "100 %" if share >= 1 else f"{math.floor(share * 1000) / 10:g} %"


def scale(value: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """The ends of an axis for a number: from nothing to a round number above it, on both sides if it has two."""
    furthest = max(map(abs, (value, *(interval or ())))) or 1.0
    power = 10.0 ** math.floor(math.log10(furthest))
    end = next(x * power for x in (1, 2, 5, 10) if x * power >= furthest * (1 - 1e-9))
    return (-end if min(value, *(interval or (0,))) < 0 else 0.0), end
