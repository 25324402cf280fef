"""A folder of images."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fsspec.core import url_to_fs

from scenewright.datasets.files import (
    IMAGE_EXTENSIONS,
    extension,
    fingerprint_of,
    is_local,
    join,
    keys_of,
    read_bytes,
    text_of,
)
from scenewright.layout import MAX_PIXELS, EncodedImage, Sample


class ImageFolder:
    """Every image below a folder, in the order of their paths.

    A text file of the same name beside an image is its caption. A key is the path
    below the folder with ``__`` for the slashes; of an animation the first frame is
    taken. Files are read when their image is first touched.

    Args:
        directory: a path or any URL that fsspec opens.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """

    def __init__(self, directory: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        self.directory, self.max_pixels = str(directory), max_pixels
        self._listed: tuple[list[str], list[str], frozenset[str]] | None = None

    @property
    def fingerprint(self) -> str:
        paths, _, captions = self._list()
        return fingerprint_of([*paths, *sorted(captions)])

    def __len__(self) -> int:
        return len(self._list()[0])

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        paths, keys, captions = self._list()
        for path, key in zip(paths[start:stop], keys[start:stop], strict=True):
            file = EncodedImage(
                partial(read_bytes, join(self.directory, path)), extension(path), path, max_pixels=self.max_pixels
            )
            caption, warnings = "", list[str]()
            if (beside := _caption_of(path)) in captions:
                try:
                    caption, warnings = text_of(read_bytes(join(self.directory, beside)))
                except OSError as error:
                    warnings = [f"the caption cannot be read: {error.strerror}"]
            yield Sample(key=key, source=file, caption=caption, warnings=warnings)

    def _list(self) -> tuple[list[str], list[str], frozenset[str]]:
        """The images' paths below the folder, their keys, and the captions' paths."""
        if self._listed is None:
            below = sorted(_local_files(self.directory) if is_local(self.directory) else _remote_files(self.directory))
            paths = [path for path in below if extension(path) in IMAGE_EXTENSIONS]
            if not paths:
                kinds = ", ".join(sorted(IMAGE_EXTENSIONS))
                raise FileNotFoundError(f"no image in {self.directory!r} (looked for {kinds}, in its folders too)")
            captions = {_caption_of(path) for path in paths} & {path for path in below if extension(path) == "txt"}
            self._listed = paths, keys_of(paths), frozenset(captions)
        return self._listed


def _caption_of(path: str) -> str:
    return os.path.splitext(path)[0] + ".txt"


def _local_files(directory: str) -> Iterator[str]:
    """Every file below a folder, through links to folders too, each folder once."""
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"no folder {directory!r}")
    visited = set()
    for folder, folders, files in os.walk(directory, followlinks=True, onerror=_refuse):
        visited.add(os.path.realpath(folder))
        folders[:] = [x for x in folders if os.path.realpath(os.path.join(folder, x)) not in visited]
        for file in files:
            yield os.path.relpath(os.path.join(folder, file), directory)


def _refuse(error: OSError) -> None:
    raise error


def _remote_files(directory: str) -> Iterator[str]:
    files, root = url_to_fs(directory)
    if not files.isdir(root):
        raise FileNotFoundError(f"no folder {directory!r}")
    for path in files.find(root):
        yield str(path)[len(root.rstrip("/")) + 1 :]
