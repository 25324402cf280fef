"""Pages in one file: a template with its style and its script inside, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def render(template: Path, *, styles: Sequence[Path], script: Path | None = None, **values: Any) -> str:
    """A page as text; ``values`` are escaped, and no script but its own can run in it.

    Args:
        template: is given ``style``, ``script`` and ``policy`` (its content security policy) besides ``values``.
        styles: later ones win.
    """
    code = "" if script is None else script.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if code else ""
    return (
        _environment(template.parent)
        .get_template(template.name)
        .render(
            style="\n".join(x.read_text(encoding="utf-8") for x in styles),
            script=code,
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}",
            **values,
        )
    )


def write(path: Path, text: str) -> Path:
    """Write whole or not at all. Half a surrogate pair, as in odd file names, is written as its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def breakable(name: object) -> Markup:
    """A name that lines may break behind its dots, slashes and underscores, and nowhere else."""
    return Markup("<wbr>").join(re.split(r"(?<=[./_=,])(?=\w)", str(name)))


@lru_cache(maxsize=8)
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment
