"""The names behind the logits, and from where on a tag counts as seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewright.checkpoints import CheckpointError, MissingWeights

#: Upstream's threshold for a class that has none of its own.
THRESHOLD = 0.68


def decide(logits: Float[Tensor, "b n"], thresholds: Float[Tensor, " n"]) -> Bool[Tensor, "b n"]:
    """Which tags are seen: probability above its threshold, strictly, so that a threshold of 1 is never reached."""
    return logits.float().sigmoid() > thresholds


@dataclass(frozen=True, eq=False)
class TagList:
    """Names in the order of the classes, and the threshold of each, in [0, 1].

    Raises:
        CheckpointError: there are not as many thresholds as names.
    """

    names: list[str]
    thresholds: Float[Tensor, " n"]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.thresholds):
            raise CheckpointError(f"there are {len(self.names)} tags but {len(self.thresholds)} thresholds")

    def without(self, deleted: Sequence[str]) -> TagList:
        """The same list, in which some tags are never seen.

        Raises:
            CheckpointError: one of them is no tag of the list.
        """
        unknown = sorted(set(deleted) - set(self.names))
        if unknown:
            raise CheckpointError(f"deleted names {', '.join(unknown)}, which the list of {len(self.names)} tags lacks")
        gone = torch.tensor([name in set(deleted) for name in self.names], dtype=torch.bool)
        return TagList(self.names, self.thresholds.masked_fill(gone, 1.0))

    def seen(self, chosen: Bool[Tensor, " n"]) -> list[str]:
        """The names of the chosen classes, in the list's order; one that two classes share is there once."""
        return list(dict.fromkeys(self.names[i] for i in chosen.nonzero().flatten().tolist()))


def read_names(path: str | Path) -> list[str]:
    """The lines of a text file, without empty ones at the end.

    Raises:
        MissingWeights: it is not there.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingWeights(f"the tag list {path} is not there; it must be a text file with one tag per line")
    return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]


@cache
def ram_tags() -> Mapping[str, float]:
    """The 4585 English tags of RAM and RAM++ in their order, and the threshold of each; ten are 1, so never seen.

    Source: ``ram_tag_list.txt`` and ``ram_tag_list_threshold.txt`` of recognize-anything, Apache-2.0.
    """
    rows = (line.split("\t") for line in _shipped("ram_tags.txt"))
    return MappingProxyType({name: float(threshold) for name, threshold in rows})


@cache
def tag2text_tags() -> tuple[str, ...]:
    """The 3429 tags of Tag2Text in their order; some stand twice, as a thing and as an action or attribute.

    Source: ``tag2text_ori_tag_list.txt`` of recognize-anything, Apache-2.0.
    """
    return tuple(_shipped("tag2text_tags.txt"))


def _shipped(filename: str) -> list[str]:
    text = files("scenewright.annotators.recognition").joinpath(filename).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def find_tags(
    tag_list: Sequence[str] | str | None,
    thresholds: str | float | None,
    *,
    checkpoint: Path,
    filename: str,
    count: int,
    default: Sequence[str],
    by_name: Mapping[str, float],
) -> TagList:
    """The list of a checkpoint's classes.

    Args:
        tag_list: names, or the path of a file with one per line. If not given, the file ``filename`` beside the
            checkpoint, else ``default``.
        thresholds: one for all, or the path of a file with one per line. If not given, the file beside the list
            whose name ends in ``_threshold``, else ``by_name``, and 0.68 for names that it lacks.
        count: classes of the checkpoint.

    Raises:
        MissingWeights: a file is not there.
        CheckpointError: there are more or fewer names than classes, or than thresholds.
    """
    beside = checkpoint.parent / filename
    if tag_list is None and beside.is_file():
        tag_list = str(beside)
    if isinstance(tag_list, str):
        listed = Path(tag_list).expanduser()
        own = listed.with_name(f"{listed.stem}_threshold{listed.suffix}")
        thresholds = str(own) if thresholds is None and own.is_file() else thresholds
        names = read_names(listed)
    else:
        names = list(default if tag_list is None else tag_list)
    if len(names) != count:
        raise CheckpointError(
            f"{checkpoint} has {count} classes, but the tag list has {len(names)} names; set tag_list= to a file with "
            f"a name for each, or put it beside the checkpoint as {filename}"
        )
    if thresholds is None:
        return TagList(names, torch.tensor([by_name.get(name, THRESHOLD) for name in names]))
    return TagList(names, _thresholds(thresholds, count))


def _thresholds(given: str | float, count: int) -> Float[Tensor, " n"]:
    if not isinstance(given, str):
        return torch.full((count,), float(given))
    try:
        return torch.tensor([float(line) for line in read_names(given)])
    except ValueError as error:
        raise CheckpointError(f"{given} must hold one threshold per line: {error}") from error
