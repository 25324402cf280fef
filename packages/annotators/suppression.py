"""Of boxes that say the same, keep the surest."""

from typing import Protocol, runtime_checkable

import torch
from torchvision.ops import batched_nms, nms

from scenewright.layout import Layout


@runtime_checkable
class Suppressing(Protocol):
    """What a detector lets its users say about boxes that rule each other out: the options of ``suppress``."""

    nms_threshold: float | None
    class_agnostic: bool
    max_boxes: int | None
    max_area: float


def suppress(
    layout: Layout,
    *,
    nms_threshold: float | None = 0.5,
    class_agnostic: bool = True,
    max_boxes: int | None = None,
    max_area: float = 1.0,
) -> Layout:
    """The regions that remain, surest first; equal scores keep their order.

    Args:
        layout: needs ``scores``.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: at most so many.
        max_area: larger boxes go, as a fraction of the image, in (0, 1]. 1 keeps a box of the whole image.

    Raises:
        ValueError: the layout has no scores.
    """
    if max_area < 1:
        sides = (layout.boxes[:, 2:] - layout.boxes[:, :2]).clamp(min=0)
        layout = layout.keep(sides.prod(1) <= max_area)
    scores = layout.scores
    if scores is None:
        raise ValueError("boxes can only rule each other out by their scores; the layout has none")
    if nms_threshold is None:
        kept = scores.argsort(descending=True, stable=True)
    elif class_agnostic:
        kept = nms(layout.boxes, scores, nms_threshold)
    else:
        names = {label: i for i, label in enumerate(dict.fromkeys(layout.labels))}
        groups = torch.tensor([names[label] for label in layout.labels], dtype=torch.int64, device=layout.boxes.device)
        kept = batched_nms(layout.boxes, scores, groups, nms_threshold)
    return layout.keep(kept[:max_boxes])


def suppress_as(detector: Suppressing, layout: Layout) -> Layout:
    """``suppress`` with a detector's own settings; a layout without regions stays as it is."""
    if not len(layout):
        return layout
    return suppress(
        layout,
        nms_threshold=detector.nms_threshold,
        class_agnostic=detector.class_agnostic,
        max_boxes=detector.max_boxes,
        max_area=detector.max_area,
    )
