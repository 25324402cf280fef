"""What a filter lets pass: a value between two limits, either of which may be off."""

from collections.abc import Sequence
from typing import Any


def check(name: str, minimum: float | int | None, maximum: float | int | None) -> None:
    """Make sure that two limits can both be kept.

    Args:
        name: of what they limit, for the message.

    Raises:
        ValueError: the minimum is above the maximum.
    """
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ValueError(f"{name}: minimum must not be above maximum, got {minimum} and {maximum}")


def require(name: str, *limits: Any, hint: str = "") -> None:
    """Make sure that a filter has anything to do: one that was chosen and drops nothing would look like one that did.

    Raises:
        ValueError: every limit is None.
    """
    if all(x is None for x in limits):
        raise ValueError(f"the filter {name} has no limit, so it would drop nothing{hint and '; ' + hint}")


def outside(
    name: str, value: float | int, minimum: float | int | None, maximum: float | int | None, unit: str = ""
) -> str:
    """Why a value is not between its limits, both of which are inside: "area 0.0003 is below 0.0005"; empty if it is.

    Args:
        unit: put behind both numbers: " px".
    """
    if minimum is not None and value < minimum:
        return f"{name} {_pair(value, minimum, 'below', unit)}"
    if maximum is not None and value > maximum:
        return f"{name} {_pair(value, maximum, 'above', unit)}"
    return ""


def _pair(value: float | int, limit: float | int, side: str, unit: str) -> str:
    """Both numbers with as few digits as tell them apart."""
    digits = next((x for x in range(3, 17) if _plain(value, x) != _plain(limit, x)), 17)
    return f"{_plain(value, digits)}{unit} is {side} {_plain(limit, digits)}{unit}"


def _plain(value: float | int, digits: int) -> str:
    """A number without an exponent, for people."""
    short = f"{value:.{digits}g}"
    return short if "e" not in short else f"{float(short):.12f}".rstrip("0").rstrip(".")


def first(reasons: Sequence[str]) -> str:
    """The first reason there is, or none."""
    return next(filter(None, reasons), "")
