"""Which numbers may stand side by side: those that were measured in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scenewright.evaluation.leaderboard.runs import Run

#: Settings that change no number, wherever they stand in a fingerprint.
_FREE = ("batch_size", "boxes_per_call", "compile", "device", "run")

#: What stands for a field that one of two fingerprints lacks.
_ABSENT = object()


def differences(first: Any, second: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two nested records differ: both values, by the field's dotted name. What is free is left out."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = {}
        for name in sorted(first.keys() | second.keys()):
            if name not in _FREE:
                inner = f"{at}.{name}" if at else name
                found |= differences(first.get(name, _ABSENT), second.get(name, _ABSENT), inner)
        return found
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return {field: both for i, (a, b) in pairs for field, both in differences(a, b, f"{at}[{i}]").items()}
    return {} if first == second or _text(first) == _text(second) else {at: (first, second)}


def unequal(name: str, runs: Sequence[Run]) -> tuple[Run, Run, dict[str, tuple[Any, Any]]] | None:
    """The first two runs that measured a number in different ways, with all in which they differ."""
    having = [x for x in runs if name in x.metrics]
    for other in having[1:]:
        found = differences(_measured(having[0].metrics[name]), _measured(other.metrics[name]))
        if found:
            return having[0], other, found
    return None


def _measured(entry: Mapping[str, Any]) -> dict[str, Any]:
    """How a number was measured; which way is better belongs to it."""
    return {"higher_is_better": entry["higher_is_better"], **(entry["fingerprint"] or {})}


def sentence(name: str, first: Run, second: Run, found: Mapping[str, tuple[Any, Any]]) -> str:
    """Says why a number of two runs cannot be compared."""
    fields = "; ".join(f"{field} is {_text(a)} and {_text(b)}" for field, (a, b) in found.items())
    return f"{name} of {first.name} and of {second.name} cannot be compared: {fields}"


def _text(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
