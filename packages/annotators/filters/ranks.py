"""Ranks: keeps the images that people ranked high enough."""

import csv
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from scenewright.layout import Sample, Verdict


class Ranks:
    """Reads what people said of each image from a table with the columns ``key`` and ``rank``.

    Args:
        path: a CSV file. An image may have several lines, of several people: the mean counts.
        minimum: a lower rank is dropped.
        unranked: "drop" or "keep": what becomes of an image without a rank.

    Source: Yeh et al. 2024, arXiv 2402.15504: of five ranks, 4 and 5 are kept.
    """

    after = "source"

    def __init__(self, path: str, minimum: float = 4.0, unranked: str = "drop") -> None:
        if unranked not in ("drop", "keep"):
            raise ValueError(f'ranks: unranked must be "drop" or "keep", got {unranked!r}')
        self.path, self.minimum, self.unranked = path, minimum, unranked

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image whose rank is too low, or that has none.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it has other columns, or a rank that is no number; names the line.
        """
        return [Verdict(image=self._reason(s.key)) for s in samples]

    def _reason(self, key: str) -> str:
        given = self._ranks.get(key)
        if not given:
            return "it has no rank" if self.unranked == "drop" else ""
        rank = sum(given) / len(given)
        return f"rank {rank:g} is below {self.minimum:g}" if rank < self.minimum else ""

    @cached_property
    def _ranks(self) -> dict[str, list[float]]:
        ranks: dict[str, list[float]] = {}
        with open(Path(self.path).expanduser(), newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"key", "rank"} <= set(table.fieldnames or ()):
                raise ValueError(f"ranks: {self.path} must have the columns key and rank, got {table.fieldnames}")
            for row in table:
                try:
                    ranks.setdefault(row["key"], []).append(float(row["rank"]))
                except (TypeError, ValueError):
                    raise ValueError(
                        f"ranks: line {table.line_num} of {self.path}: rank must be a number, got {row['rank']!r}"
                    ) from None
        return ranks
