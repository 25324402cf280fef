"""The files that InstanceDiffusion and Rich-Context are trained on, one JSON per image."""

import base64
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from scenewright.datasets.files import distinct_keys, extension, fingerprint_of, join, parent, read_bytes
from scenewright.datasets.layout_file import Entry
from scenewright.layout import MAX_PIXELS, EncodedImage, Sample

#: What is read of a file, or carried by the image, the layout and the caption; all else becomes metadata.
_READ = {"annos", "caption", "image", "file_name", "width", "height"}


class LabelFiles:
    """``label_STEM.json`` for each image: caption, boxes in pixels, masks, and the image inside or beside.

    It reads what ``format=instancediffusion``, ``rich_context``, ``blip2`` and ``rccoco`` write, and the files of the
    published generators. Labels are the category names, captions the regions' own, else their labels; scores and masks
    come along. Text features are passed over. The image's size is that of the file, or what it decodes to. Boxes that
    reach outside of the image are clipped; those outside of it or without area are dropped with a warning. A file that
    cannot be read is a sample with an error, so that it is counted.

    Args:
        path: a list of files, one path per line, relative to the list's own folder (``train.txt``); or a folder, whose
            ``label_*.json`` are read at any depth.
        images: the folder that ``file_name`` starts from, for files that have no image inside.
        longest_side: boxes are counted as if the image's longer side had so many pixels (``rccoco``: 768).
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ValueError: there are no files.

    Source: Wang et al. 2024, arXiv 2402.03290; Cheng et al. 2024, arXiv 2409.04847; with their repositories.
    """

    def __init__(
        self, path: str, images: str = "", longest_side: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.path, self.images, self.longest_side, self.max_pixels = str(path), str(images), longest_side, max_pixels
        self._listed: tuple[list[str], list[str]] | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([*self._list()[0], self.images, str(self.longest_side)])

    def __len__(self) -> int:
        return len(self._list()[0])

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        files, keys = self._list()
        for file, key in zip(files[start:stop], keys[start:stop], strict=True):
            try:
                yield self._sample(file, key)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                yield Sample(key=key, error=f"{file} cannot be read: {type(error).__name__}: {error}")

    def _list(self) -> tuple[list[str], list[str]]:
        """The files and their keys."""
        if self._listed is None:
            if Path(self.path).is_dir():
                files = sorted(str(x) for x in Path(self.path).rglob("label_*.json"))
            else:
                lines = read_bytes(self.path).decode(errors="surrogateescape").splitlines()
                files = [join(parent(self.path), line.strip()) for line in lines if line.strip()]
            if not files:
                raise ValueError(f"{self.path} names no label files")
            stems = [PurePosixPath(x).name.removeprefix("label_").removesuffix(".json") for x in files]
            self._listed = files, distinct_keys(stems, files)
        return self._listed

    def _sample(self, file: str, key: str) -> Sample:
        fields = json.loads(read_bytes(file))
        if not isinstance(fields, dict) or not isinstance(fields.get("annos"), list):
            raise ValueError('it must be a {"caption": text, "annos": [...]}')
        source = self._source(fields)
        height, width = self._size(fields, source)
        scale = 1.0 if self.longest_side is None else max(height, width) / self.longest_side
        annos = [_scaled(x, scale) for x in fields["annos"]]
        sound = [x for x in annos if x["bbox"][2] > 0 and x["bbox"][3] > 0]
        layout, warnings = Entry(file, key, {"annos": sound}).layout((height, width))
        if len(sound) < len(annos):
            warnings = [f"{len(annos) - len(sound)} boxes have no area and were dropped", *warnings]
        metadata = {name: value for name, value in fields.items() if name not in _READ}
        caption = fields.get("caption") or ""
        return Sample(key, source, caption, layout=layout, metadata=metadata, warnings=warnings)

    def _source(self, fields: Mapping[str, Any]) -> EncodedImage:
        """The image inside the file, or beside it."""
        name = fields.get("file_name") or ""
        if fields.get("image"):
            try:
                data: Any = base64.b64decode(fields["image"], validate=True)
            except ValueError as error:
                raise ValueError(f"image must be base64: {error}") from None
            return EncodedImage(data, "jpg", name, max_pixels=self.max_pixels)
        if not name:
            raise ValueError("there is neither image nor file_name")
        path = join(self.images, name)
        return EncodedImage(partial(read_bytes, path), extension(name), name, max_pixels=self.max_pixels)

    def _size(self, fields: Mapping[str, Any], source: EncodedImage) -> tuple[int, int]:
        """Height and width of the image, without decoding it where the file knows."""
        sizes = [x["mask"]["size"] for x in fields["annos"] if isinstance(x.get("mask"), dict)]
        if fields.get("height") and fields.get("width"):
            sizes = [(fields["height"], fields["width"])]
        height, width = sizes[0] if sizes else source.image.shape[1:]
        return int(height), int(width)


def _scaled(anno: Mapping[str, Any], scale: float) -> dict[str, Any]:
    return {**anno, "bbox": [x * scale for x in anno["bbox"]]}
