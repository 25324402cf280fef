"""A folder that is there as a whole or not at all."""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Says what made an export. Only folders with it are ever replaced. Hidden, so that no reader takes it for data.
MARK = ".export.json"


@contextmanager
def new_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder under another name, and give it its own when all is written.

    Args:
        path: what it will be called.
        overwrite: replace what an earlier export wrote there.

    Yields:
        where to write meanwhile: beside ``path``, hidden. It is removed where writing fails, and what a
        killed process left of it by the next one.

    Raises:
        FileExistsError: something is there, and ``overwrite`` is False.
        ValueError: something is there that no export wrote.
    """
    path = Path(path).resolve()
    is_ours = (path / MARK).exists()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if overwrite and not is_ours:
            raise ValueError(f"{path} was not written by an export, so it is not overwritten; choose another output")
        if not overwrite:
            hint = "say overwrite=true to replace it" if is_ours else "choose another output"
            raise FileExistsError(f"{path} is not empty; {hint}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path)
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    work.mkdir()
    held = os.open(work, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nothing is ever taken for left behind
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield work
        old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        if path.exists():
            path.rename(old)
        work.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(held)
        shutil.rmtree(work, ignore_errors=True)


def mark(folder: Path, about: Mapping[str, Any]) -> None:
    """Write into a folder what made it."""
    (folder / MARK).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def file_stem(key: str) -> str:
    """A key as a file's name without its extension.

    Raises:
        ValueError: it would be a path, or a hidden file.
    """
    if not re.fullmatch(r"[^./\\\s\x00-\x1f]+", key) or len(key.encode(errors="surrogateescape")) > 200:
        raise ValueError(f"the key {key!r} is no file name")
    return key


def _remove_left_behind(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if not re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp", left.name) or not left.is_dir():
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:  # its process lives
            pass
        finally:
            os.close(handle)
