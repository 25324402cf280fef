"""Numbers for labels."""

from collections.abc import Sequence
from pathlib import Path


class Categories:
    """Numbers labels in the order they come.

    Args:
        labels: those that have the first numbers, or a text file with one on each line; no others are allowed then.
        first: the first number.

    Raises:
        ValueError: a label is given twice.
    """

    def __init__(self, labels: Sequence[str] | str | None = None, first: int = 0) -> None:
        if isinstance(labels, str):
            labels = [x for x in Path(labels).read_text(encoding="utf-8").splitlines() if x.strip()]
        self.is_closed, self.first = labels is not None, first
        self._numbers = {label: first + i for i, label in enumerate(labels or [])}
        if len(self._numbers) != len(labels or []):
            raise ValueError("labels must all be different")

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    def number(self, label: str) -> int:
        """The label's number; a new one where it has none.

        Raises:
            ValueError: the labels were given, and this is none of them.
        """
        if label not in self._numbers:
            if self.is_closed:
                known = ", ".join(self.names[:5])
                raise ValueError(f"the label {label!r} is none of the {len(self.names)} given: {known}, …")
            self._numbers[label] = self.first + len(self._numbers)
        return self._numbers[label]
