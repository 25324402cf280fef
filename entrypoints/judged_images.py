"""The images that are judged: found by their samples' keys."""

import json
from collections import defaultdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from scenewright.datasets.formats.folder import file_stem
from scenewright.layout import Image, Sample, decode

#: What is taken for an image.
_EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif"}

#: Stands for the dataset's own images.
TRUTH = "truth"


class JudgedImages:
    """A folder of images that anyone made, or the dataset's own.

    With an ``images.jsonl`` in it, as generate.py writes it, files are found by that; else ``KEY-0.png`` and so on, and
    for one image per layout ``KEY.png`` too, at any depth and with any extension.

    Args:
        images: the folder, or "truth".
        per_layout: how many images each layout has.

    Raises:
        ValueError: there is no such folder, or two files have one name.
    """

    def __init__(self, images: str | Path, per_layout: int) -> None:
        self.truth, self.folder, self.per_layout = str(images) == TRUTH, Path(images).expanduser(), per_layout
        if self.truth and per_layout != 1:
            raise ValueError(f"a dataset has one image per layout, got images_per_layout={per_layout}")
        if not self.truth and not self.folder.is_dir():
            raise ValueError(f"images must be a folder or {TRUTH!r}, got {str(images)!r}")

    def read(self, sample: Sample, index: int) -> tuple[Image, str]:
        """An image, and a digest of what it was decoded from.

        Raises:
            OSError, ValueError: it is not there, or cannot be read; says why.
        """
        if sample.error:
            raise ValueError(sample.error)
        if self.truth:
            return sample.image, sha256(sample.image.numpy().tobytes()).hexdigest()
        data = self._path(sample.key, index).read_bytes()
        return decode(data), sha256(data).hexdigest()

    def again(self, key: str, index: int) -> tuple[Image, str]:
        """An image of the folder that was read before, and its name."""
        path = self._path(key, index)
        return decode(path.read_bytes()), str(path.relative_to(self.folder))

    def _path(self, key: str, index: int) -> Path:
        listed = self._listed.get(key, [])
        if index < len(listed):
            return listed[index]
        stem = file_stem(key)
        for name in (f"{stem}-{index}", *([stem] if self.per_layout == 1 else [])):
            if name in self._by_stem:
                paths = self._by_stem[name]
                if len(paths) > 1:
                    raise ValueError(f"{len(paths)} files have its name: {paths[0]} and {paths[1]}")
                return paths[0]
        raise FileNotFoundError(f"there is no {stem}-{index}.png{f' or {stem}.*' * (self.per_layout == 1)}")

    @cached_property
    def _listed(self) -> dict[str, list[Path]]:
        """Files by key, in the order of ``images.jsonl``."""
        path, found = self.folder / "images.jsonl", defaultdict(list)
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    about = json.loads(line)
                    found[about["key"]].append(self.folder / about["file"])
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{path}, line {number}: expected a JSON object with key and file") from None
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in _EXTENSIONS and not path.name.startswith("."):
                found[path.stem].append(path)
        return found
