"""The tiny model with InstanceDiffusion's grounding: boxes, points, scribbles and masks as tokens, and ScaleU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenewright.layout import Layout
from scenewright.layout_models.instance_diffusion.mask_points import (
    POLYGON_POINTS,
    SCRIBBLE_POINTS,
    in_fractions,
    polygon,
    resampled,
    scribble,
)
from scenewright.layout_models.instance_diffusion.object_masks import covered
from scenewright.layout_models.instance_diffusion.type_dropping import TypeDropping
from scenewright.layout_models.instance_diffusion.unifusion import Instances, UniFusion
from scenewright.layout_models.tiny.model import Told
from scenewright.layout_models.tiny_gligen import TinyGLIGEN, padded


class TinyInstanceDiffusion(TinyGLIGEN):
    """Draws scenes of shapes; pixels attend to tokens of all that is known of where each object is.

    A layout that has masks is told their outlines, and scribbles in them where it has none of its own. In training each
    image shows some of these kinds only.

    Args:
        type_drop: the probability with which each kind of location is dropped in training.
        object_attention: pixels of an object attend to it alone, as in the paper; in the released code it is off.
        alpha: as of ``TinyGLIGEN``, as all others are.

    Source: Wang et al. 2024, arXiv 2402.03290.
    """

    scaleu = True

    def __init__(
        self,
        weights: str | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.5,
        layout_drop: float = 0.1,
        caption_drop: float = 0.1,
        label_share: float = 0.5,
        type_drop: float = 0.1,
        object_attention: bool = True,
        alpha: Sequence[float] = (0.8, 0.0, 0.2),
        mis: float = 0.0,
        max_batch: int | None = None,
        base: str | None = None,
    ) -> None:
        super().__init__(
            weights=weights,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            layout_drop=layout_drop,
            caption_drop=caption_drop,
            label_share=label_share,
            object_attention=object_attention,
            alpha=alpha,
            mis=mis,
            max_batch=max_batch,
            base=base,
        )
        # layouts are dropped as those of all tiny models are
        self.types = TypeDropping(each=type_drop, grounding=0.0)

    @property
    def shipped(self) -> Path:
        """Where a file that comes with the package would be; there is none."""
        return super().shipped.with_name("instance_diffusion.safetensors")

    def _tokenizer(self, width: int) -> nn.Module:
        # the backbone sees masks of 32 pixels at twice their size, and makes one token of them
        return UniFusion(width, width, 64, bands=4, resolution=64, depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))

    def _tell(
        self,
        layouts: Sequence[Layout | None],
        dropped: Sequence[bool],
        seeds: Sequence[int],
        height: int,
        width: int,
    ) -> Told:
        instances = self._instances(layouts, seeds, height, width)
        # not the numbers that noise and timestep are made of, which are the first ones of the seed itself
        own = [int(_random(seed, 1).integers(2**63)) for seed in seeds]
        kept = [self.types.draw(1, torch.Generator().manual_seed(seed)) for seed in own]
        return Told(replace(instances, kept=torch.cat(kept).to(self.unet.device)))

    def _instances(self, layouts: Sequence[Layout | None], seeds: Sequence[int], height: int, width: int) -> Instances:
        instances = super()._instances(layouts, seeds, height, width)
        each = [
            locations(Layout.empty() if x is None else x, seed, height, width)
            for x, seed in zip(layouts, seeds, strict=True)
        ]
        slots = instances.valid.shape[1]
        found = {name: padded([getattr(x, name) for x in each], slots) for name in vars(each[0])}
        return replace(instances, **found).to(self.unet.device)

    def _covered(self, layout: Layout, grids: Sequence[tuple[int, int]]) -> dict[int, Bool[Tensor, "n _l"]]:
        return covered(layout, grids)


@dataclass(frozen=True, eq=False)
class Locations:
    """Where the objects of one layout are, besides their boxes; as in ``Instances``, for one image."""

    points: Float[Tensor, "n 2"]
    scribbles: Float[Tensor, "n 40"]
    polygons: Float[Tensor, "n 512"]
    masks: Bool[Tensor, "n h w"]


def locations(layout: Layout, seed: int, height: int, width: int) -> Locations:
    """All that a layout tells of its objects, zeros where it has no mask or scribble of one.

    An object without a point has one in the middle of its box. What is drawn at random comes from the seed.
    """
    random = _random(seed, 2)
    centres = (layout.boxes[:, :2] + layout.boxes[:, 2:]) / 2
    points = centres if layout.points is None else torch.where(layout.points.isnan(), centres, layout.points)
    masks = torch.zeros(len(layout), height, width, dtype=torch.bool)
    scribbles = np.zeros((len(layout), SCRIBBLE_POINTS, 2))
    polygons = np.zeros((len(layout), POLYGON_POINTS, 2))
    for i, mask in enumerate(layout.masks or []):
        masks[i] = mask.resized(height, width).decode()
        scribbles[i] = in_fractions(scribble(masks[i].numpy(), random), height, width)
        polygons[i] = in_fractions(polygon(masks[i].numpy(), random), height, width)
    for i, given in enumerate(layout.scribbles or []):
        if len(given):
            scribbles[i] = resampled(given.numpy())
    scribbled, outlined = (torch.from_numpy(x).float().flatten(1) for x in (scribbles, polygons))
    return Locations(points, scribbled, outlined, masks)


def _random(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([purpose, seed % 2**64])
