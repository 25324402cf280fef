"""The page: counts by stage, each keyword's clusters with pictures, residuals, and examples of every reason."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from scenewright.evaluation.html_file import render, write

_HERE = Path(__file__).parent

#: What the stages mean, in their order.
STAGES = {
    "unreadable": "cannot be read",
    "keyword": "no originals of that keyword",
    "copy": "the same file as another",
    "evaluation": "also in the evaluation split",
    "cluster": "in a cluster far from the originals",
    "class": "looks like another class",
    "singular": "no one solution",
    "residual": "badly explained by its neighbours",
    "kept": "with a text feature",
}

_BINS = 30


@dataclass(frozen=True)
class Picture:
    """An example: a data URI, or none; what it is; and what is said of it."""

    uri: str
    key: str
    said: str


@dataclass(frozen=True)
class Cluster:
    """One cluster of a keyword. ``kept`` is None where clusters were not judged."""

    size: int
    distance: float | None
    kept: bool | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Keyword:
    """One keyword, its nearest cluster first."""

    name: str
    originals: int
    found: int
    kept: int
    threshold: float | None
    stages: tuple[tuple[str, int], ...]
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True)
class Bar:
    """Residuals from ``low`` up to ``high``: heights in percent of the highest bar."""

    low: float
    high: float
    kept: int
    dropped: int
    kept_height: float
    dropped_height: float


def write_extrapolation(
    folder: str | Path, output: str | Path, *, title: str = "", max_pictures: int = 200, thumbnail_size: int = 200
) -> Path:
    """Write the page of what ``dataset=extrapolated`` decided.

    Args:
        folder: its ``work``.
        output: the HTML file.
        title: its heading; the folder's name if empty.
        max_pictures: about so many are shown, spread evenly over keywords; all images are counted.
        thumbnail_size: the longer side of a picture, in pixels; those that are kept have 240.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: nothing is decided in the folder.
    """
    folder = Path(folder).expanduser()
    if not (folder / "ledger.jsonl").exists():
        raise FileNotFoundError(f"no ledger in {str(folder)!r}: name the `work` folder of dataset=extrapolated")
    with open(folder / "ledger.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    thumbnails = _Thumbnails(folder / "thumbnails", thumbnail_size)
    reasons = _reasons(rows, thumbnails, max(max_pictures // 4 // len(STAGES), 1))
    keywords = _keywords(rows, summary, thumbnails, max_pictures)
    text = render(
        _HERE / "page.html.j2",
        styles=[_HERE.parent / "report" / "page.css", _HERE / "page.css"],
        title=title or folder.name,
        retrieved=summary["retrieved"],
        kept=summary["stages"].get("kept", 0),
        stages=[(x, STAGES[x], summary["stages"].get(x, 0)) for x in STAGES],
        accuracy=(summary["agreement"] or {}).get("accuracy"),
        keywords=keywords,
        all_keywords=sum(x["originals"] > 0 for x in summary["keywords"].values()),
        bars=_bars(rows),
        threshold=summary["extrapolation"]["residual threshold"],
        reasons=reasons,
        notes={"pool": summary["pool"], "originals": summary["originals"], "evaluation images": summary["evaluation"]},
        settings=json.dumps(
            json.loads((folder / "settings.json").read_text(encoding="utf-8")), indent=2, ensure_ascii=False
        ),
    )
    return write(Path(output), text)


def _keywords(
    rows: Sequence[dict[str, Any]], summary: dict[str, Any], thumbnails: _Thumbnails, budget: int
) -> list[Keyword]:
    """As many keywords as there are pictures for, evenly spread."""
    members: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        members[row["keyword"], row["cluster"]].append(row)
    names = [x for x, about in summary["keywords"].items() if about["originals"]]
    clusters = sum(max(len(summary["keywords"][x]["clusters"]), 1) for x in names)
    # two pictures tell more of a cluster than one, of fewer keywords
    each = max(2, min(6, budget // max(clusters, 1)))
    count = max(1, min(len(names), budget * len(names) // max(each * clusters, 1)))
    step = max(len(names) / count, 1)
    shown = [names[int(i * step)] for i in range(min(count, len(names)))]
    return [_keyword(x, summary["keywords"][x], members, thumbnails, each) for x in shown]


def _keyword(
    name: str,
    about: dict[str, Any],
    members: dict[tuple[str, int], list[dict[str, Any]]],
    thumbnails: _Thumbnails,
    each: int,
) -> Keyword:
    found = sum(about["stages"].values())
    judged = about["clusters"] or [{"cluster": -1, "size": found, "distance": None, "kept": None}]
    clusters = [
        Cluster(
            size=x["size"],
            distance=x["distance"],
            kept=x["kept"],
            pictures=tuple(thumbnails.of(members[name, x["cluster"]], each)),
        )
        for x in judged
    ]
    return Keyword(
        name=name,
        originals=about["originals"],
        found=found,
        kept=about["stages"].get("kept", 0),
        threshold=about["threshold"],
        stages=tuple((x, n) for x, n in about["stages"].items() if x != "kept"),
        clusters=tuple(clusters),
    )


def _reasons(
    rows: Sequence[dict[str, Any]], thumbnails: _Thumbnails, each: int
) -> list[tuple[str, str, int, list[Picture], list[str]]]:
    """Of each stage its name, its meaning, how many it left out, pictures, and what was said of those without."""
    found = []
    for stage, meaning in STAGES.items():
        own = [x for x in rows if x["stage"] == stage]
        if stage != "kept" and own:
            pictures = thumbnails.of(own, each)
            plain = [f"{x['key']}: {x['reason']}" for x in own[:each]] if not pictures else []
            found.append((stage, meaning, len(own), pictures, plain))
    return found


def _bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """A histogram of the residuals, from 0 to the largest."""
    found = [(x["residual"], x["stage"] == "kept") for x in rows if x["residual"] is not None]
    if not found:
        return []
    width = max(max(x for x, _ in found), 1e-6) / _BINS
    counts = [[0, 0] for _ in range(_BINS)]
    for residual, kept in found:
        counts[min(math.floor(residual / width), _BINS - 1)][not kept] += 1
    highest = max(map(sum, counts))
    return [
        Bar(i * width, (i + 1) * width, kept, dropped, 100 * kept / highest, 100 * dropped / highest)
        for i, (kept, dropped) in enumerate(counts)
    ]


class _Thumbnails:
    """The pictures that were kept, by place."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size

    def of(self, rows: Sequence[dict[str, Any]], count: int) -> list[Picture]:
        """Up to so many of them that have a picture."""
        found = []
        for row in rows:
            if len(found) == count:
                break
            uri = self._uri(self.folder / f"{row['place']:06d}.webp")
            if uri:
                residual = "" if row["residual"] is None else f"residual {row['residual']:.3f}"
                found.append(Picture(uri, row["key"], row["reason"] or residual))
        return found

    def _uri(self, path: Path) -> str:
        """As a data URI; empty where there is none."""
        try:
            with PILImage.open(path) as opened:
                image = opened.convert("RGB")
        except OSError:
            return ""
        image.thumbnail((self.size, self.size), PILImage.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "WEBP", quality=82)
        return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
