"""The source: scene number i of a stream, as a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scenewright.datasets.shapes.painting import paint
from scenewright.datasets.shapes.scene import DIFFICULTIES, Background, Scene, compose
from scenewright.datasets.shapes.wording import Wording, describe, label
from scenewright.layout import Layout, RunLengths, Sample

#: Raised whenever the same arguments draw something else than before.
VERSION = 1

SPLITS = ("train", "val", "test")


class Shapes:
    """Draws scenes of coloured shapes and knows everything about them.

    Scene ``i`` is a pure function of the arguments and ``i``. Regions come back to front:
    each one may hide those before it. A mask holds the pixels that are seen and of which the object
    covers at least half, so masks are disjoint; a box is the tight box of its mask. ``metadata["objects"]`` says
    of each region what was drawn.

    Args:
        length: how many scenes there are.
        height: of the images, in pixels, at least 16.
        width: of the images, in pixels, at least 16.
        seed: another seed gives other scenes; not negative.
        split: "train", "val" or "test": three streams that share no scene.
        difficulty: "easy" (1 to 4 plain objects side by side, plain backgrounds), "middle" (1 to 6, patterns, a
            little overlap, two-coloured backgrounds) or "full" (1 to 12, patterns, occlusion, outlines, shadows,
            textured backgrounds).
        objects: fewest and most objects, up to 100, in place of the difficulty's own; as many are drawn as fit.
        turn: how far objects turn, from 0, all upright, to 1, as far as each stays what it is called.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        length: int = 1000,
        height: int = 128,
        width: int = 128,
        seed: int = 0,
        split: str = "train",
        difficulty: str = "full",
        objects: Sequence[int] | None = None,
        turn: float = 1.0,
    ) -> None:
        for name, value, least in (
            ("length", length, 0),
            ("height", height, 16),
            ("width", width, 16),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
        objects = DIFFICULTIES[difficulty].objects if objects is None else objects
        if len(objects) != 2 or not 0 <= objects[0] <= objects[1] <= 100:
            raise ValueError(f"objects must be the fewest and the most, within 0 .. 100, got {list(objects)}")
        if not 0 <= turn <= 1:
            raise ValueError(f"turn must lie within 0 .. 1, got {turn}")
        self.length, self.height, self.width = length, height, width
        self.seed, self.split, self.difficulty = seed, split, difficulty
        self.objects, self.turn = (objects[0], objects[1]), float(turn)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, self.length)

    @property
    def fingerprint(self) -> str:
        """Changes with every argument, and with ``VERSION``."""
        return " ".join([f"shapes-{VERSION}", *(f"{name}={value}" for name, value in vars(self).items())])

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """Yield scenes ``start`` to ``stop`` - 1.

        Args:
            start: the first one's index.
            stop: the index after the last one's.

        Returns:
            The scenes in order, each drawn when it is asked for.

        Raises:
            ValueError: they are not all within the dataset.
        """
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"range must lie within 0 .. {self.length}, got {start} .. {stop}")
        return (self._draw(index) for index in range(start, stop))

    def _draw(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        rules = replace(DIFFICULTIES[self.difficulty], objects=self.objects, turn=self.turn)
        scene = compose(rng, rules, self.height, self.width)
        masks = RunLengths.encode(torch.from_numpy(scene.owner == np.arange(len(scene.things))[:, None, None]))
        boxes = torch.stack([mask.box for mask in masks]) if masks else torch.zeros(0, 4)
        wording = describe(scene, boxes.tolist())
        labels = [label(thing) for thing in scene.things]
        return Sample.from_image(
            f"shapes-{self.split}-{index:08d}",
            torch.from_numpy(paint(scene).transpose(2, 0, 1).copy()),
            caption=wording.summary,
            tags=list(dict.fromkeys(labels)),
            layout=Layout(boxes=boxes, labels=labels, captions=wording.captions, masks=masks),
            metadata={
                "objects": [_record(scene, wording, i) for i in range(len(scene.things))],
                "background": _record_background(scene.background),
                "seed": self.seed,
                "split": self.split,
                "index": index,
                "difficulty": self.difficulty,
            },
        )


def _record(scene: Scene, wording: Wording, i: int) -> dict[str, Any]:
    """What was drawn as object ``i``, for JSON."""
    thing, relation = scene.things[i], wording.relations[i]
    look = thing.look
    return {
        "shape": thing.shape,
        "colour": look.colour.term,
        "rgb": list(look.colour.rgb),
        "pattern": look.pattern,
        "second_colour": look.second and look.second.term,
        "second_rgb": look.second and list(look.second.rgb),
        "size": wording.sizes[i],
        "place": wording.places[i],
        "rotation": round(thing.rotation, 2),
        "order": i,
        "visible_fraction": round(scene.visible_fraction(i), 4),
        "outline": look.edge is not None,
        "shadow": look.shadow,
        "relation": relation and {"kind": relation.kind, "object": relation.other},
    }


def _record_background(ground: Background) -> dict[str, Any]:
    named = [ground.first] if ground.kind in ("plain", "cloudy") else [ground.first, ground.second]
    return {"kind": ground.kind, "colours": [colour.name for colour in named]}
