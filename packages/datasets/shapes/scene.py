"""What is where: a background, and objects placed back to front so that each stays recognisable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from scenewright.datasets.shapes.colours import RGB, TERMS, TONES, Colour, draw_colour
from scenewright.datasets.shapes.outlines import SHAPES, TURNS, outline
from scenewright.datasets.shapes.stamp import Stamp, rasterise, sides

PATTERNS = ("plain", "striped", "dotted", "checkered", "gradient")

#: The period of a pattern as a share of the object's diameter, from .. to; of a checkered one, the side of a square.
_PERIODS = dict.fromkeys(PATTERNS, (0.2, 0.34)) | {"checkered": (0.14, 0.25)}

BACKGROUNDS = ("plain", "gradient", "two-tone", "striped", "cloudy")

#: Smaller objects cannot show a pattern; of their diameter, in pixels.
_LEAST_PATTERNED = 14.0

#: How often a place is sought for an object before it is left out.
_ATTEMPTS = 40

_T = TypeVar("_T")


@dataclass(frozen=True)
class Rules:
    """How hard scenes are.

    Attributes:
        objects: how many, from .. to.
        visible: the share of each object that stays visible.
        patterns: share of objects that have one.
        extras: share of objects with an outline, and again with a shadow.
        crowding: share of objects that are put close to another.
        overflow: share of objects that may reach over the border of the image.
        contrast: how different objects are at least from what is behind and beside them, in CIELAB.
        backgrounds: the kinds there are.
        turn: how far objects turn, as a share of how far they may.
    """

    objects: tuple[int, int]
    visible: float
    patterns: float
    extras: float
    crowding: float
    overflow: float
    contrast: float
    backgrounds: tuple[str, ...]
    turn: float = 1.0


DIFFICULTIES = {
    "easy": Rules((1, 4), 0.95, 0.0, 0.0, 0.0, 0.0, 45.0, ("plain",)),
    "middle": Rules((1, 6), 0.7, 0.5, 0.1, 0.15, 0.0, 38.0, ("plain", "gradient", "two-tone")),
    "full": Rules((1, 12), 0.4, 0.7, 0.2, 0.25, 0.12, 32.0, BACKGROUNDS),
}


@dataclass(frozen=True)
class Background:
    """What lies behind all objects.

    Attributes:
        kind: one of ``BACKGROUNDS``.
        first: its main colour.
        second: the other colour; of a cloudy one, that of the clouds; unused in a plain one.
        angle: across the stripes, along the fade, across the border of two tones; in degrees.
        period: of the stripes, in pixels.
        place: of the border of two tones, in [-1, 1] from one end of the image to the other.
        seed: of the clouds.
    """

    kind: str
    first: Colour
    second: Colour
    angle: float
    period: float
    place: float
    seed: int

    @property
    def colours(self) -> list[Colour]:
        """Colours that are seen somewhere in it."""
        if self.kind == "plain":
            return [self.first]
        return [self.first, self.second, self.first.towards(self.second.rgb, 0.5)]


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
    edge: RGB | None
    shadow: bool


@dataclass(frozen=True, eq=False)
class Thing:
    """One object.

    Attributes:
        shape: one of ``SHAPES``.
        size: diameter of the circle that the shape fits into, in pixels.
        rotation: in degrees, clockwise, in [0, 360).
        stamp: the pixels it would cover if nothing hid it.
        look: how it is painted.
    """

    shape: str
    size: float
    rotation: float
    stamp: Stamp
    look: Look


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects over a background, back to front.

    Attributes:
        background: what is seen where no object is.
        owner: ``(height, width)``, the object that each pixel shows, -1 for the background.
        hidden: ``[i, j]``, how many pixels of object ``i`` were hidden when ``j`` came before it.
        things: back to front.
    """

    background: Background
    owner: Int[np.ndarray, "height width"]
    hidden: Int[np.ndarray, "n n"]
    things: list[Thing] = field(default_factory=list)

    def visible_fraction(self, i: int) -> float:
        """Share of an object's pixels that are neither hidden nor beyond the border."""
        return int(np.count_nonzero(self.owner == i)) / self.things[i].stamp.area


def compose(rng: Generator, rules: Rules, height: int, width: int) -> Scene:
    """A random scene; with fewer objects than drawn where no more fit."""
    count = int(rng.integers(rules.objects[0], rules.objects[1] + 1))
    scene = Scene(
        background=_draw_background(rng, rules, height, width),
        owner=np.full((height, width), -1, np.int16),
        hidden=np.zeros((count, count), np.int64),
    )
    for _ in range(count):
        _add(rng, rules, scene, count)
    return scene


def _pick(rng: Generator, options: Sequence[_T]) -> _T:
    """One of several; ``rng.choice`` is ten times slower."""
    return options[int(rng.integers(len(options)))]


def _draw_background(rng: Generator, rules: Rules, height: int, width: int) -> Background:
    kind = _pick(rng, rules.backgrounds)
    first = _draw_tone(rng)
    second = _cloud(first) if kind == "cloudy" else _draw_tone(rng)
    while kind != "cloudy" and (second.name == first.name or not 20 < second.distance([first]) < 80):
        second = _draw_tone(rng)
    return Background(
        kind=kind,
        first=first,
        second=second,
        angle=_draw_angle(rng),
        period=min(height, width) * rng.uniform(0.12, 0.3),
        place=rng.uniform(-0.35, 0.35),
        seed=int(rng.integers(2**31)),
    )


def _draw_tone(rng: Generator) -> Colour:
    tone = _pick(rng, ("", "light", "light", "dark"))
    return draw_colour(rng, _pick(rng, TONES[tone]), tone)


def _cloud(colour: Colour) -> Colour:
    """The colour of clouds in another, of the same name: lighter where that has no name of its own, else darker."""
    if colour.tone == "light" or colour.term in ("green", "blue", "purple", "black", "grey"):
        return colour.towards((255, 255, 255), 0.25 if colour.tone == "dark" or colour.term == "black" else 0.45)
    return colour.towards((0, 0, 0), 0.15 if colour.term in ("white", "yellow", "orange", "pink") else 0.35)


def _draw_angle(rng: Generator) -> float:
    """Degrees; more often straight or diagonal than anything else."""
    return 45.0 * int(rng.integers(8)) if rng.random() < 0.6 else 360 * rng.random()


def _add(rng: Generator, rules: Rules, scene: Scene, count: int) -> None:
    """Put one more object in front of the others, or none where none fits."""
    height, width = scene.owner.shape
    least = max(9.0, 0.11 * min(height, width))
    most = max(least, min(0.9 * min(height, width), 0.95 * (height * width / count) ** 0.5))
    size = most * (least / most) ** (rng.random() ** 1.5)
    shape = _pick(rng, SHAPES)
    for _ in range(_ATTEMPTS):
        rotation = rules.turn * TURNS[shape] * rng.uniform(-1, 1)
        contours = outline(shape, rng.random(), size, rotation)
        low = contours[0].min(0)
        corner = _draw_corner(rng, rules, scene, contours[0].max(0) - low)
        stamp = rasterise([contour + (corner - low) for contour in contours])
        hidden = _hides(scene, stamp, rules.visible)
        if hidden is not None:
            thing = Thing(shape, size, rotation % 360, stamp, _draw_look(rng, rules, scene, stamp, size))
            return _append(scene, thing, hidden)
        size = size if shape == "bar" else max(least, 0.93 * size)  # a bar that got thin would only get thinner


def _draw_corner(
    rng: Generator, rules: Rules, scene: Scene, extent: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, " 2"]:
    """Where the upper left corner of an object's box is to be, x and y in pixels."""
    height, width = scene.owner.shape
    last = np.maximum(1, (width, height) - extent - 1)
    if scene.things and rng.random() < rules.crowding:
        other = _pick(rng, scene.things)
        near = other.stamp.centre + (other.size + extent) * (rng.random(2) - 0.5) - extent / 2
        return np.minimum(np.maximum(near, 1), last)
    over = 0.25 * extent if rng.random() < rules.overflow else 0.0
    return 1 - over + (last - 1 + 2 * over) * rng.random(2)


def _hides(scene: Scene, stamp: Stamp, visible: float) -> Int[np.ndarray, " n"] | None:
    """Pixels of each object that a new one would hide; None where one would be lost, or the new one is."""
    region, own = stamp.crop(*scene.owner.shape)
    mask, below = stamp.mask[own], scene.owner[region]
    least = max(6, round(0.06 * min(scene.owner.shape)))
    if np.count_nonzero(mask) < visible * stamp.area or min(sides(np.ascontiguousarray(mask))) < least:
        return None
    hidden = np.bincount(below[mask] + 1, minlength=len(scene.things) + 1)[1:]
    for i in np.flatnonzero(hidden).tolist():
        other, _ = scene.things[i].stamp.crop(*scene.owner.shape)
        seen = scene.owner == i
        seen[region] &= ~mask
        left = np.ascontiguousarray(seen[other])
        if np.count_nonzero(left) < visible * scene.things[i].stamp.area or min(sides(left)) < least:
            return None
    return hidden


def _append(scene: Scene, thing: Thing, hidden: Int[np.ndarray, " n"]) -> None:
    region, own = thing.stamp.crop(*scene.owner.shape)
    scene.owner[region][thing.stamp.mask[own]] = len(scene.things)
    scene.hidden[: len(hidden), len(scene.things)] = hidden
    scene.things.append(thing)


def _draw_look(rng: Generator, rules: Rules, scene: Scene, stamp: Stamp, size: float) -> Look:
    """Colours that are seen against what is behind and beside, and a pattern where there is room for one."""
    around = scene.background.colours
    for other in (thing.look for thing in scene.things if thing.stamp.meets(stamp)):
        around = [*around, other.colour, *([other.second] if other.second else [])]
    colour = _draw_contrast(rng, rules.contrast, around)
    patterned = size >= _LEAST_PATTERNED and rng.random() < rules.patterns
    pattern = _pick(rng, PATTERNS[1:]) if patterned else "plain"
    edge = draw_colour(rng, "white" if colour.lab[0] < 45 else "black").rgb
    return Look(
        colour=colour,
        pattern=pattern,
        second=_draw_contrast(rng, 0.75 * rules.contrast, around, colour) if patterned else None,
        angle=_draw_angle(rng),
        period=max(5.0, size * rng.uniform(*_PERIODS[pattern])),
        edge=edge if rng.random() < rules.extras else None,
        shadow=rng.random() < rules.extras,
    )


def _draw_contrast(rng: Generator, least: float, around: Sequence[Colour], first: Colour | None = None) -> Colour:
    """A colour of another term than those around, that far from them, and far from ``first``; or the best there is."""
    best, highest, terms = None, -1.0, {colour.term for colour in around}
    for i in rng.permutation(len(TERMS)).tolist():
        if first is not None and TERMS[i] == first.term:
            continue
        colour = draw_colour(rng, TERMS[i])
        score = colour.distance(around) / least
        if first is not None:
            score = min(score, colour.distance([first]) / 45)
        if TERMS[i] in terms:
            score *= 0.1  # only where there is no other
        if score > highest:
            best, highest = colour, score
        if score >= 1:
            break
    assert best is not None
    return best
