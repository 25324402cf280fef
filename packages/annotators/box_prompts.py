"""Boxes and points as prompts: what the segmenters of the SAM family share around their networks."""

from abc import ABC, abstractmethod
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

#: A mask, and the IoU that the network believes it has with what was meant: about 0 .. 1.
Scored = tuple[RunLengths, float]


@dataclass(frozen=True)
class Seen:
    """A batch of images that a network has looked at, ready for prompts.

    Attributes:
        sizes: height and width at which the network saw each image, without padding.
        decode: from the place of each prompt's image in the batch, and the prompts in pixels of these sizes, boxes
            ``(m, 4)`` or points ``(m, 2)``, to logits ``(m, h, w)`` of any size and predicted IoUs ``(m,)``.
        enlarge: from an image's place and logits to masks ``(m, height, width)`` at the size of the image.
    """

    sizes: list[tuple[int, int]]
    decode: Callable[[list[int], Tensor], tuple[Tensor, Tensor]]
    enlarge: Callable[[int, Tensor], Tensor]


def segment_prompts(
    images: Sequence[Image],
    prompts: Sequence[Float[Tensor, "_n _k"]],
    look: Callable[[list[Image]], Seen],
    *,
    batch_size: int,
    boxes_per_call: int,
    across_images: bool = True,
) -> list[list[Scored]]:
    """One mask and its predicted IoU per prompt, in order; an image is looked at once, and not at all without prompts.

    What does not fit the memory is halved: first the prompts, then the images.

    Args:
        prompts: of each image, boxes ``(n, 4)`` or points ``(n, 2)``, as fractions of it.
        look: takes at most ``batch_size`` images.
        boxes_per_call: at most so many prompts of any kind are decoded at once.
        across_images: whether one call may hold prompts of several images, which saves calls and padding.

    Raises:
        ValueError: a size is below 1; as many items of prompts as images are needed.
    """
    for name, value in (("batch_size", batch_size), ("boxes_per_call", boxes_per_call)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    def segmented(batch: list[tuple[Image, Tensor]]) -> list[list[Scored]]:
        seen = look([image for image, _ in batch])
        placed = []
        for i, (image, fractions) in enumerate(batch):
            fractions, (height, width) = fractions.to(image.device, torch.float32), seen.sizes[i]
            sides = fractions.new_tensor([width, height]).repeat(fractions.shape[1] // 2)
            placed += [(i, prompt) for prompt in fractions * sides]

        def masks_of(chunk: list[tuple[int, Tensor]]) -> list[Scored]:
            places = [i for i, _ in chunk]
            logits, scores = seen.decode(places, torch.stack([prompt for _, prompt in chunk]))
            logits, masks, start = logits.float(), [], 0
            for i, group in groupby(places):
                height, width = batch[i][0].shape[1:]
                step, stop = max(1, _PIXELS_AT_ONCE // (height * width)), start + len(list(group))
                for first in range(start, stop, step):
                    masks += encode(seen.enlarge(i, logits[first : min(first + step, stop)]))
                start = stop
            return list(zip(masks, scores.tolist(), strict=True))

        alike = None if across_images else lambda prompt: prompt[0]
        masks = iter(in_batches(masks_of, placed, boxes_per_call, alike))
        return [[next(masks) for _ in range(len(fractions))] for _, fractions in batch]

    full = [(image, some) for image, some in zip(images, prompts, strict=True) if len(some)]
    found = iter(in_batches(segmented, full, batch_size))
    return [next(found) if len(some) else [] for some in prompts]


class BoxPrompted(ABC):
    """A segmenter that looks at an image once and then cuts out what each box frames.

    Attributes:
        batch_size: images that are looked at together.
        boxes_per_call: prompts that are decoded together.
        across_images: whether these may be of several images.
    """

    batch_size: int
    boxes_per_call: int
    across_images = True

    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
        """One mask per region, in the layout's order, at the size of its image; none for no regions.

        Raises:
            ValueError: a setting is out of range; as many layouts as images are needed.
            CheckpointError: the weights are missing or of another kind.
        """
        return [[mask for mask, _ in one] for one in self.segment_scored(images, layouts)]

    @torch.inference_mode()
    def segment_scored(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[Scored]]:
        """``segment`` with the predicted IoU beside each mask."""
        return self._segment(images, [x.boxes for x in layouts])

    def _segment(self, images: Sequence[Image], prompts: Sequence[Tensor]) -> list[list[Scored]]:
        sizes = {"batch_size": self.batch_size, "boxes_per_call": self.boxes_per_call}
        return segment_prompts(images, prompts, self._look, **sizes, across_images=self.across_images)

    @abstractmethod
    def _look(self, images: list[Image]) -> Seen: ...


class PointPrompted(BoxPrompted):
    """One that takes points too."""

    @torch.inference_mode()
    def segment_points(self, images: Sequence[Image], points: Sequence[Float[Tensor, "_n 2"]]) -> list[list[Scored]]:
        """One mask and its predicted IoU per point: the best of three candidates, whatever ``multimask`` is.

        Args:
            points: ``(n, 2)`` of each image, ``x y``, as fractions of it.
        """
        return self._segment(images, points)


def as_inputs(prompts: Tensor, multimask: bool) -> dict[str, Any]:
    """Boxes or points, each of an image of its own, as transformers calls them.

    A point lies in many things, a part and a whole, so that there are three candidates whatever the setting for boxes.
    """
    if prompts.shape[1] == 2:
        return {"input_points": prompts[:, None, None], "multimask_output": True}
    return {"input_boxes": prompts[:, None], "multimask_output": multimask}


def encode(masks: Bool[Tensor, "n _h _w"]) -> list[RunLengths]:
    """``RunLengths.encode``, with the columns brought together where the masks are and not on the host."""
    return RunLengths.encode(masks.transpose(1, 2).contiguous().transpose(1, 2))


def best(
    logits: Float[Tensor, "m k h w"], scores: Float[Tensor, "m k"]
) -> tuple[Float[Tensor, "m h w"], Float[Tensor, " m"]]:
    """Of each prompt's candidates, the one whose predicted IoU is highest, and that IoU."""
    highest, places = scores.max(1)
    return logits[torch.arange(len(logits), device=logits.device), places], highest


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
