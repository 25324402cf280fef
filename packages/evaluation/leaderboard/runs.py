"""Evaluation runs as their folders hold them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenewright.evaluation.readable import known

#: What a run leaves in its folder.
RESULTS = "metrics.json"

#: What an entry of a number must say, so that it can stand beside others.
_NEEDED = ("value", "higher_is_better", "fingerprint")


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation run.

    Attributes:
        name: its folder, as far as it differs from those of the other runs.
        settings: what distinguishes it, flat.
        metrics: by the number's name, its entry in ``metrics.json``.
        coverage: the share of the images that were there.
        folder: where it is; None of one that was not read from a folder.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    coverage: float = 1.0
    folder: Path | None = None

    @property
    def lacks(self) -> list[tuple[str, float]]:
        """What is not covered as a whole: images or a number's name, with the share that is."""
        shares = [("images", self.coverage), *((name, known(x.get("coverage"))) for name, x in self.metrics.items())]
        return [(name, share) for name, share in shares if share is not None and share < 1]


def find_runs(places: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[Path]]:
    """The folders of runs.

    Args:
        places: folders of runs, folders that hold such at any depth, or patterns (``runs/*``).

    Returns:
        The runs, each once, in the order of ``places`` and by name within one; and the folders directly in a folder
        of runs that hold none.

    Raises:
        ValueError: a place does not exist or holds no run.
    """
    found: dict[Path, Path] = {}
    without: list[Path] = []
    for place in map(str, places):
        matches = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        folders = [Path(x) for x in matches if os.path.isdir(x)]
        if not folders:
            raise ValueError(f"there is no folder {place}")
        for folder in folders:
            runs = _runs_in(folder)
            if not runs:
                raise ValueError(f"{folder} has no {RESULTS}, nor has a folder in it; entrypoints/eval.py writes it")
            for run in runs:
                found.setdefault(run.resolve(), run)
            if runs != [folder]:
                without += [x for x in _folders(folder) if not any(run.is_relative_to(x) for run in runs)]
    return list(found.values()), without


def _runs_in(folder: Path) -> list[Path]:
    if (folder / RESULTS).is_file():
        return [folder]
    return [run for inner in _folders(folder) for run in _runs_in(inner)]


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder by name; hidden ones are nobody's results."""
    return sorted(x for x in folder.iterdir() if x.is_dir() and not x.name.startswith("."))


def read_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Read what runs found, in the order of their folders.

    Raises:
        ValueError: a folder holds no ``metrics.json``, or one that is none.
    """
    places = [Path(x) for x in folders]
    return [_read(place, name) for place, name in zip(places, _names(places), strict=True)]


def _read(folder: Path, name: str) -> Run:
    path = folder / RESULTS
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} has no {RESULTS}; entrypoints/eval.py writes it") from None
    except ValueError as error:
        raise ValueError(f"{path} is not whole: {error}") from None
    metrics = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} has no metrics; entrypoints/eval.py writes them")
    for number, entry in metrics.items():
        if missing := [x for x in _NEEDED if x not in entry]:
            raise ValueError(f"{path} says no {' and no '.join(missing)} of {number}: it cannot be compared")
    counts = document.get("coverage") or {}
    share = counts["found"] / counts["expected"] if counts.get("expected") else 1.0
    return Run(name, document.get("settings") or {}, metrics, share, folder)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders without what all of them begin with."""
    whole = [Path(os.path.abspath(x)) for x in folders]
    if len(set(whole)) < 2:
        return [x.name for x in whole]
    common = os.path.commonpath([x.parent for x in whole])
    return [x.relative_to(common).as_posix() for x in whole]
