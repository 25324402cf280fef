"""Files wherever they are: local paths and any URL that fsspec opens."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import has_magic
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import fsspec
from braceexpand import braceexpand
from fsspec.core import url_to_fs

#: What the image sources take for an image, by its extension.
IMAGE_EXTENSIONS = {"jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif"}


def expand(patterns: str | Path | Iterable[str]) -> list[str]:
    """The files that patterns name, each pattern's own in sorted order.

    Args:
        patterns: one or several paths or URLs; ``{00000..00331}`` and ``{a,b}`` are
            written out, ``*``, ``?``, ``[…]`` and ``**`` are looked up.

    Raises:
        FileNotFoundError: a pattern names no file.
    """
    files: list[str] = []
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        found = [x for one in braceexpand(str(pattern)) for x in (_glob(one) if has_magic(one) else [one])]
        if not found:
            raise FileNotFoundError(f"no file matches {str(pattern)!r}")
        files += found
    return files


def _glob(pattern: str) -> list[str]:
    files, path = url_to_fs(pattern)
    if files.exists(path):  # a name that merely looks like a pattern: "photo[1].tar"
        return [pattern]
    found = sorted(str(x) for x in files.glob(path))
    return found if is_local(pattern) else [files.unstrip_protocol(x) for x in found]


def is_local(url: str | Path) -> bool:
    """Whether this is a path on this machine, not a URL."""
    return "://" not in str(url)


def open_binary(url: str | Path) -> Any:
    """Open a file of bytes for reading; it can seek."""
    if is_local(url):
        return open(url, "rb")
    remote: Any = fsspec.open(str(url), "rb")
    return remote.open()


def read_bytes(url: str | Path) -> bytes:
    """A file's bytes."""
    with open_binary(url) as file:
        return file.read()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file that is there whole or not at all; the block writes to the path that it gets.

    Several processes may write the same file: the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")  # not the name itself, which may be as long as names can be
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def join(folder: str | Path, path: str) -> str:
    """A path below a folder or URL; an absolute one or a URL stays as it is."""
    if not is_local(path) or path.startswith("/"):
        return path
    return f"{str(folder).rstrip('/')}/{path}" if str(folder) else path


def parent(url: str | Path) -> str:
    """The folder of a file, as a path or URL."""
    return str(Path(url).parent) if is_local(url) else str(url).rsplit("/", 1)[0]


def extension(path: str) -> str:
    """The last extension, lower case and without the dot; empty where there is none."""
    return PurePosixPath(path).suffix[1:].lower()


def text_of(data: bytes) -> tuple[str, list[str]]:
    """A text file's text, stripped, and what had to be mended to read it."""
    try:
        return data.decode("utf-8-sig").strip(), []
    except UnicodeDecodeError as error:
        mended = data.decode("utf-8", errors="replace").strip()
        return mended, [f"the caption is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}) and was mended"]


def key_of(stem: str) -> str:
    """A path without its extension as a key: no dots, slashes, spaces or control characters; at most 120 characters.

    WebDataset ends a key at its first dot, and a slash would make a folder of it.
    """
    key = re.sub(r"[^\w-]", "_", stem.strip("/").replace("/", "__")) or "_"
    return key if len(key) <= 120 else f"{key[:111]}-{digest_of(stem)}"


def keys_of(paths: Sequence[str]) -> list[str]:
    """One key per path, all different, its extension left out."""
    stems = [path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix) else path for path in paths]
    return distinct_keys(stems, paths)


def distinct_keys(stems: Sequence[str], names: Sequence[str]) -> list[str]:
    """A key per stem, all different: where several stems have one key, each gets a digest of its name.

    Case does not make a difference, since shards are unpacked on file systems that ignore it.

    Args:
        names: what tells equal stems apart; names that are equal too are told apart by their order.
    """
    keys = [key_of(stem) for stem in stems]
    times = Counter(key.lower() for key in keys)
    if len(times) == len(keys):
        return keys
    before: Counter[str] = Counter()
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        if times[key.lower()] > 1:
            keys[i] = f"{key[:111]}-{digest_of(f'{name}#{before[name]}' if before[name] else name)}"
            before[name] += 1
    return keys


def fingerprint_of(parts: Iterable[str | bytes]) -> str:
    """A digest of a source's parts, in order."""
    digest = sha256()
    for part in parts:
        data = part.encode("utf-8", errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()


def digest_of(path: str) -> str:
    """Eight characters that tell a path from others."""
    return sha256(path.encode("utf-8", errors="surrogateescape")).hexdigest()[:8]
