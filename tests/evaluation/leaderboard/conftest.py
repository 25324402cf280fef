"""Runs as ``read_runs`` returns them."""

from collections.abc import Callable
from typing import Any

import pytest

from scenewright.evaluation.leaderboard import Run


def _entry(value: float | None, **known: Any) -> dict[str, Any]:
    interval = None if value is None else [value - 0.08, value + 0.08]
    usual = {"n": 64, "objects": 0, "coverage": 1.0, "higher_is_better": True, "fingerprint": {"version": 1}}
    return {"value": value, "interval": interval, **usual, **known}


@pytest.fixture
def entry() -> Callable[..., dict[str, Any]]:
    """``entry(0.5, n=8)``: a number of a run."""
    return _entry


@pytest.fixture
def runs() -> Callable[..., list[Run]]:
    """``runs(0.1, 0.5, settings=[…])``: runs ``run-0``, ``run-1``, … with a number ``m`` each."""

    def made(*values: Any, settings: list[dict[str, Any]] | None = None) -> list[Run]:
        given = settings or [{"model": f"model {i}"} for i in range(len(values))]
        metrics = [x if isinstance(x, dict) else {"m": _entry(x)} for x in values]
        return [Run(f"run-{i}", s, m) for i, (s, m) in enumerate(zip(given, metrics, strict=True))]

    return made
