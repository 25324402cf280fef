"""The page: of each scene its source photos, cut-outs, layout, what was pasted, and what was painted around it."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from PIL import ImageOps

from scenewright.evaluation.html_file import render, write
from scenewright.evaluation.report.pictures import COLOURS

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: ``planned`` and ``box`` are left, top, width and height in percent of the canvas."""

    label: str
    colour: str
    photo: str
    cutout: str
    name: str
    planned: tuple[float, float, float, float]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """One scene, as data URIs and plain values."""

    key: str
    ratio: float
    things: tuple[Thing, ...]
    pasted: str
    painted: str
    background: str
    background_photo: str
    prompt: str
    psnr: float | None
    asked: tuple[Mapping[str, Any], ...]


def write_compositions(
    folder: str | Path, output: str | Path, *, title: str = "", max_pictures: int = 50, thumbnail_size: int = 420
) -> Path:
    """Write the page of an album of composed scenes.

    Args:
        folder: ``work`` of ``dataset=gen4gen``.
        output: the HTML file.
        title: its heading; the folder's name if empty.
        max_pictures: scenes that are shown, evenly spread; all are counted.
        thumbnail_size: the longer side of a picture, in pixels.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: there are no composed scenes in the folder.
    """
    folder = Path(folder).expanduser()
    records = sorted(folder.glob("scenes/*/record.json"))
    if not records:
        raise FileNotFoundError(f"no composed scenes in {str(folder)!r}: name the `work` folder of dataset=gen4gen")
    step = max(len(records) / max(max_pictures, 1), 1)
    shown = [records[int(i * step)] for i in range(min(len(records), max_pictures))]
    failures = _failures(folder)
    text = render(
        _HERE / "page.html.j2",
        styles=[_HERE.parent / "report" / "page.css", _HERE / "page.css"],
        title=title or folder.name,
        rows=[_row(folder, x, thumbnail_size) for x in shown],
        scenes=len(records),
        failures=failures,
        refused=sum(failures.values()),
        settings=json.dumps(json.loads((folder / "settings.json").read_text()), indent=2, ensure_ascii=False),
    )
    return write(Path(output), text)


def _failures(folder: Path) -> dict[str, int]:
    """Why scenes were not made or photos not cut out, with how often."""
    reasons: Counter[str] = Counter()
    for path in folder.glob("scenes/*/plan.json"):
        if not (path.parent / "record.json").exists():
            reasons[str(json.loads(path.read_text()).get("error", "stopped before it was done"))] += 1
    for path in folder.glob("cutouts/**/*.json"):
        error = json.loads(path.read_text()).get("error")
        if error:
            reasons[f"cut-out: {error}"] += 1
    return dict(reasons.most_common())


def _row(folder: Path, record: Path, size: int) -> Row:
    about = json.loads(record.read_text())
    plan = json.loads(record.with_name("plan.json").read_text())
    things = []
    for i, (instance, photo, planned) in enumerate(
        zip(about["instances"], about["photos"], plan["boxes"], strict=True)
    ):
        things.append(
            Thing(
                label=instance["label"],
                colour=COLOURS[i % len(COLOURS)],
                photo=_picture(Path(about["directory"]).expanduser() / photo, size // 2),
                cutout=_picture(folder / "cutouts" / f"{photo}.png", size // 2),
                name=photo,
                planned=_percent(planned),
                box=_percent(instance["box"]),
            )
        )
    return Row(
        key=about["key"],
        ratio=about["width"] / about["height"],
        things=tuple(things),
        pasted=_picture(record.with_name("pasted.png"), size),
        painted=_picture(record.with_name("repainted.png"), size),
        background=about["background"],
        background_photo=about["background_photo"],
        prompt=about["prompt"],
        psnr=about["psnr"],
        asked=tuple(plan["log"]),
    )


def _percent(box: Sequence[float]) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = (100 * x for x in box)
    return x_min, y_min, x_max - x_min, y_max - y_min


def _picture(path: Path, size: int) -> str:
    """A small copy as a data URI, its transparency kept; empty where the file is gone."""
    try:
        with PILImage.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError:
        return ""
    if image.mode == "RGBA":  # else hidden colours would bleed over the edges
        image = image.convert("RGBa")
    image.thumbnail((size, size), PILImage.Resampling.LANCZOS)
    image = image.convert("RGBA") if image.mode == "RGBa" else image
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88, alpha_quality=100)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
