"""The best and the worst images as the page shows them: small pictures, their boxes, what was asked for, scores."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from scenewright.evaluation import contact_sheet
from scenewright.evaluation.readable import known, number
from scenewright.evaluation.report.pictures import SMALL, Region, regions
from scenewright.layout import Image, Layout

Row = Mapping[str, Any]

#: Looks up an image by key and index: itself, its layout, its caption and its file's name; None if it is gone.
Picture = Callable[[str, int], tuple[Image, Layout, str, str] | None]

#: The longer side of a picture, in pixels; smaller ones are kept as they are.
_LARGEST = 640


@dataclass(frozen=True)
class Line:
    """A region in a card's list, with its score of each metric by the metric's number."""

    region: Region
    scores: Mapping[int, str]


@dataclass(frozen=True)
class Card:
    """One image, ready for the page.

    Attributes:
        picture: a data URI; empty if the image is gone.
        is_small: the browser enlarges it in whole pixels.
        scores: of the image, by the metric's number.
    """

    key: str
    index: int
    name: str
    caption: str
    width: int
    height: int
    picture: str
    is_small: bool
    lines: tuple[Line, ...]
    scores: Mapping[int, str]

    @property
    def ratio(self) -> float:
        return self.width / self.height


@dataclass(frozen=True)
class Extremes:
    """Cards by their numbers on the page: the best ones and the worst ones, each with the most extreme first."""

    best: tuple[int, ...]
    worst: tuple[int, ...]


def choose(images: Sequence[Row], name: str, higher_is_better: bool, count: int) -> tuple[list[Row], list[Row]]:
    """The best and the worst images by a score, ``count`` in all and none in both; of equal ones, the first keys."""
    scored = [x for x in images if known(x.get(name)) is not None]
    sign = -1 if higher_is_better else 1
    ranked = sorted(scored, key=lambda x: (sign * float(x[name]), str(x["key"]), x["image"]))
    several = min(count, len(ranked))
    worst = several // 2
    return ranked[: several - worst], ranked[len(ranked) - worst :][::-1]


def cards(
    names: Sequence[str],
    directions: Mapping[str, bool | None],
    images: Sequence[Row],
    objects: Sequence[Row],
    picture: Picture,
    count: int,
) -> tuple[list[Card], list[Extremes]]:
    """Of each metric the best and the worst images; one that is among them several times has one card.

    Args:
        directions: whether a higher score is a better one; None if nobody knows, then the highest come first.
    """
    chosen: dict[tuple[Any, Any], Row] = {}
    extremes = []
    for name in names:
        groups = choose(images, name, directions[name] is not False, count)
        for row in (x for group in groups for x in group):
            chosen.setdefault((row["key"], row["image"]), row)
        numbers = {place: i for i, place in enumerate(chosen)}
        extremes.append(Extremes(*(tuple(numbers[x["key"], x["image"]] for x in group) for group in groups)))
    if not names:  # nothing has a score: the first images, in the order of their keys
        first = sorted(images, key=lambda x: (str(x["key"]), x["image"]))[:count]
        chosen = {(x["key"], x["image"]): x for x in first}
    own: dict[tuple[Any, Any], dict[Any, Row]] = {place: {} for place in chosen}
    for x in objects:
        if (x["key"], x["image"]) in own:
            own[x["key"], x["image"]][x["object"]] = x
    of_images, of_regions = ({name: _fineness(rows, name) for name in names} for rows in (images, objects))
    found = []
    for place, row in chosen.items():
        scores = {i: _scores(x, of_regions) for i, x in own[place].items()}
        found.append(_card(row, _scores(row, of_images), scores, picture))
    return found, extremes


def _card(
    row: Row, scores: Mapping[int, str], regions_scores: Mapping[Any, Mapping[int, str]], picture: Picture
) -> Card:
    found = picture(row["key"], row["image"])
    image, layout, caption, name = found or (None, Layout.empty(), str(row.get("caption") or ""), "")
    height, width = (3, 4) if image is None else tuple(image.shape[1:])
    return Card(
        key=str(row["key"]),
        index=row["image"],
        name=name,
        caption=caption.strip(),
        width=width,
        height=height,
        picture="" if image is None else _data_uri(contact_sheet.picture(image, least=1, most=_LARGEST)),
        is_small=max(height, width) < SMALL,
        lines=tuple(Line(x, regions_scores.get(i, {})) for i, x in enumerate(regions(layout))),
        scores=scores,
    )


def _scores(row: Row, fineness: Mapping[str, float]) -> dict[int, str]:
    return {i: number(row[name], fine or None) for i, (name, fine) in enumerate(fineness.items()) if name in row}


def _fineness(rows: Sequence[Row], name: str) -> float:
    """What two scores must differ by to look different: about a hundredth of how far apart they lie, or 1."""
    values = {x for x in (known(row.get(name)) for row in rows) if x is not None}
    if values <= {0.0, 1.0}:
        return 10.0
    return (max(values) - min(values)) / 10


def _data_uri(image: PILImage.Image) -> str:
    """A PNG where every pixel will be seen, else a JPEG."""
    file = io.BytesIO()
    if max(image.size) < SMALL:
        image.save(file, "PNG")
        kind = "png"
    else:
        image.save(file, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()
