"""What the rooms of the composer hand to each other: concepts, cut-outs, plans, canvases and jobs for repainting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from scenewright.layout import Image


@dataclass(frozen=True)
class Concept:
    """One personal thing and its photos.

    Attributes:
        key: its folder, ``scene/object``: unique.
        name: what it is called in prompts and labels: the object's folder without digits, underscores as spaces.
        photos: its files, sorted; at least one.
    """

    key: str
    name: str
    photos: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Cutout:
    """A concept cut out of one photo, cropped to what of it can be seen.

    Attributes:
        image: ``(3, h, w)``, straight colour: not multiplied with alpha, and sound where alpha is small.
        alpha: ``(h, w)`` in [0, 1].
        name: of the concept.
        concept: its key.
        photo: the file it comes from, below the folder of the concepts.
        confidence: how sure the segmenter was that something stands out, in [0, 1].
    """

    image: Image
    alpha: Float[Tensor, "_h _w"]
    name: str
    concept: str = ""
    photo: str = ""
    confidence: float = 1.0


@dataclass(frozen=True)
class LayoutRequest:
    """What is to be placed on one canvas.

    Attributes:
        names: of the concepts, in the caller's order; a name may occur more than once.
        aspects: width over height of each cut-out.
        height, width: of the canvas in pixels.
        backgrounds: phrases to choose from ("in the garden"); none: the planner proposes some.
        seed: of this canvas, not negative.

    Raises:
        ValueError: there is nothing to place, an aspect is missing or no positive number, or the canvas has no pixels.
    """

    names: tuple[str, ...]
    aspects: tuple[float, ...]
    height: int
    width: int
    backgrounds: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.aspects):
            raise ValueError(f"each of one or more names needs an aspect, got {self.names} and {self.aspects}")
        if not all(0 < x < math.inf for x in self.aspects):
            raise ValueError(f"aspects must be positive numbers, got {self.aspects}")
        if min(self.height, self.width) < 1 or self.seed < 0:
            raise ValueError(
                f"a canvas needs pixels and a seed that is not negative, got {self.height} x {self.width}, {self.seed}"
            )


@dataclass(frozen=True, eq=False)
class LayoutPlan:
    """Where each thing goes, or why that is not known.

    Attributes:
        boxes: ``(n, 4)``, ``x_min y_min x_max y_max`` as fractions of the canvas, one per name of the request and in
            its order; None where planning failed.
        background: the phrase that the layout was made for.
        ratios: real sizes relative to the largest thing, one per name, or none.
        log: for people and for replaying: of each attempt the prompt, the reply, the settings, and why it was refused.
        error: why there are no boxes; empty for all others.
    """

    boxes: Float[Tensor, "n 4"] | None
    background: str = ""
    ratios: tuple[float, ...] = ()
    log: Sequence[Mapping[str, object]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, eq=False)
class Pasted:
    """One cut-out on its canvas.

    Attributes:
        alpha: ``(H, W)`` in [0, 1], of the whole canvas, as pasted: what lies above it is not taken off.
        visible: likewise, with what lies above taken off.
        corner: left and top of the pasted picture in pixels of the canvas.
        size: height and width of the pasted picture in pixels.
        order: 0 for what was pasted first, at the bottom.
        flipped: mirrored left to right.
        angle: degrees it was turned, counter-clockwise.
        shift: pixels it was moved to the right and down, away from where its box has it.
    """

    alpha: Float[Tensor, "_h _w"]
    visible: Float[Tensor, "_h _w"]
    corner: tuple[int, int]
    size: tuple[int, int]
    order: int
    flipped: bool = False
    angle: float = 0.0
    shift: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Composition:
    """Cut-outs pasted on an empty canvas.

    Attributes:
        image: ``(3, H, W)``: their colours over black, multiplied with the union alpha.
        alpha: ``(H, W)`` in [0, 1], the union ``1 - Π(1 - a)``.
        pasted: one per cut-out, in the order of the plan.
    """

    image: Image
    alpha: Float[Tensor, "_h _w"]
    pasted: Sequence[Pasted]


@dataclass(frozen=True, eq=False)
class RepaintJob:
    """A canvas that is to get its background.

    Attributes:
        composition: what stays.
        background: a photo of any size, or None for noise.
        prompt: the whole of it ("a realistic photo of in a garden").
        seed: of this canvas.
    """

    composition: Composition
    background: Image | None
    prompt: str
    seed: int = 0


@runtime_checkable
class Planner(Protocol):
    """Places things. One plan per request, in order; what it plans for a request does not depend on the others."""

    def plan(self, requests: Sequence[LayoutRequest]) -> list[LayoutPlan]: ...


@runtime_checkable
class Repainter(Protocol):
    """Paints what is around the pasted things. One image per job, in order, of the canvas's size."""

    def repaint(self, jobs: Sequence[RepaintJob]) -> list[Image]: ...
