"""The tars that img2dataset downloads, straight from the tars."""

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any

from scenewright.datasets.files import (
    IMAGE_EXTENSIONS,
    distinct_keys,
    expand,
    fingerprint_of,
    key_of,
    open_binary,
    parent,
    read_bytes,
    text_of,
)
from scenewright.datasets.tars import Entry, TarIndexes, read_entries, spans
from scenewright.layout import MAX_PIXELS, EncodedImage, Sample


class Img2dataset:
    """Samples of WebDataset tars that hold an image, a caption and img2dataset's own json.

    Nothing is unpacked. A tar's length comes from the ``NNNNN_stats.json`` beside it,
    or from its member headers. img2dataset can pad images to a white square; where
    ``original_width`` and ``original_height`` say so, and it is there, the border is
    cut. Members that are unsafe or torn are samples with an error.

    Args:
        shards: one or several paths or URLs, with braces or wildcards: ``cc3m/{00000..00331}.tar``.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: a pattern names no tar.
        ValueError: a tar holds more than its stats say.

    Source: img2dataset's output format ``webdataset`` and its resize mode ``border``.
    """

    def __init__(self, shards: str | Iterable[str], max_pixels: int = MAX_PIXELS) -> None:
        self.shards = [shards] if isinstance(shards, str) else list(shards)
        self.max_pixels = max_pixels
        self._tars: list[str] = []
        self._ends: list[int] = []
        self._indexes = TarIndexes()

    @property
    def fingerprint(self) -> str:
        self._open()
        return fingerprint_of(f"{self._name(url)}:{end}" for url, end in zip(self._tars, self._ends, strict=True))

    def __len__(self) -> int:
        self._open()
        return self._ends[-1]

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        self._open()
        for tar, first, last in spans(self._ends, start, stop):
            length = self._ends[tar] - (self._ends[tar - 1] if tar else 0)
            yield from self._read_tar(self._tars[tar], length, first, last)

    def _read_tar(self, url: str, length: int, start: int, stop: int) -> Iterator[Sample]:
        entries = self._entries(url, length)
        name = self._name(url)
        # img2dataset's keys begin with their tar's number; all others may recur in the next tar
        own = name == PurePosixPath(url).stem
        stems = [e.key if own and e.key.startswith(name) else f"{name}_{e.key}" for e in entries]
        keys = distinct_keys(stems, stems)
        for key, (entry, contents) in zip(keys[start:stop], read_entries(url, entries[start:stop]), strict=True):
            yield self._sample(key, f"{PurePosixPath(url).name}/{entry.key}", entry, contents)

    def _entries(self, url: str, length: int) -> list[Entry]:
        """The tar's entries, as many as were counted."""
        entries = self._indexes[url]
        if any(not entry.error for entry in entries[length:]):
            raise ValueError(f"{url} holds {len(entries)} samples, its stats file says {length}; delete the stats file")
        missing = f"the tar holds {len(entries)} samples, its stats file says {length}"
        return entries[:length] + [Entry(f"missing_{i}", error=missing) for i in range(len(entries), length)]

    def _sample(self, key: str, name: str, entry: Entry, contents: dict[str, bytes]) -> Sample:
        if entry.error:
            return Sample(key=key, error=entry.error)
        extension = next((x for x in contents if x in IMAGE_EXTENSIONS), None)
        if extension is None:
            return Sample(key=key, error=f"no image among its members ({', '.join(sorted(contents))})")
        caption, warnings = text_of(contents.get("txt", b""))
        try:
            metadata = json.loads(contents.get("json", b"{}"))
            if not isinstance(metadata, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            metadata, warnings = {}, [*warnings, f"the json cannot be read ({error}) and was left out"]
        source = EncodedImage(
            contents[extension], extension, f"{name}.{extension}", border_of(metadata), self.max_pixels
        )
        caption = caption or str(metadata.get("caption") or "")
        return Sample(key=key, source=source, caption=caption, metadata=metadata, warnings=warnings)

    def _open(self) -> None:
        if not self._tars:
            tars = expand(self.shards)
            if not any(_opens(url) for url in tars):  # one that does not is counted, all of them are a mistake
                raise FileNotFoundError(f"cannot read {tars[0]}, nor any other of {', '.join(self.shards)}")
            self._ends = list(accumulate(self._length(url) for url in tars))
            self._tars = tars

    def _length(self, url: str) -> int:
        try:
            return int(json.loads(read_bytes(url.removesuffix(".tar") + "_stats.json"))["successes"])
        except (OSError, ValueError, KeyError, TypeError):
            return len(self._indexes[url])

    def _name(self, url: str) -> str:
        """A tar's name; with its folder's where the tars come from several, and those told apart."""
        folders = sorted({parent(x) for x in self._tars})
        if len(folders) == 1:
            return key_of(PurePosixPath(url).stem)
        names = dict(zip(folders, distinct_keys([PurePosixPath(x).name for x in folders], folders), strict=True))
        return f"{names[parent(url)]}_{key_of(PurePosixPath(url).stem)}"


def _opens(url: str) -> bool:
    try:
        with open_binary(url):
            return True
    except OSError:
        return False


def border_of(metadata: dict[str, Any]) -> tuple[int, int, int, int]:
    """The centred border (left, top, right, bottom) that ``resize_mode=border`` left, in pixels; zeros for none."""
    try:
        width, height = int(metadata["width"]), int(metadata["height"])
        original_width, original_height = int(metadata["original_width"]), int(metadata["original_height"])
        scale = min(width / original_width, height / original_height)
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return 0, 0, 0, 0
    x, y = width - round(original_width * scale), height - round(original_height * scale)
    if x < 2 and y < 2:  # a pixel is rounding, not a border
        return 0, 0, 0, 0
    return x // 2, y // 2, x - x // 2, y - y // 2
