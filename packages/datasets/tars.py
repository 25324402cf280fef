"""WebDataset tars, read by place: which samples a tar holds and where their bytes are."""

import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scenewright.datasets.files import open_binary


@dataclass(frozen=True)
class Entry:
    """One sample of a tar: the members that share a key.

    Attributes:
        key: the members' common name, up to its first dot; a folder is part of it.
        members: by extension ("jpg", "source.json"), where the bytes start and how many there are.
        error: why it cannot be read; empty for a sound one.
    """

    key: str
    members: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    error: str = ""

    def read(self, file: Any) -> dict[str, bytes]:
        """The members' bytes.

        Raises:
            OSError: the tar ends before they do.
        """
        contents = {}
        for extension, (offset, size) in self.members.items():
            file.seek(offset)
            contents[extension] = data = file.read(size)
            if len(data) < size:
                raise OSError(f"the tar ends inside {self.key}.{extension}")
        return contents


def index_tar(url: str) -> list[Entry]:
    """The samples of a tar, in order, without reading their contents.

    Nothing is unpacked, so a member cannot write anywhere; one whose name would
    (``../``, an absolute path), a link or a device is refused all the same. A tar
    that breaks off ends with an entry that says so.

    Raises:
        OSError: the file cannot be read.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    key, members = "", dict[str, tuple[int, int]]()

    def close() -> None:
        if members:
            repeated = f"the key {key} occurs twice in the tar" if key in seen else ""
            entries.append(Entry(f"{key}_again_{len(entries)}" if repeated else key, dict(members), repeated))
            seen.add(key)
            members.clear()

    with open_binary(url) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    if info.isdir():
                        continue
                    name, refused = info.name, _refusal(info)
                    match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", name, re.DOTALL)
                    if refused or match is None:
                        close()
                        entries.append(Entry(name, error=refused or f"the member {name!r} has no extension"))
                        continue
                    if match[1] != key or match[2].lower() in members:
                        close()
                    key = match[1]
                    members[match[2].lower()] = (info.offset_data, info.size)
                file.seek(tar.offset)
                if file.read(512) != bytes(512):  # tarfile takes a cut-off header for the end
                    raise tarfile.ReadError("it has no end marker")
            close()
        except tarfile.TarError as error:
            close()
            entries.append(Entry(f"rest_after_{len(entries)}", error=f"the tar breaks off: {error}"))
        entries = _without_torn(entries, file.seek(0, 2))
    return entries


def _refusal(info: tarfile.TarInfo) -> str:
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return f"the member name {info.name!r} leaves its folder"
    return "" if info.isfile() else f"the member {info.name!r} is no file"


def _without_torn(entries: list[Entry], size: int) -> list[Entry]:
    """Mark the samples whose bytes the file does not have."""
    return [
        Entry(e.key, error="the tar breaks off inside this sample")
        if any(offset + length > size for offset, length in e.members.values())
        else e
        for e in entries
    ]


def read_entries(url: str, entries: list[Entry]) -> Iterator[tuple[Entry, dict[str, bytes]]]:
    """The entries with their members' bytes; none for an entry with an error."""
    if all(entry.error for entry in entries):  # the file may not even be there
        yield from ((entry, {}) for entry in entries)
        return
    with open_binary(url) as file:
        for entry in entries:
            yield entry, {} if entry.error else entry.read(file)


class TarIndexes:
    """The indexes of the tars that were looked at last; a reader goes through its tars one after the other."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._indexes: dict[str, list[Entry]] = {}

    def __getitem__(self, url: str) -> list[Entry]:
        """The samples of a tar; of one that cannot be opened, a single entry that says why."""
        if url not in self._indexes:
            if len(self._indexes) >= self.most:
                self._indexes.clear()
            try:
                self._indexes[url] = index_tar(url)
            except OSError as error:
                self._indexes[url] = [Entry("unreadable", error=f"the tar cannot be read: {error.strerror or error}")]
        return self._indexes[url]


def spans(ends: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Where a range lies in parts laid end to end: the part's number, and the first and last place in it.

    Args:
        ends: of each part, where it ends.
    """
    while start < stop:
        part = bisect_right(ends, start)
        first = ends[part - 1] if part else 0
        last = min(stop, ends[part])
        yield part, start - first, last - first
        start = last
