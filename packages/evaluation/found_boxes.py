"""What a detector finds of a layout, and how far boxes agree: for all metrics that look for objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from scenewright.layout import Image, Layout
from scenewright.protocols import Detector


def category(label: str) -> str:
    """What makes labels the same thing: their words, whatever the case and the space around them."""
    return " ".join(label.split()).casefold()


def look_for(detector: Detector, generated: Sequence[Image], layouts: Sequence[Layout]) -> list[Layout]:
    """What the detector finds in each image of its layout's labels, each asked for once; on the CPU.

    Labels are categories. What a closed-set detector finds besides is there too.

    Raises:
        ValueError: the detector returned another number of results than it was given images.
    """
    found = detector.detect(generated, [_tags(x) for x in layouts])
    if len(found) != len(generated):
        raise ValueError(f"{type(detector).__name__} returned {len(found)} layouts for {len(generated)} images")
    return [replace(x.to("cpu"), labels=[category(label) for label in x.labels]) for x in found]


def _tags(layout: Layout) -> list[str]:
    """A layout's labels as a detector is asked for them: each once, as it is first spelled."""
    spellings: dict[str, str] = {}
    for label in layout.labels:
        spellings.setdefault(category(label), " ".join(label.split()))
    return [tag for tag in spellings.values() if tag]


def unnamed(layout: Layout) -> list[str]:
    """For people, why a region cannot be looked for; nothing if all can."""
    places = [i for i, label in enumerate(layout.labels) if not category(label)]
    return [f"regions without a label cannot be looked for: {', '.join(map(str, places))}"] if places else []


def ious(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """The IoU of every box with every other one, in double precision; 0 for boxes without area."""
    return box_iou(boxes.cpu().double(), others.cpu().double()).nan_to_num(0.0)
