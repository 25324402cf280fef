"""The judging page: two pictures of one layout side by side, and which of them is better."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from scenewright.evaluation import html_file
from scenewright.evaluation.human_preference.votes import COLUMNS, Place
from scenewright.evaluation.report.pictures import SMALL, fit, regions
from scenewright.layout import Image, Layout

_FOLDER = Path(__file__).parent

QUESTION = "Which picture shows this description and this layout better?"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images of one layout, from two runs.

    Attributes:
        place: of both images in their runs.
        runs: names, as they come into the votes; the judge does not see them.
        pictures: of any size; one per run.
    """

    place: Place
    runs: tuple[str, str]
    pictures: tuple[Image, Image]
    caption: str
    layout: Layout

    def __post_init__(self) -> None:
        if self.runs[0] == self.runs[1] or not all(self.runs):
            raise ValueError(f"a pair needs two runs with different names, got {self.runs[0]!r} and {self.runs[1]!r}")


def write_judging_page(
    pairs: Iterable[Pair],
    path: str | os.PathLike[str],
    title: str,
    *,
    question: str = QUESTION,
    repeats: float = 0.0,
    picture_size: int = 768,
    seed: int = 0,
) -> Path:
    """Write one HTML file in which people choose the better picture of each pair, and which gives a CSV of votes.

    The file needs nothing beside it and no network; equal arguments give equal bytes. Which picture is on the left,
    and which question comes first, is drawn by ``seed``. What a judge has answered is kept in the browser.

    Args:
        pairs: read once; of each, the pictures are let go before the next is asked for.
        path: of the HTML file; its folder is made if it is missing.
        question: what the judge is asked.
        repeats: so large a share of the questions, 0.5 at most, is asked again half a page later with the sides
            changed, which tells whether a judge is consistent.
        picture_size: pictures whose longer side, in pixels, is longer are made smaller.

    Returns:
        ``path``.

    Raises:
        ValueError: there are no pairs; ``repeats`` or ``picture_size`` is out of range.
    """
    if not 0 <= repeats <= 0.5:
        raise ValueError(f"repeats must be a share between 0 and 0.5, got {repeats}")
    if picture_size < 1:
        raise ValueError(f"picture_size must be 1 or more, got {picture_size}")
    pictures: dict[str, int] = {}  # each once, however often it is compared
    questions = [_question(pair, pictures, picture_size) for pair in pairs]
    if not questions:
        raise ValueError("there are no pairs to judge")
    content = {"columns": COLUMNS, "questions": shuffled(questions, repeats, seed), "pictures": list(pictures)}
    return html_file.write(Path(path), render(content, title, question))


def shuffled(questions: list[dict[str, Any]], repeats: float, seed: int) -> list[dict[str, Any]]:
    """The questions in another order and with changed sides, some of them twice.

    The second time comes half of all questions after the first, with the sides changed and ``again`` set to the place
    of the first.
    """
    generator = np.random.default_rng(seed)
    count = len(questions)
    order = [questions[i] for i in generator.permutation(count)]
    once = [_turned(x) if turned else x for x, turned in zip(order, generator.random(count) < 0.5, strict=True)]
    half = (count + 1) // 2
    again = set(generator.choice(half, size=min(half, round(repeats * count)), replace=False).tolist())
    places: dict[int, int] = {}
    asked: list[dict[str, Any]] = []
    for i in range(count + half):  # the place of a question's second time, if it has one, is half the page later
        if i < count:
            places[i] = len(asked)
            asked.append(once[i])
        if i - half in again:
            asked.append({**_turned(once[i - half]), "again": places[i - half]})
    return asked


def render(content: dict[str, Any], title: str, question: str) -> str:
    """The page as text.

    Args:
        content: what the page's script is given; its hash tells this page's answers from another's.
    """
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
    return html_file.render(
        _FOLDER / "page.html.j2",
        styles=[_FOLDER / "page.css"],
        script=_FOLDER / "page.js",
        title=title,
        question=question,
        content={**content, "id": digest},
        count=len(content["questions"]),
    )


def _question(pair: Pair, pictures: dict[str, int], picture_size: int) -> dict[str, Any]:
    shown = [pictures.setdefault(_data_uri(x, picture_size), len(pictures)) for x in pair.pictures]
    lines = [
        {"label": x.label, "caption": x.caption, "colour": x.colour, "box": [round(v, 3) for v in x.box]}
        for x in regions(pair.layout)
    ]
    ratio = pair.pictures[0].shape[2] / pair.pictures[0].shape[1]
    about = {"key": pair.place.key, "image": pair.place.image, "runs": list(pair.runs), "pictures": shown}
    return {**about, "caption": pair.caption.strip(), "regions": lines, "ratio": round(ratio, 4)}


def _turned(question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "runs": question["runs"][::-1], "pictures": question["pictures"][::-1]}


def _data_uri(image: Image, longest: int) -> str:
    """WebP; without loss where pictures are small and shown enlarged."""
    pixels = PILImage.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if max(pixels.size) > longest:
        height, width = fit(pixels.height, pixels.width, longest)
        pixels = pixels.resize((width, height), PILImage.Resampling.LANCZOS, reducing_gap=3.0)
    options = {"lossless": True, "quality": 60} if max(pixels.size) <= SMALL else {"quality": 92}
    file = io.BytesIO()
    pixels.save(file, "WEBP", method=4, **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
