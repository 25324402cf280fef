"""What became of every retrieved image, kept for runs that go on, for people and for the page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from scenewright.datasets.extrapolated.records import Decision
from scenewright.layout import Image

_SETTINGS, _LEDGER, _TEXTS, _SUMMARY = "settings.json", "ledger.jsonl", "text_features.safetensors", "summary.json"

#: The longer side of the pictures for the page, in pixels.
_SIDE = 240


@dataclass(frozen=True, eq=False)
class Row:
    """One retrieved image.

    Attributes:
        decision: what became of it.
        text: the row of its text feature; -1 where it has none.
    """

    decision: Decision
    text: int


class Ledger:
    """``ledger.jsonl``, one line per retrieved image, beside the text features, the settings and a summary.

    The ledger is written last: without it, nothing counts as decided. ``thumbnails/000012.webp`` shows the image at
    place 12 of the pool's dataset, if it is an example.

    Args:
        folder: made when something is written.
        settings: all that decisions depend on.

    Raises:
        ValueError: the folder's decisions were made with other settings; it says which.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        if not self.exists():
            return
        found = json.loads((folder / _SETTINGS).read_text())
        names = [x for x in {**found, **self.settings} if found.get(x) != self.settings.get(x)]
        if names:
            raise ValueError(
                f"the images in {folder} were chosen with other settings ({', '.join(sorted(names))}): set them back, "
                f"choose another folder (work=…), or delete {folder / _LEDGER}; the features beside it may stay"
            )

    def exists(self) -> bool:
        """Whether everything is decided."""
        return (self.folder / _LEDGER).exists()

    @cached_property
    def rows(self) -> list[Row]:
        """One per retrieved image, in the order of the pool."""
        rows, kept = [], 0
        with open(self.folder / _LEDGER, encoding="utf-8") as file:
            for line in file:
                decision = Decision(**json.loads(line))
                rows.append(Row(decision, kept if decision.stage == "kept" else -1))
                kept += decision.stage == "kept"
        return rows

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Counts, thresholds and clusters."""
        return json.loads((self.folder / _SUMMARY).read_text())

    def texts(self, places: Sequence[int]) -> Float[Tensor, "n c"]:
        """Text features of these rows; nothing else is read."""
        from safetensors import safe_open

        with safe_open(self.folder / _TEXTS, "pt") as file:
            stored = file.get_slice("text_features")
            rows = [stored[i : i + 1] for i in places]
            return torch.cat(rows) if rows else torch.zeros(0, stored.get_shape()[1])

    def write(self, decisions: Sequence[Decision], texts: Float[Tensor, "kept c"], summary: Mapping[str, Any]) -> None:
        """Write all of it; several processes may, the same."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        self._whole(_TEXTS, lambda path: save_file({"text_features": texts.contiguous()}, path))
        self._whole(_SUMMARY, lambda path: path.write_text(_json(summary, indent=1) + "\n", encoding="utf-8"))
        self._whole(_SETTINGS, lambda path: path.write_text(_json(self.settings, indent=1) + "\n", encoding="utf-8"))
        lines = "".join(_json(asdict(x)) + "\n" for x in decisions)
        self._whole(_LEDGER, lambda path: path.write_text(lines, encoding="utf-8"))

    def picture(self, place: int, image: Image) -> None:
        """Keep a small copy of an image."""
        small = PILImage.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        small.thumbnail((_SIDE, _SIDE), PILImage.Resampling.LANCZOS)
        (self.folder / "thumbnails").mkdir(parents=True, exist_ok=True)
        self._whole(f"thumbnails/{place:06d}.webp", lambda path: small.save(path, "WEBP", quality=82))

    def _whole(self, name: str, write: Callable[[Path], object]) -> None:
        """A file that is there whole or not at all."""
        path = self.folder / name
        part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
        try:
            write(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
