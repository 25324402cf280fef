"""Run folders, as generating and evaluating leave them: their images side by side, and their scores."""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from more_itertools import interleave_longest

from scenewright.evaluation.human_preference.correlation import Scores
from scenewright.evaluation.human_preference.page import Pair
from scenewright.evaluation.human_preference.votes import Place
from scenewright.layout import Layout, decode

#: How far apart the boxes of one layout may be in two runs, in fractions: files round them.
_NEAR = 1e-4


@dataclass(frozen=True)
class Run:
    """A folder with ``images/images.jsonl`` or ``images.jsonl``, and perhaps ``per_image.parquet``."""

    name: str
    folder: Path

    @cached_property
    def images(self) -> Mapping[Place, Mapping[str, Any]]:
        """The lines of ``images.jsonl`` by place."""
        found: dict[Place, Mapping[str, Any]] = {}
        seen: Counter[str] = Counter()
        lines = self._list.read_text("utf-8", "surrogateescape").rstrip("\n").split("\n")
        for number, line in enumerate(lines, 1):
            try:
                known = json.loads(line)
                key = known["key"]
                found[Place(key, seen[key])] = {name: known[name] for name in ("file", "caption", "layout")}
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self._list}, line {number} describes no image: {error!r}") from None
            seen[key] += 1
        return found

    @cached_property
    def scores(self) -> Scores:
        """The columns of ``per_image.parquet`` that hold real numbers."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / "per_image.parquet"
        if not path.is_file():
            raise ValueError(f"{path} is not there; entrypoints/eval.py writes it")
        table = pyarrow.parquet.read_table(path)
        if lacking := [x for x in ("key", "image") if x not in table.column_names]:
            raise ValueError(f"{path} has no column {lacking[0]!r}")
        places = list(map(Place, table["key"].to_pylist(), table["image"].to_pylist()))
        return {
            field.name: {
                place: float("nan") if x is None else x
                for place, x in zip(places, table[field.name].to_pylist(), strict=True)
            }
            for field in table.schema
            if pyarrow.types.is_floating(field.type)
        }

    @cached_property
    def lower_is_better(self) -> set[str]:
        """Names of scores of which less is better, as ``metrics.json`` has it; none without that file."""
        path = self.folder / "metrics.json"
        known = json.loads(path.read_text("utf-8", "surrogateescape"))["metrics"] if path.is_file() else {}
        return {name for name, x in known.items() if x.get("higher_is_better") is False and name in self.scores}

    def layout(self, place: Place) -> Layout:
        known = self.images[place]["layout"]
        boxes = torch.tensor(known["boxes"], dtype=torch.float32).reshape(-1, 4)
        return Layout(boxes, list(known["labels"]), list(known.get("captions", ())))

    def picture(self, place: Place) -> Path:
        return self._list.parent / self.images[place]["file"]

    @cached_property
    def _list(self) -> Path:
        for path in (self.folder / "images" / "images.jsonl", self.folder / "images.jsonl"):
            if path.is_file():
                return path
        raise ValueError(f"{self.folder} holds no images.jsonl; entrypoints/generate.py and eval.py write it")


def open_runs(folders: str | Sequence[str], names: Sequence[str] | None = None) -> list[Run]:
    """Run folders by path or pattern.

    Args:
        names: one per folder; if not given, as much of the paths' ends as tells them apart.

    Raises:
        ValueError: there are fewer than two, one is not there, or names are not one per folder and all different.
    """
    patterns = [folders] if isinstance(folders, str) else folders
    paths = list(dict.fromkeys(path for pattern in patterns for path in _folders(pattern)))
    if len(paths) < 2:
        raise ValueError(f"there must be at least two runs to compare, got {len(paths)}")
    names = _ends(paths) if names is None else names
    if len(names) != len(paths) or len(set(names)) != len(names) or not all(names):
        raise ValueError(f"there must be one name per run ({len(paths)}), all different, got {', '.join(names)}")
    return [Run(name, path) for name, path in zip(names, paths, strict=True)]


def choose_pairs(runs: Sequence[Run], count: int, seed: int = 0) -> list[tuple[Place, Run, Run]]:
    """Choose what is compared: of every two runs as many images as of every other two, different ones where possible.

    An image that only one of two runs has is left out. Another seed chooses other images.

    Raises:
        ValueError: ``count`` is below 1, or no two runs have an image of one place.
    """
    if count < 1:
        raise ValueError(f"there must be at least 1 pair, got {count}")
    candidates = []
    for first, second in combinations(runs, 2):
        places = first.images.keys() & second.images.keys()
        order = sorted(places, key=lambda x: (_hash(seed, first.name, second.name, *x), x))  # noqa: B023 used at once
        candidates.append([(place, first, second) for place in order])
    if not any(candidates):
        raise ValueError("no two of these runs have an image of the same layout")
    return list(interleave_longest(*candidates))[:count]


def left_out(runs: Sequence[Run]) -> int:
    """How many places have an image in some runs but not in all: what a missing image takes from a comparison."""
    every = [run.images.keys() for run in runs]
    return len(set().union(*every)) - len(set(every[0]).intersection(*every[1:]))


def read_pairs(chosen: Iterable[tuple[Place, Run, Run]]) -> Iterator[Pair]:
    """Read the pictures, two at a time.

    Raises:
        ValueError: two images were drawn from different captions or layouts, or a file is no image.
        OSError: a file cannot be read.
    """
    for place, first, second in chosen:
        layout, caption = first.layout(place), first.images[place]["caption"]
        if caption != second.images[place]["caption"] or not _same(layout, second.layout(place)):
            raise ValueError(f"{place.key!r} has another caption or layout in {first.name!r} than in {second.name!r}")
        one, other = (_picture(x.picture(place)) for x in (first, second))
        yield Pair(place, (first.name, second.name), (one, other), caption, layout)


def _picture(path: Path) -> torch.Tensor:
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _same(first: Layout, second: Layout) -> bool:
    words = first.labels == second.labels and first.captions == second.captions
    return words and bool(((first.boxes - second.boxes).abs() <= _NEAR).all())


def _folders(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    found = [path] if path.is_dir() else sorted(x for x in map(Path, glob.glob(str(path))) if x.is_dir())
    if not found:
        raise ValueError(f"there is no run folder at {pattern}")
    return found


def _ends(paths: Sequence[Path]) -> list[str]:
    every = [x.resolve().parts for x in paths]
    for length in range(1, max(map(len, every)) + 1):
        names = ["/".join(parts[-length:]) for parts in every]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"these runs are one and the same: {', '.join(map(str, paths))}")


def _hash(*of: object) -> bytes:
    return hashlib.blake2b(json.dumps(of).encode(), digest_size=8).digest()
