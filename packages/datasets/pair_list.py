"""Images with several captions each, as text-to-image papers hand them out: a pickle or JSON of pairs."""

import io
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from scenewright.datasets.files import (
    digest_of,
    distinct_keys,
    extension,
    fingerprint_of,
    is_local,
    join,
    parent,
    read_bytes,
    text_of,
)
from scenewright.layout import MAX_PIXELS, EncodedImage, Sample

CAPTIONS = ("first", "random", "all")


@dataclass(frozen=True)
class _Record:
    """One image of the list: where it is and what is said of it; or what is wrong with the record."""

    path: str
    captions: tuple[str, ...] = ()
    feature: tuple[float, ...] | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""


class PairList:
    """The images of a list ``[[path, [caption, caption, …]], …]``.

    A pickle is read without running code: only lists, tuples, dicts, text, bytes, numbers and None are in it. A third
    entry of a record, a list of numbers, is the feature that stands for a caption (``Sample.text_feature``); whatever
    else follows is left out. Without captions the caption is empty. A record that is none is a sample with an error,
    so that it is counted; so is one whose path leads out of ``root``.

    ``metadata["captions"]`` has all captions of an image, so that training can draw another one at each visit:
    ``framing.caption=random``.

    Args:
        path: the pickle or JSON, a path or URL; its content tells which.
        root: the folder or URL that image paths start from; the list's own folder, if not given.
        caption: ``first``, or ``random``: one of the image's, which depends on ``seed`` and the image alone; or
            ``all``: a sample for each caption, first all images with their first one, then with their second.
        seed: of ``random``; not negative.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ValueError: the file is broken, holds code or no list, or an empty one.

    Source: the metadata files of RAT-Diffusion, Ye and Liu 2024, arXiv 2410.01638.
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        caption: str = "first",
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if caption not in CAPTIONS:
            raise ValueError(f"caption must be one of {', '.join(CAPTIONS)}, got {caption!r}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.path, self.root, self.caption, self.seed, self.max_pixels = str(path), root, caption, seed, max_pixels
        self._loaded: tuple[list[_Record], list[tuple[int, int]], list[str], str] | None = None

    @property
    def fingerprint(self) -> str:
        return self._load()[3]

    def __len__(self) -> int:
        return len(self._load()[1])

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        records, places, keys, _ = self._load()
        root = parent(self.path) if self.root is None else str(self.root)
        for (number, which), key in zip(places[start:stop], keys[start:stop], strict=True):
            yield self._sample(records[number], which, key, root)

    def _sample(self, record: _Record, which: int, key: str, root: str) -> Sample:
        if record.error:
            return Sample(key=key, error=record.error)
        where, captions = join(root, record.path), record.captions
        file = EncodedImage(partial(read_bytes, where), extension(record.path), record.path, max_pixels=self.max_pixels)
        if self.caption == "random" and captions:
            which = int(np.random.default_rng([self.seed, int(digest_of(key), 16)]).integers(len(captions)))
        return Sample(
            key=key,
            source=file,
            caption=captions[which] if captions else "",
            metadata={"captions": list(captions)} if captions and self.caption != "all" else {},
            warnings=list(record.warnings),
            text_feature=None if record.feature is None else torch.tensor(record.feature),
        )

    def _load(self) -> tuple[list[_Record], list[tuple[int, int]], list[str], str]:
        """The records, each sample's record and caption, their keys and the fingerprint."""
        if self._loaded is None:
            data = read_bytes(self.path)
            found = _plain_content(data, self.path)
            if not isinstance(found, (list, tuple)) or not found:
                raise ValueError(f"{self.path} must hold a list of [path, [caption, …]] with at least one record")
            records = [_record(x, number) for number, x in enumerate(found)]
            places = [(i, 0) for i in range(len(records))]
            if self.caption == "all":
                rounds = range(1, max(len(x.captions) for x in records))
                places += [(i, j) for j in rounds for i, x in enumerate(records) if j < len(x.captions)]
            stems = [records[i].path.removesuffix(PurePosixPath(records[i].path).suffix) for i, _ in places]
            if self.caption == "all":
                stems = [f"{stem}-{j}" for stem, (_, j) in zip(stems, places, strict=True)]
            keys = distinct_keys(stems, [records[i].path for i, _ in places])
            chosen = [] if self.caption == "first" else [self.caption, str(self.seed)]
            self._loaded = records, places, keys, fingerprint_of([data, *chosen])
        return self._loaded


class _PlainUnpickler(pickle.Unpickler):
    """Makes plain values; whatever names a class or function is refused before it is looked for."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise PermissionError(f"{module_name}.{global_name}")


def _plain_content(data: bytes, path: str) -> Any:
    """What a JSON or a pickle holds.

    Raises:
        ValueError: it is broken, or holds more than plain values.
    """
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{", b""):  # no pickle begins so
        try:
            return json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except PermissionError as error:
        raise ValueError(
            f"{path} holds {error}, and a pickle that names code is not opened: it could run any. Only lists, tuples, "
            "dicts, text, bytes, numbers and None are read; convert it to JSON on a machine you can lose"
        ) from None
    except Exception as error:  # a broken pickle makes its reader raise a dozen kinds
        raise ValueError(f"{path} is neither JSON nor a whole pickle: {type(error).__name__}: {error}") from None


def _record(found: Any, number: int) -> _Record:
    """A record of plain values, or one with an error."""
    bad = _Record(f"record_{number}", error=f"record {number} must be [path, [caption, …]], got {_shown(found)}")
    if not isinstance(found, (list, tuple)) or len(found) < 2:
        return bad
    path, captions, *rest = found
    captions = [captions] if isinstance(captions, (str, bytes)) else captions
    if not isinstance(captions, (list, tuple)) or not isinstance(path, (str, bytes)):
        return bad
    texts = [_text(x) for x in (path, *captions)]
    if not texts[0] or None in texts:
        return bad
    path, *captions = [str(x) for x in texts]
    if not is_local(path) or path.startswith("/") or ".." in PurePosixPath(path).parts:
        return _Record(bad.path, error=f"record {number}: the image must be a path below the root, got {path!r}")
    feature = _feature(rest[0]) if rest else None
    beyond = len(rest) - (feature is not None)
    warnings = (f"record {number} has {beyond} more entries than path and captions, which were left out",)
    return _Record(path, tuple(x for x in captions if x), feature, warnings if beyond else ())


def _text(value: Any) -> str | None:
    return text_of(value)[0] if isinstance(value, bytes) else value.strip() if isinstance(value, str) else None


def _feature(value: Any) -> tuple[float, ...] | None:
    """A list of finite numbers, else None."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in value):
        return None
    return tuple(float(x) for x in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
