"""JSON written piece by piece, so that no document has to fit into memory."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any


class JSONLists:
    """One JSON object whose long lists are written an item at a time.

    Args:
        path: the file, made on exit.
        lists: the lists' names, in the order they get in the file.
    """

    def __init__(self, path: Path, *lists: str) -> None:
        self.path, self.head, self.tail = path, dict[str, Any](), dict[str, Any]()
        self._open = ExitStack()
        self._lists = {name: self._open.enter_context(TemporaryFile(dir=path.parent)) for name in lists}

    def add(self, name: str, item: Any) -> None:
        """Append to one of the lists."""
        file = self._lists[name]
        file.write(b",\n" if file.tell() else b"\n")
        file.write(to_json(item))

    def __enter__(self) -> "JSONLists":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if kind is None:
                with open(self.path, "wb") as file:
                    self._write(file)

    def _write(self, file: IO[bytes]) -> None:
        """``head``, the lists, ``tail``."""
        separator = b"{\n"
        for name, value in self.head.items():
            file.write(separator + to_json(name) + b": " + to_json(value))
            separator = b",\n"
        for name, items in self._lists.items():
            file.write(separator + to_json(name) + b": [")
            items.seek(0)
            shutil.copyfileobj(items, file, 1 << 20)
            file.write(b"]")
            separator = b",\n"
        for name, value in self.tail.items():
            file.write(separator + to_json(name) + b": " + to_json(value))
            separator = b",\n"
        file.write(b"\n}\n")


def to_json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8; what is no character (a lone surrogate) is escaped."""
    return json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", errors="backslashreplace")
