"""What an image was labelled with, or found by."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from scenewright.layout import Sample


def keyword_of(sample: Sample, field: str) -> str:
    """A sample's class, or what it was found by; empty where it has none.

    Args:
        field: of the metadata; or "folder": the first folder of its file's path, numbers before it left out
            ("001.Black_footed_Albatross/1.jpg" is a "Black footed Albatross"); or "tag": its first tag.
    """
    if field == "tag":
        return spoken(sample.tags[0]) if sample.tags else ""
    if field != "folder":
        value = sample.metadata.get(field)
        return "" if value is None else spoken(str(value))
    parts = PurePosixPath(sample.source.name).parts if sample.source is not None else ()
    return spoken(parts[0]) if len(parts) > 1 else ""


def spoken(name: str) -> str:
    """A folder's or column's name as a keyword: no "001." or "07_" before it, spaces for underscores."""
    return " ".join(re.sub(r"^(\d+\.|0\d*[_ -])(?=\D)", "", name.strip()).replace("_", " ").split())


def same(keyword: str) -> str:
    """What two spellings of a keyword have in common."""
    return " ".join(re.sub(r"[\W_]+", " ", keyword.casefold()).split())
