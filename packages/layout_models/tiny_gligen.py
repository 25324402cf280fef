"""The tiny model with GLIGEN's grounding: a token for each box and its text beside the pixels of each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from scenewright.layout import Layout
from scenewright.layout_models.instance_diffusion.attach import attach, open_gates
from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens
from scenewright.layout_models.instance_diffusion.gligen import TextBoxes
from scenewright.layout_models.instance_diffusion.object_masks import covered
from scenewright.layout_models.instance_diffusion.sampler import gate
from scenewright.layout_models.instance_diffusion.unifusion import Instances
from scenewright.layout_models.rich_context.adapter import attention_grids
from scenewright.layout_models.rich_context.grounding import said_of
from scenewright.layout_models.rich_context.regions import check_boxes
from scenewright.layout_models.tiny.model import CELL, Tiny, Told

#: What is drawn at once: the number of an image, and of the one object that is drawn of it, or None for all.
Input = tuple[int, int | None]


class TinyGLIGEN(Tiny):
    """Draws scenes of shapes; pixels attend to each other and to a token for each object, of its box and text.

    Args:
        weights: a file, or None for random ones; none come along.
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout together; 1 is none.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions.
        label_share: share of the images whose objects are named by their labels in place of their captions in training.
        object_attention: pixels of an object attend to that object alone.
        alpha: the shares of the sampler's steps with the layout, fading, and without it.
        mis: the share of steps in which each object is also drawn for itself, before all are averaged.
        max_batch: how many layouts, those of single objects among them, are drawn at once; None for all.
        base: with ``weights`` None, what to begin from, as of ``Tiny``.

    Raises:
        CheckpointError: the weights are of another model.
        ValueError: ``alpha`` or ``mis`` are no shares, or ``max_batch`` is not positive.

    Source: Li et al. 2023, arXiv 2301.07093; ``mis``: Wang et al. 2024, arXiv 2402.03290, section 3.4.
    """

    changeable = (*Tiny.changeable, "alpha", "mis", "max_batch")

    #: Whether the decoder's features are rescaled.
    scaleu = False

    def __init__(
        self,
        weights: str | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.5,
        layout_drop: float = 0.1,
        caption_drop: float = 0.1,
        label_share: float = 0.5,
        object_attention: bool = False,
        alpha: Sequence[float] = (1.0, 0.0, 0.0),
        mis: float = 0.0,
        max_batch: int | None = None,
        base: str | None = None,
    ) -> None:
        gate(alpha, num_inference_steps)
        if not 0 <= mis <= 1:
            raise ValueError(f"mis is a share of the steps, from 0 to 1, got {mis}")
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        super().__init__(
            weights=weights,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            layout_drop=layout_drop,
            caption_drop=caption_drop,
            label_share=label_share,
            plan=False,
            base=base,
        )
        self.object_attention, self.alpha, self.mis, self.max_batch = object_attention, tuple(alpha), mis, max_batch

    @property
    def shipped(self) -> Path:
        """Where a file that comes with the package would be; there is none."""
        return super().shipped.with_name("gligen.safetensors")

    def _attach(self, box_code: bool) -> None:
        tokenizer = self._tokenizer(self.text_encoder.config.hidden_size)
        for name, parameter in tokenizer.named_parameters():
            parameter.requires_grad_(not name.startswith("null_"))  # nothing is padded
        attach(self.unet, tokenizer, scaleu=self.scaleu)
        open_gates(self.unet)

    def _tokenizer(self, width: int) -> nn.Module:
        return TextBoxes(width, width)

    def _tell(
        self,
        layouts: Sequence[Layout | None],
        dropped: Sequence[bool],
        seeds: Sequence[int],
        height: int,
        width: int,
    ) -> Told:
        return Told(self._instances(layouts, seeds, height, width))

    def _instances(self, layouts: Sequence[Layout | None], seeds: Sequence[int], height: int, width: int) -> Instances:
        """The objects of the layouts; images whose layout is None have none."""
        features, said = self._said(layouts)
        slots = max([1, *(len(some) for some in said)])
        valid = torch.arange(slots) < torch.tensor([len(some) for some in said])[:, None]
        which = torch.full(valid.shape, len(features) - 1)
        which[valid] = torch.cat(said)
        for x in layouts:
            if x is not None:
                check_boxes(x.boxes.numpy())
        instances = Instances(
            text=features[which.to(features.device)],
            boxes=padded([torch.zeros(0, 4) if x is None else x.boxes for x in layouts], slots),
            valid=valid,
            cells=self._cells(layouts, slots, height, width) if self.object_attention else None,
        )
        return instances.to(self.unet.device)

    def _cells(
        self, layouts: Sequence[Layout | None], slots: int, height: int, width: int
    ) -> dict[int, Bool[Tensor, "b n _l"]]:
        grids = attention_grids(self.unet, height // CELL, width // CELL)
        covered = [self._covered(Layout.empty() if x is None else x, grids) for x in layouts]
        return {pixels: padded([x[pixels] for x in covered], slots) for pixels in covered[0]}

    def _covered(self, layout: Layout, grids: Sequence[tuple[int, int]]) -> dict[int, Bool[Tensor, "n _l"]]:
        """The cells of each object on each grid, by its number of pixels."""
        return covered(layout, grids, from_masks=False)

    def _denoise(
        self,
        latents: Float[Tensor, "b c h w"],
        captions: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
    ) -> Float[Tensor, "b c h w"]:
        instances = self._instances(layouts, seeds, *(CELL * size for size in latents.shape[2:]))
        texts = [[caption, *said_of(x)] for caption, x in zip(captions, layouts, strict=True)]
        whole: list[Input] = [(i, None) for i in range(len(layouts))]
        apart = int(self.mis * self.num_inference_steps)
        inputs = whole + [(i, j) for i, x in enumerate(layouts) for j in range(len(x)) if apart]
        scheduler, parts = self._sampler(), self._parts(inputs, texts, instances)
        latents = latents[[image for image, _ in inputs]]
        for step, scale in enumerate(gate(self.alpha, self.num_inference_steps)):
            if step == apart and len(inputs) > len(whole):
                latents = together(latents, inputs, scheduler)
                parts = self._parts(whole, texts, instances)
            timestep = scheduler.timesteps[step]
            found = [
                self._guided(some, timestep, text, Told(tokens.at(scale)))
                for some, (text, tokens) in zip(
                    latents.split([len(text) // 2 for text, _ in parts]), parts, strict=True
                )
            ]
            latents = scheduler.step(torch.cat(found), timestep, latents).prev_sample
        return latents if len(latents) == len(whole) else together(latents, inputs, scheduler)

    def _parts(
        self, inputs: Sequence[Input], texts: Sequence[Sequence[str]], instances: Instances
    ) -> list[tuple[Float[Tensor, "t l d"], GroundingTokens]]:
        """Text and tokens of the inputs that are drawn at once, without caption and layout and then with them.

        Args:
            inputs: what is drawn.
            texts: the caption of each image, and what its objects say.
            instances: of the images.
        """
        size, parts = self.max_batch or len(inputs), []
        for start in range(0, len(inputs), size):
            some = inputs[start : start + size]
            captions = [texts[i][0 if j is None else j + 1] for i, j in some]
            text = self._read([""] * len(some) + captions)
            parts.append((text, self.unet.position_net(for_guidance(instances, some))))
        return parts


def for_guidance(instances: Instances, inputs: Sequence[Input]) -> Instances:
    """The inputs without their layouts, and then with them.

    An object that is drawn alone is the first one of its layout, as in a layout that has no others.
    """
    device, slots = instances.boxes.device, torch.arange(instances.valid.shape[1])
    rows = torch.tensor([i for i, _ in inputs] * 2)
    first = torch.tensor([j or 0 for _, j in inputs] * 2)
    order = ((first[:, None] + slots) % len(slots)).to(device)
    alone = torch.tensor([j is not None for _, j in inputs] * 2)
    seen = ((slots == 0) | ~alone[:, None]) & (torch.arange(len(rows)) >= len(inputs))[:, None]
    rows = rows[:, None].to(device)

    def of(x: Any) -> Any:
        return None if x is None else x[rows, order]

    valid = of(instances.valid) & seen.to(device)
    masks = of(instances.masks)
    return replace(
        instances,
        **{name: of(getattr(instances, name)) for name in ("text", "boxes", "points", "scribbles", "polygons")},
        valid=valid,
        masks=None if masks is None else masks & valid[..., None, None],
        cells=None if instances.cells is None else {pixels: of(x) for pixels, x in instances.cells.items()},
    )


def together(latents: Float[Tensor, "k c h w"], inputs: Sequence[Input], scheduler: Any) -> Float[Tensor, "b c h w"]:
    """The mean of each image's latents; the scheduler goes on with the history of whole layouts, which come first."""
    images = torch.tensor([image for image, _ in inputs], device=latents.device)
    count = int(images.max()) + 1
    scheduler.model_outputs = [None if x is None else x[:count] for x in scheduler.model_outputs]
    total = latents.new_zeros(count, *latents.shape[1:]).index_add(0, images, latents)
    return total / images.bincount()[:, None, None, None]


def padded(rows: Sequence[Tensor], slots: int) -> Tensor:
    """What each image has of its objects, zeros in slots that hold none: ``(b, slots, …)``."""
    longest = rows[0].new_zeros(slots, *rows[0].shape[1:])
    return pad_sequence([*rows, longest], batch_first=True)[:-1]
