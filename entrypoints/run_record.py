"""What a folder was made with: the same command continues, another one is refused."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenewright.datasets.shards.ledger import differences


class RunRecord:
    """All that a folder's contents depend on, kept in a file of it.

    Args:
        path: the file.
        record: plain values.
        way_out: what to do about a difference, for people.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], way_out: str) -> None:
        self.path, self.way_out = path, way_out
        self.record = json.loads(json.dumps(record))

    def check(self) -> None:
        """Refuse a folder that was begun otherwise; nothing is written yet.

        Raises:
            ValueError: it was; says what differs.
        """
        try:
            theirs = json.loads(self.path.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            raise ValueError(f"{self.path} is no JSON; {self.way_out}") from None
        found = differences(self.record, theirs)
        if found:
            raise ValueError(f"{self.path.parent} was begun with other settings: {'; '.join(found)}; {self.way_out}")

    def write(self) -> None:
        """Make the folder this record's own."""
        write_whole(self.path, json.dumps(self.record, indent=1, ensure_ascii=False).encode() + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Make a file or replace it, never by a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
