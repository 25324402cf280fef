"""Sentences about a scene, in the grammar that the appearance captioner uses too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scenewright.datasets.shapes.scene import Background, Scene, Thing

#: Size words, each with the share of the image that a box of that size stays below.
SIZES = (("tiny", 0.015), ("small", 0.05), ("medium", 0.13), ("large", 0.3), ("huge", math.inf))

#: Places on a grid of three rows and three columns.
PLACES = (
    ("at the upper left", "at the top", "at the upper right"),
    ("on the left", "in the center", "on the right"),
    ("at the lower left", "at the bottom", "at the lower right"),
)

_PATTERNS = {
    "plain": "{}",
    "striped": "{} with {} stripes",
    "dotted": "{} with {} dots",
    "checkered": "{} with {} checker pattern",
    "gradient": "{} fading to {}",
}

_BACKGROUNDS = {
    "plain": "a plain {} background",
    "gradient": "a background fading from {} to {}",
    "two-tone": "a two-tone {} and {} background",
    "striped": "a striped {} and {} background",
    "cloudy": "a cloudy {} background",
}

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

#: So many objects are named in the caption of a scene, so that text encoders of 77 tokens read it whole.
_NAMED = 4

#: Objects with a smaller gap are next to each other, as a share of the image's sides.
_NEXT = 0.04

#: A smaller share of an object that is hidden, or hides, goes without saying.
_OVERLAP = 0.05

#: x_min, y_min, x_max, y_max, as fractions of the image.
Box = Sequence[float]


@dataclass(frozen=True)
class Relation:
    """How an object stands to another.

    Attributes:
        kind: "partly behind", "in front of", "inside" or "next to".
        other: the index of the other.
    """

    kind: str
    other: int


@dataclass(frozen=True)
class Wording:
    """All that is said about a scene.

    Attributes:
        sizes: one size word per object.
        places: one place per object.
        relations: how each object stands to another, None where no other is near.
        captions: one sentence without a full stop per object.
        summary: the caption of the scene.
    """

    sizes: list[str]
    places: list[str]
    relations: list[Relation | None]
    captions: list[str]
    summary: str


def describe(scene: Scene, boxes: Sequence[Box]) -> Wording:
    """Put a scene into words, given the box of the visible part of each object."""
    sizes, places = [size_word(box) for box in boxes], [place(box) for box in boxes]
    relations = [_relate(scene, boxes, i) for i in range(len(boxes))]
    briefs = [_brief(thing, size) for thing, size in zip(scene.things, sizes, strict=True)]
    phrases = ["" if r is None else f", {r.kind} {with_article(label(scene.things[r.other]))}" for r in relations]
    captions = [", ".join([a + b, c]) for a, b, c in zip(briefs, phrases, places, strict=True)]
    return Wording(sizes, places, relations, captions, _summarise(scene, boxes, briefs, relations))


def label(thing: Thing) -> str:
    """Colour and shape: "red star"."""
    return f"{thing.look.colour.name} {thing.shape}"


def size_word(box: Box) -> str:
    """The size word of a box."""
    return next(word for word, limit in SIZES if _share(box) < limit)


def place(box: Box) -> str:
    """Where the middle of a box is."""
    column, row = (min(2, int(1.5 * (box[k] + box[k + 2]))) for k in (0, 1))
    return PLACES[row][column]


def with_article(words: str) -> str:
    """With "a" or "an" before it."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _share(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _brief(thing: Thing, size: str) -> str:
    look, second = thing.look, thing.look.second.name if thing.look.second else ""
    if look.pattern == "checkered":
        second = with_article(second)
    return _PATTERNS[look.pattern].format(with_article(f"{size} {label(thing)}"), second)


def _relate(scene: Scene, boxes: Sequence[Box], i: int) -> Relation | None:
    """What says most about where an object is: it is hidden, hides another, is in a ring, or beside another."""
    others = [j for j in range(len(boxes)) if j != i]
    if not others:
        return None
    areas = [thing.stamp.area for thing in scene.things]
    behind = max(others, key=lambda j: scene.hidden[i, j])
    if scene.hidden[i, behind] >= _OVERLAP * areas[i]:
        return Relation("partly behind", behind)
    before = max(others, key=lambda j: scene.hidden[j, i] / areas[j])
    if scene.hidden[before, i] >= _OVERLAP * areas[before]:
        return Relation("in front of", before)
    for j in others:
        if _is_inside(scene.things[i], scene.things[j]):
            return Relation("inside", j)
    near = min(others, key=lambda j: _gap(boxes[i], boxes[j]))
    return Relation("next to", near) if _gap(boxes[i], boxes[near]) < _NEXT else None


def _is_inside(thing: Thing, ring: Thing) -> bool:
    """Whether most of an object lies in the hole of a ring, which is half as wide as the ring or wider."""
    apart = math.dist(thing.stamp.centre, ring.stamp.centre)
    return ring.shape == "ring" and apart < 0.15 * ring.size and thing.size < 0.6 * ring.size


def _gap(a: Box, b: Box) -> float:
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3], 0.0)


def _summarise(scene: Scene, boxes: Sequence[Box], briefs: list[str], relations: list[Relation | None]) -> str:
    """How many objects, on what, the largest by name; and who hides whom where that is plain to say."""
    ground, count = _name_background(scene.background), len(briefs)
    if count == 0:
        return _sentence(f"{ground} with nothing on it")
    if count == 1:
        return _sentence(f"{briefs[0]} on {ground}")
    order = sorted(range(count), key=lambda i: -_share(boxes[i]))
    named = order if count <= _NAMED + 1 else order[:_NAMED]
    names = [briefs[i] for i in named]
    if count > len(named):
        names.append(f"{_number(count - len(named))} smaller ones")
    first = _sentence(f"{_number(count)} shapes on {ground}: {', '.join(names[:-1])} and {names[-1]}")
    labels = [label(thing) for thing in scene.things]
    for i in named:
        relation = relations[i]
        if relation is not None and relation.kind in ("partly behind", "inside") and relation.other in named:
            if labels.count(labels[i]) == labels.count(labels[relation.other]) == 1:
                return f"{first} The {labels[i]} is {relation.kind} the {labels[relation.other]}."
    return first


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _name_background(ground: Background) -> str:
    return _BACKGROUNDS[ground.kind].format(ground.first.name, ground.second.name)


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
