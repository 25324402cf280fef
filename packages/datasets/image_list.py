"""A JSON list of images and captions."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from scenewright.datasets.files import extension, fingerprint_of, join, keys_of, parent, read_bytes
from scenewright.layout import MAX_PIXELS, EncodedImage, Sample


class ImageList:
    """The images of a JSON list: ``[{"image": path, "caption": text}, …]``.

    Other fields of an entry become its metadata. An entry that is none (no
    ``image``) is a sample with an error, so that it is counted.

    Args:
        path: the JSON file, a path or URL.
        root: the folder that relative image paths start from; the JSON file's own, if not given.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ValueError: the file holds no list, or an empty one.

    Source: the meta files of InstanceDiffusion's and Rich-Context's data generators.
    """

    def __init__(self, path: str, root: str | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.path, self.root, self.max_pixels = str(path), root, max_pixels
        self._loaded: tuple[list[Any], list[str], str] | None = None

    @property
    def fingerprint(self) -> str:
        return self._load()[2]

    def __len__(self) -> int:
        return len(self._load()[0])

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        entries, keys, _ = self._load()
        root = parent(self.path) if self.root is None else str(self.root)
        for number, (entry, key) in enumerate(zip(entries[start:stop], keys[start:stop], strict=True), start):
            if not _is_entry(entry):
                shown = json.dumps(entry)[:80]
                yield Sample(key=key, error=f'entry {number} must be {{"image": path, "caption": text}}, got {shown}')
                continue
            path = entry["image"]
            file = EncodedImage(
                partial(read_bytes, join(root, path)), extension(path), path, max_pixels=self.max_pixels
            )
            metadata = {k: v for k, v in entry.items() if k not in ("image", "caption")}
            yield Sample(key=key, source=file, caption=entry.get("caption") or "", metadata=metadata)

    def _load(self) -> tuple[list[Any], list[str], str]:
        """The entries, their keys and the file's fingerprint."""
        if self._loaded is None:
            data = read_bytes(self.path)
            try:
                entries = json.loads(data)
            except ValueError as error:
                raise ValueError(f"{self.path} is not JSON: {error}") from None
            if not isinstance(entries, list) or not entries:
                raise ValueError(f'{self.path} must hold a list of {{"image", "caption"}} with at least one entry')
            paths = [x["image"] if _is_entry(x) else f"entry_{i}" for i, x in enumerate(entries)]
            times = Counter(paths)  # an image with several captions is several samples
            keys = keys_of([f"{p}#{i}" if times[p] > 1 else p for i, p in enumerate(paths)])
            self._loaded = entries, keys, fingerprint_of([data])
        return self._loaded


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("image"), str)
        and isinstance(entry.get("caption") or "", str)
        and bool(entry["image"])
    )
