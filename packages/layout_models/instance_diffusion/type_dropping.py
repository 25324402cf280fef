"""Which kinds of locations a sample shows while training, so that a model learns to do with any of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Generator, Tensor


@dataclass(frozen=True)
class TypeDropping:
    """The mixture of a training run: each sample draws for itself.

    First box, point, scribble and mask are dropped independently. A mask that is kept keeps box and point, and a box
    keeps the point. Then a sample may be set to its point alone, or else, if it has its mask, to all but the
    scribble. A sample that would show nothing shows its box. At last the whole grounding may be dropped, which is
    what guidance needs.

    Attributes:
        each: the probability with which each type is dropped on its own.
        point_only: that of setting a sample to its point.
        no_scribble: that of setting one that has its mask to box, point and mask.
        grounding: that of dropping everything.

    Source: arXiv 2402.03290, section 3.4, and the released training code, which draws once for a whole batch.
    """

    each: float = 0.1
    point_only: float = 0.1
    no_scribble: float = 0.1
    grounding: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, got {value}")

    def draw(self, count: int, generator: Generator) -> Bool[Tensor, "count 4"]:
        """Which of box, point, scribble and mask each of ``count`` samples shows; none at all without grounding.

        Args:
            count: how many samples.
            generator: one of a seed per sample, if results shall not depend on the batch.
        """
        chance = torch.rand(count, 7, generator=generator, device=generator.device)
        box, point, scribble, mask = (chance[:, :4] >= self.each).unbind(1)
        box = box | mask
        point = point | box
        point_only = chance[:, 4] < self.point_only
        no_scribble = ~point_only & mask & (chance[:, 5] < self.no_scribble)
        box, mask = box & ~point_only, mask & ~point_only
        point, scribble = point | point_only, scribble & ~point_only & ~no_scribble
        box = box | ~(point | scribble | mask)
        shown = torch.stack([box, point, scribble, mask], 1)
        return shown & (chance[:, 6:] >= self.grounding)
