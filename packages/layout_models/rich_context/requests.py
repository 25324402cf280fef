"""What a caller asks of a pipeline: layouts in any of their forms, checked, and how they count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewright.layout import Layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Request:
    """One call of a pipeline.

    Attributes:
        layouts: one per image.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        guided: the loop predicts without the caption too.
        guidance_scale: of the caption, or of caption and layout together.
        layout_guidance_scale: of the layout alone; None: together.
        beta: the share of the steps that know of the layout.

    Raises:
        ValueError: ``beta`` is no share.
    """

    layouts: list[Layout]
    height: int
    width: int
    guided: bool
    guidance_scale: float
    layout_guidance_scale: float | None
    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"scheduled_sampling_beta must be in [0, 1], got {self.beta}")

    @property
    def regional(self) -> bool:
        """Whether there is anything that the base model does not do alone."""
        return self.beta > 0 and any(len(x) for x in self.layouts)

    def layout_ratio(self, guidance_scale: float) -> float:
        """The layout's guidance over the caption's, which is ``guidance_scale``."""
        return 1.0 if self.layout_guidance_scale is None else self.layout_guidance_scale / guidance_scale

    @property
    def apart(self) -> bool:
        """Whether the layout's guidance differs from the caption's."""
        return self.layout_ratio(self.guidance_scale if self.guided else 1.0) != 1

    @property
    def without(self) -> int:
        """How many predictions without a layout are made for each image, besides the one with it."""
        return int(self.guided) + int(self.apart)


def read_layouts(
    count: int, layouts: Any, boxes: Any, labels: Any, height: int, width: int, *, clip: bool = True
) -> list[Layout]:
    """One layout per prompt, whichever way they were given.

    Boxes that reach over the edge of the canvas are cut and those outside left out, with one warning that counts them.

    Args:
        count: of the prompts.
        layouts: see the pipeline; None for none.
        boxes: one layout for all prompts, in pixels.
        labels: of these boxes.
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        clip: False leaves boxes as they are.

    Raises:
        ValueError: there are not as many layouts as prompts, or one of them makes no sense; says which and why.
    """
    if boxes is not None or labels is not None:
        if layouts is not None:
            raise ValueError("either layouts or boxes and labels must be given, got both")
        if boxes is None or labels is None:
            raise ValueError(f"boxes and labels belong together, got {'labels' if boxes is None else 'boxes'} alone")
        found = [_of_pixels(boxes, labels, height, width)] * count
    else:
        given = [layouts] if isinstance(layouts, (Layout, Mapping)) else layouts
        given = [None] * count if given is None else list(given)
        if len(given) != count:
            raise ValueError(f"layouts must have one entry per prompt ({count}), got {len(given)}")
        found = [_as_layout(x, f"layouts[{i}]") for i, x in enumerate(given)]
    for number, layout in enumerate(found):
        _check(layout.boxes, "boxes" if boxes is not None else f"layouts[{number}].boxes")
    return _clipped(found) if clip else found


def _as_layout(given: Any, name: str) -> Layout:
    if given is None:
        return Layout.empty()
    if isinstance(given, Layout):
        return given
    if not isinstance(given, Mapping) or not {"boxes", "labels"} <= given.keys():
        raise ValueError(f"{name} must be a Layout or a mapping with boxes and labels, got {type(given).__name__}")
    boxes = _numbers(given["boxes"], f"{name}.boxes").float()
    if isinstance(given["labels"], str):
        raise ValueError(f"{name}.labels must be a list with one entry per box, got the text {given['labels']!r}")
    try:
        return Layout(boxes=boxes, labels=list(given["labels"]), captions=list(given.get("captions") or []))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _of_pixels(boxes: Any, labels: Any, height: int, width: int) -> Layout:
    pixels = _numbers(boxes, "boxes").double()
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list with one entry per box ({len(pixels)}), got the text {labels!r}")
    if len(labels) != len(pixels):
        raise ValueError(f"labels must have one entry per box ({len(pixels)}), got {len(labels)}")
    size = torch.tensor([width, height, width, height])
    fractions = (pixels / size).float()
    # whole pixels must stay so when the fractions are multiplied again
    low = (fractions * size).double() < pixels
    fractions = torch.where(low, fractions.nextafter(torch.tensor(torch.inf)), fractions)
    return Layout(boxes=fractions, labels=list(labels))


def _numbers(boxes: Any, name: str) -> Float[Tensor, "n 4"]:
    values = boxes.detach().cpu() if isinstance(boxes, Tensor) else torch.from_numpy(np.array(boxes, dtype=np.float64))
    values = values.reshape(0, 4) if values.numel() == 0 else values
    if values.ndim != 2 or values.shape[1] != 4:
        raise ValueError(f"{name} must have shape (n, 4), got {tuple(values.shape)}")
    return values.double()


def _check(boxes: Float[Tensor, "n 4"], name: str) -> None:
    for number, box in enumerate(boxes.tolist()):
        if not all(abs(x) < float("inf") for x in box):
            raise ValueError(f"{name}[{number}] must be finite, got {box}")
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(f"{name}[{number}] must be x_min y_min x_max y_max, got {box}")


def _clipped(layouts: list[Layout]) -> list[Layout]:
    found, cut, lost = [], 0, 0
    for layout in layouts:
        inside = _inside(layout.boxes)
        within = layout.boxes.clamp(0, 1)
        cut += int(((within != layout.boxes).any(1) & inside).sum())
        lost += int((~inside).sum())
        found.append(replace(layout, boxes=within, masks=None).keep(inside))
    if cut or lost:
        logger.warning(
            "%d boxes reach over the edge of the canvas and were cut, %d lie outside of it and were left out; layouts "
            "are in fractions of the canvas, boxes= in pixels",
            cut,
            lost,
        )
    return found


def _inside(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    return ((boxes[:, 2:] > 0) & (boxes[:, :2] < 1)).all(1)
