"""What is where: backgrounds and objects, placed back to front so that each stays recognisable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from numpy.random import Generator

from scenewright.datasets.shapes.colours import TERMS, TONES, Colour, distance, draw_colour
from scenewright.datasets.shapes.outlines import SHAPES, TURNS, outline
from scenewright.datasets.shapes.stamp import Stamp, rasterise

PATTERNS = ("plain", "striped", "dotted", "checkered", "gradient")
BACKGROUNDS = ("plain", "gradient", "two-tone", "striped", "cloudy")

#: Smaller objects cannot carry a pattern that is seen, in pixels of their diameter.
_PATTERN_SIZE = 16.0
_ATTEMPTS = 40
_T = TypeVar("_T")


@dataclass(frozen=True)
class Rules:
    """How hard scenes are.

    Attributes:
        objects: how many, from .. to.
        visible: the share of each object that must stay visible.
        patterns: share of objects that have one.
        extras: share of objects with an outline, and again with a shadow.
        crowding: share of objects that are put close to another.
        overflow: share of objects that may reach over the border of the image.
        backgrounds: the kinds there are.
    """

    objects: tuple[int, int]
    visible: float
    patterns: float
    extras: float
    crowding: float
    overflow: float
    backgrounds: tuple[str, ...]


DIFFICULTIES = {
    "easy": Rules((1, 4), 0.95, 0.0, 0.0, 0.0, 0.0, ("plain",)),
    "middle": Rules((1, 6), 0.7, 0.5, 0.1, 0.2, 0.0, ("plain", "gradient", "two-tone")),
    "full": Rules((1, 12), 0.4, 0.7, 0.2, 0.4, 0.12, BACKGROUNDS),
}


@dataclass(frozen=True)
class Background:
    """What lies behind all objects.

    Attributes:
        kind: one of ``BACKGROUNDS``.
        first: its main colour.
        second: the other colour; of a cloudy one, the colour of its clouds; unused for a plain one.
        angle: of the stripes, the fade or the border, in degrees.
        period: of the stripes, in pixels.
        place: of the border of a two-tone one, in [0, 1] across the image.
        seed: of the clouds.
    """

    kind: str
    first: Colour
    second: Colour
    angle: float
    period: float
    place: float
    seed: int


@dataclass(frozen=True)
class Look:
    """How an object is painted.

    Attributes:
        colour: its main colour.
        pattern: one of ``PATTERNS``.
        second: the other colour of the pattern, None for a plain one.
        angle: of the pattern, in degrees, clockwise.
        period: of the pattern, in pixels.
        edge: the colour of the outline, None without one.
        shadow: whether it throws one.
    """

    colour: Colour
    pattern: str
    second: Colour | None
    angle: float
    period: float
    edge: tuple[int, int, int] | None
    shadow: bool


@dataclass(frozen=True)
class Thing:
    """One object: what it is, how it looks, and the pixels it would cover if nothing hid it."""

    shape: str
    size: float
    rotation: float
    stamp: Stamp
    look: Look


@dataclass
class Scene:
    """Objects over a background, back to front.

    Attributes:
        owner: ``(height, width)``, the object that each pixel shows, -1 for the background.
        hidden: ``hidden[i, j]``, pixels of object ``i`` that ``j`` hides.
    """

    background: Background
    owner: Int[np.ndarray, "height width"]
    things: list[Thing] = field(default_factory=list)
    hidden: Int[np.ndarray, "n n"] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def visible(self, i: int) -> int:
        """Pixels of an object that are seen."""
        return int((self.owner == i).sum())

    def visible_fraction(self, i: int) -> float:
        """Share of an object's pixels that are neither hidden nor beyond the border."""
        return self.visible(i) / self.things[i].stamp.area


def compose(rng: Generator, rules: Rules, height: int, width: int) -> Scene:
    """A random scene; with fewer objects than drawn where no more fit."""
    scene = Scene(draw_background(rng, rules, height, width), np.full((height, width), -1, np.int16))
    count = int(rng.integers(rules.objects[0], rules.objects[1] + 1))
    for _ in range(count):
        _add(rng, rules, scene, count)
    return scene


def pick(rng: Generator, options: Sequence[_T]) -> _T:
    """One of several; ``rng.choice`` is ten times slower."""
    return options[int(rng.integers(len(options)))]


def draw_background(rng: Generator, rules: Rules, height: int, width: int) -> Background:
    """A random background."""
    kind = pick(rng, rules.backgrounds)
    first = _draw_tone(rng)
    second = _draw_tone(rng)
    for _ in range(_ATTEMPTS):
        # neighbours that are neither alike nor shrill
        if second.name != first.name and 18 < distance(second, [first.rgb]) < 75:
            break
        second = _draw_tone(rng)
    angle = pick(rng, (0.0, 90.0, 45.0, 135.0)) if rng.random() < 0.6 else 180 * rng.random()
    return Background(
        kind=kind,
        first=first,
        second=second,
        angle=angle,
        period=min(height, width) * (0.12 + 0.18 * rng.random()),
        place=0.35 + 0.3 * rng.random(),
        seed=int(rng.integers(2**31)),
    )


def _draw_tone(rng: Generator) -> Colour:
    tone = pick(rng, ("", "light", "light", "dark"))
    return draw_colour(rng, pick(rng, TONES[tone]), tone)


def _add(rng: Generator, rules: Rules, scene: Scene, count: int) -> None:
    """Put one more object in front of the others, or none where none fits."""
    height, width = scene.owner.shape
    short = min(height, width)
    least = max(9.0, 0.11 * short)
    most = max(least, min(0.85 * short, 0.95 * (height * width / count) ** 0.5))
    size = most * (least / most) ** rng.random()
    shape = pick(rng, SHAPES)
    for _ in range(_ATTEMPTS):
        rotation = TURNS[shape] * (2 * rng.random() - 1)
        contours = outline(shape, rng.random(), size, rotation)
        corner = _draw_corner(rng, rules, scene, np.ptp(contours[0], axis=0))
        stamp = rasterise([c - contours[0].min(0) + corner for c in contours])
        hidden = _hides(scene, stamp, rules.visible)
        if hidden is not None:
            look = _draw_look(rng, rules, scene, stamp, size)
            _append(scene, Thing(shape, size, rotation % 360, stamp, look), hidden)
            return
        size = max(least, 0.93 * size) if shape != "bar" else size


def _draw_corner(rng: Generator, rules: Rules, scene: Scene, extent: np.ndarray) -> np.ndarray:
    """Where the upper left corner of an object's box is to be, x and y in pixels."""
    room = np.array(scene.owner.shape[::-1]) - extent - 2
    if scene.things and rng.random() < rules.crowding:
        other = pick(rng, scene.things)
        near = other.stamp.centre + (other.size + extent) * (rng.random(2) - 0.5) - extent / 2
        return np.clip(near, np.minimum(1, room + 1), np.maximum(1, room + 1))
    margin = -0.25 * extent if rng.random() < rules.overflow else np.ones(2)
    return margin + (room + 2 - 2 * margin) * rng.random(2)


def _hides(scene: Scene, stamp: Stamp, visible: float) -> np.ndarray | None:
    """Pixels of each object that a new one would hide; None where one would be lost, or the new one is."""
    least = max(6, round(0.06 * min(scene.owner.shape)))
    mask = stamp.within(scene.owner.shape)
    if mask.area < visible * stamp.area or min(mask.sides) < least:
        return None
    hidden = np.bincount(scene.owner[mask.region][mask.pixels] + 1, minlength=len(scene.things) + 1)[1:]
    for i in np.flatnonzero(hidden):
        seen = scene.owner == i
        seen[mask.region] &= ~mask.pixels
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        if seen.sum() < visible * scene.things[i].stamp.area or min(np.ptp(rows), np.ptp(columns)) + 1 < least:
            return None
    return hidden


def _append(scene: Scene, thing: Thing, hidden: np.ndarray) -> None:
    mask = thing.stamp.within(scene.owner.shape)
    scene.owner[mask.region][mask.pixels] = len(scene.things)
    scene.things.append(thing)
    scene.hidden = np.pad(scene.hidden, (0, 1))
    scene.hidden[:-1, -1] = hidden


def _draw_look(rng: Generator, rules: Rules, scene: Scene, stamp: Stamp, size: float) -> Look:
    """Colours that are seen against what is behind and beside, and a pattern where there is room for one."""
    behind = _colours_around(scene, stamp)
    colour = _draw_contrast(rng, behind, 32.0)
    pattern = pick(rng, PATTERNS[1:]) if rng.random() < rules.patterns and size >= _PATTERN_SIZE else "plain"
    second = None if pattern == "plain" else _draw_contrast(rng, behind, 22.0, colour)
    edge = None
    if rng.random() < rules.extras:
        edge = draw_colour(rng, "white" if max(colour.rgb) < 130 else "black").rgb
    return Look(
        colour=colour,
        pattern=pattern,
        second=second,
        angle=pick(rng, (0.0, 45.0, 90.0, 135.0)) if rng.random() < 0.6 else 360 * rng.random(),
        period=max(5.5, size * (0.2 + 0.14 * rng.random())),
        edge=edge,
        shadow=bool(rng.random() < rules.extras),
    )


def _colours_around(scene: Scene, stamp: Stamp) -> list[tuple[int, int, int]]:
    """The colours that an object has to stand out from."""
    ground = scene.background
    colours = [ground.first.rgb]
    if ground.kind != "plain":
        middle = np.mean([ground.first.rgb, ground.second.rgb], axis=0).round().astype(int)
        colours += [ground.second.rgb, (int(middle[0]), int(middle[1]), int(middle[2]))]
    for thing in scene.things:
        if thing.stamp.meets(stamp):
            colours += [c.rgb for c in (thing.look.colour, thing.look.second) if c is not None]
    return colours


def _draw_contrast(
    rng: Generator, behind: list[tuple[int, int, int]], least: float, first: Colour | None = None
) -> Colour:
    """A colour at least so far from those behind, and farther from the object's first; else the farthest there is."""
    best, farthest = None, -1.0
    for i in rng.permutation(len(TERMS)):
        if first is not None and TERMS[i] == first.term:
            continue
        colour = draw_colour(rng, TERMS[i])
        score = distance(colour, behind) / least
        if first is not None:
            score = min(score, distance(colour, [first.rgb]) / 45)
        if score >= 1:
            return colour
        if score > farthest:
            best, farthest = colour, score
    assert best is not None
    return best
