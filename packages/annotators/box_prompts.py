"""Boxes as prompts: what the segmenters of the SAM family share around their networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewright.batching import in_batches
from scenewright.layout import Image, Layout, RunLengths
from scenewright.networks import precision

#: Pixels of masks that are enlarged and encoded at once: 256 MB of logits.
_PIXELS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Seen:
    """A batch of images that a network has looked at, ready for prompts.

    Attributes:
        sizes: height and width at which the network saw each image, without padding.
        decode: from the place of each box's image in the batch, and the boxes in pixels of these sizes ``(m, 4)``, to
            logits ``(m, h, w)`` of any size.
        enlarge: from an image's place and logits to masks ``(m, height, width)`` at the size of the image.
    """

    sizes: list[tuple[int, int]]
    decode: Callable[[list[int], Tensor], Tensor]
    enlarge: Callable[[int, Tensor], Tensor]


def segment_boxes(
    images: Sequence[Image],
    layouts: Sequence[Layout],
    look: Callable[[list[Image]], Seen],
    *,
    batch_size: int,
    boxes_per_call: int,
    across_images: bool = True,
) -> list[list[RunLengths]]:
    """One mask per region, in the layouts' order; an image is looked at once, and not at all without regions.

    What does not fit the memory is halved: first the boxes, then the images.

    Args:
        look: takes at most ``batch_size`` images.
        boxes_per_call: at most so many boxes are decoded at once.
        across_images: whether one call may hold boxes of several images, which saves calls and padding.

    Raises:
        ValueError: a size is below 1; as many layouts as images are needed.
    """
    for name, value in (("batch_size", batch_size), ("boxes_per_call", boxes_per_call)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    def segmented(batch: list[tuple[Image, Layout]]) -> list[list[RunLengths]]:
        seen = look([image for image, _ in batch])
        prompts = []
        for i, (image, layout) in enumerate(batch):
            boxes = layout.boxes.to(image.device, torch.float32)
            prompts += [(i, box) for box in Layout(boxes, layout.labels).pixel_boxes(*seen.sizes[i])]

        def masks_of(chunk: list[tuple[int, Tensor]]) -> list[RunLengths]:
            places = [i for i, _ in chunk]
            logits = seen.decode(places, torch.stack([box for _, box in chunk])).float()
            height, width = batch[places[0]][0].shape[1:]
            masks, start = [], 0
            for i, group in groupby(places):
                height, width = batch[i][0].shape[1:]
                step, stop = max(1, _PIXELS_AT_ONCE // (height * width)), start + len(list(group))
                for first in range(start, stop, step):
                    masks += encode(seen.enlarge(i, logits[first : min(first + step, stop)]))
                start = stop
            return masks

        alike = None if across_images else lambda prompt: prompt[0]
        masks = iter(in_batches(masks_of, prompts, boxes_per_call, alike))
        return [[next(masks) for _ in range(len(layout))] for _, layout in batch]

    full = [(image, layout) for image, layout in zip(images, layouts, strict=True) if len(layout)]
    found = iter(in_batches(segmented, full, batch_size))
    return [next(found) if len(layout) else [] for layout in layouts]


def encode(masks: Bool[Tensor, "n _h _w"]) -> list[RunLengths]:
    """``RunLengths.encode``, with the columns brought together where the masks are and not on the host."""
    return RunLengths.encode(masks.transpose(1, 2).contiguous().transpose(1, 2))


def best(logits: Float[Tensor, "m k h w"], scores: Float[Tensor, "m k"]) -> Float[Tensor, "m h w"]:
    """Of each prompt's candidates, the one whose predicted IoU is highest."""
    return logits[torch.arange(len(logits), device=logits.device), scores.argmax(1)]


def thickened(image: Image, side: int) -> Image:
    """The image, its rows or columns repeated if they would vanish when its longer side is resized to ``side``."""
    height, width = image.shape[1:]
    times = -(-max(height, width) // (side * min(height, width)))
    return image if times < 2 else image.repeat_interleave(times, 1 if height < width else 2)


def ready(network: Any, encoder: Any, halved: Sequence[torch.nn.Module], dtype: str, compile: bool) -> Any:
    """A network with what sees the image at ``dtype``; prompts and masks stay exact.

    In bfloat16 a corner of a box would be known to four pixels of 1024 only, and decoding costs little.

    Args:
        encoder: the module to compile.
        halved: the modules at ``dtype``, the encoder among them.
    """
    for module in halved:
        module.to(precision(dtype))
    if compile:
        encoder.compile()
    return network.eval().requires_grad_(False)
