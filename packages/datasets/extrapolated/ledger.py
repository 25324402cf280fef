"""What became of every retrieved image, kept for runs that go on, for people and for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from scenewright.datasets.extrapolated.records import Decision
from scenewright.datasets.files import whole
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

        with whole(self.folder / _TEXTS) as part:
            save_file({"text_features": texts.contiguous()}, part)
        lines = "".join(_json(asdict(x)) + "\n" for x in decisions)
        indented = [(_SUMMARY, _json(summary, indent=1) + "\n"), (_SETTINGS, _json(self.settings, indent=1) + "\n")]
        for name, text in (*indented, (_LEDGER, lines)):
            with whole(self.folder / name) as part:
                part.write_text(text, encoding="utf-8")

    def picture(self, place: int, image: Image) -> None:
        """Keep a small copy of an image."""
        small = PILImage.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        small.thumbnail((_SIDE, _SIDE), PILImage.Resampling.LANCZOS)
        with whole(self.folder / "thumbnails" / f"{place:06d}.webp") as part:
            small.save(part, "WEBP", quality=82)


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
