"""Sentences about a scene, in the grammar that the appearance captioner uses too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scenewright.datasets.shapes.scene import Background, Scene, Thing

#: Size words, and the share of the image that the box stays below.
SIZES = (("tiny", 0.015), ("small", 0.05), ("medium", 0.13), ("large", 0.3), ("huge", 2.0))

#: Places on a grid of three rows and three columns.
PLACES = (
    ("at the upper left", "at the top", "at the upper right"),
    ("on the left", "in the center", "on the right"),
    ("at the lower left", "at the bottom", "at the lower right"),
)

_PATTERNS = {
    "plain": "",
    "striped": "with {} stripes",
    "dotted": "with {} dots",
    "checkered": "with a {} checker pattern",
    "gradient": "fading to {}",
}

_BACKGROUNDS = {
    "plain": "a plain {0} background",
    "gradient": "a background fading from {0} to {1}",
    "two-tone": "a two-tone {0} and {1} background",
    "striped": "a striped {0} and {1} background",
    "cloudy": "a cloudy {0} background",
}

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")

#: So many objects are named one by one, so that the caption fits a text encoder of 77 tokens.
_NAMED = 5


@dataclass(frozen=True)
class Relation:
    """How an object stands to another: "partly behind", "in front of", "inside" or "next to"."""

    kind: str
    other: int


def label(thing: Thing) -> str:
    """ "red star"."""
    return f"{thing.look.colour.name} {thing.shape}"


def size_word(box: Float[np.ndarray, " 4"]) -> str:
    """The size word of a box in fractions."""
    share = float((box[2] - box[0]) * (box[3] - box[1]))
    return next(word for word, limit in SIZES if share < limit)


def place(box: Float[np.ndarray, " 4"]) -> str:
    """Where the middle of a box in fractions is."""
    column, row = (min(2, int(3 * float(a + b) / 2)) for a, b in ((box[0], box[2]), (box[1], box[3])))
    return PLACES[row][column]


def relate(scene: Scene, boxes: Float[np.ndarray, "n 4"], i: int) -> Relation | None:
    """The relation that says most about an object: hidden, hiding, inside a ring, beside."""
    areas = np.array([thing.stamp.area for thing in scene.things])
    behind, before = scene.hidden[i] / areas[i], scene.hidden[:, i] / areas
    if behind.max() >= 0.05:
        return Relation("partly behind", int(behind.argmax()))
    if before.max() >= 0.05:
        return Relation("in front of", int(before.argmax()))
    others = [j for j in range(len(boxes)) if j != i]
    for j in others:
        if (
            scene.things[j].shape == "ring"
            and (boxes[i, :2] > boxes[j, :2]).all()
            and (boxes[i, 2:] < boxes[j, 2:]).all()
        ):
            return Relation("inside", j)
    gaps = [_gap(boxes[i], boxes[j]) for j in others]
    if gaps and min(gaps) < 0.04:
        return Relation("next to", others[int(np.argmin(gaps))])
    return None


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.maximum(np.maximum(a[:2] - b[2:], b[:2] - a[2:]), 0).max())


def describe(scene: Scene, boxes: Float[np.ndarray, "n 4"], i: int) -> str:
    """The rich caption of an object."""
    relation = relate(scene, boxes, i)
    pieces = [_brief(scene.things[i], size_word(boxes[i]))]
    if relation is not None:
        pieces.append(f"{relation.kind} {with_article(label(scene.things[relation.other]))}")
    return ", ".join([*pieces, place(boxes[i])])


def summarise(scene: Scene, boxes: Float[np.ndarray, "n 4"]) -> str:
    """The caption of a scene: how many objects, on what, the largest by name."""
    ground, count = _name_background(scene.background), len(scene.things)
    if count == 0:
        return f"{ground[0].upper()}{ground[1:]} with nothing on it."
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = [int(i) for i in np.argsort(-shares, kind="stable")]
    named = order if count <= _NAMED + 1 else order[:_NAMED]
    names = [_brief(scene.things[i], size_word(boxes[i])) for i in named]
    if count == 1:
        return f"{names[0][0].upper()}{names[0][1:]} on {ground}."
    if count > len(named):
        names.append(f"{_number(count - len(named)).lower()} smaller ones")
    return f"{_number(count)} shapes on {ground}: {', '.join(names[:-1])} and {names[-1]}."


def with_article(words: str) -> str:
    """ "a red star", "an orange ring"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _brief(thing: Thing, size: str) -> str:
    look = thing.look
    words = [with_article(size), label(thing)]
    if look.second is not None:
        words.append(_PATTERNS[look.pattern].format(look.second.name))
    return " ".join(words)


def _name_background(ground: Background) -> str:
    return _BACKGROUNDS[ground.kind].format(ground.first.name, ground.second.name)


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def tags(things: Sequence[Thing]) -> list[str]:
    """The distinct labels, in the order of the objects."""
    return list(dict.fromkeys(label(thing) for thing in things))
