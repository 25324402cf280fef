"""What each cell is to show, as the smallest box over it says: a function of the words and of the place in the box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pixel_unshuffle

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.grounding import Canvas

#: Sines and cosines of the place in the box, in half turns per half box.
_FREQUENCIES = (0.5, 1.0, 2.0)

#: Whether there is a box, the place in it and its size; and the sines and cosines.
PLACE = 5 + 4 * len(_FREQUENCIES)

#: Channels besides the outline that the network may use as it likes.
_FREE = 12


class Plan(nn.Module):
    """Tells each cell the outline, and more, of the object that the smallest box over it names.

    It looks at no noise: once per image is enough. The outline may be learnt from masks.

    Args:
        text: channels of a text feature.
        cell: pixels per side of a cell.
        hidden: channels in between.

    Source: the mask as a function of the place, Mescheder et al. 2019, arXiv 1812.03828 (occupancy networks).
    """

    def __init__(self, text: int, cell: int, hidden: int = 128) -> None:
        super().__init__()
        self.cell = cell
        self.layers = nn.Sequential(
            nn.Linear(text + PLACE, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, cell**2 + _FREE),
        )

    @property
    def channels(self) -> int:
        """How many there are for each cell."""
        return PLACE + self.cell**2 + _FREE

    def forward(
        self, text: Float[Tensor, "b h w c"], places: Float[Tensor, "b h w p"]
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b q h w"]]:
        """What the cells are told, zero where there is no box; and the logits of the outline, per pixel of a cell."""
        inside = places[..., :1]
        logits, free = self.layers(torch.cat([text, places], -1)).split([self.cell**2, _FREE], -1)
        told = torch.cat([places, logits.sigmoid() * inside, free * inside], -1)
        return told.permute(0, 3, 1, 2), logits.permute(0, 3, 1, 2)


def owners(canvas: Canvas) -> tuple[Int[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The object with the smallest box over each cell of the finest grid, and where there is one."""
    regions = canvas.regions
    area = (regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(1)
    smallest, owner = torch.where(regions.coverage, area, torch.inf).min(2)
    return owner, smallest.isfinite()


def place_in_box(canvas: Canvas) -> Float[Tensor, "h w p"]:
    """Where each cell of the finest grid lies in the smallest box over it; all zero where there is none.

    Per cell: 1, the place in the box from -1 to 1 (x, y), the box's size (x, y) as a share of the canvas, and sines
    and cosines of the place.
    """
    regions = canvas.regions
    owner, inside = owners(canvas)
    height, width = owner.shape
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )  # (h, w)
    boxes = (regions.boxes / regions.boxes.new_tensor([regions.width, regions.height] * 2)).float()
    box = boxes[owner]  # (h, w, 4)
    size = box[..., 2:] - box[..., :2]
    at = (2 * (torch.stack([x, y], -1) - box[..., :2]) / size.clamp(min=1e-3) - 1).clamp(-2, 2)
    waves = [wave(f * torch.pi * at) for f in _FREQUENCIES for wave in (torch.sin, torch.cos)]
    return torch.cat([torch.ones_like(at[..., :1]), at, size, *waves], -1) * inside[..., None]


def outline_error(
    logits: Float[Tensor, "b q h w"], canvases: Sequence[Canvas | None], layouts: Sequence[Layout], cell: int
) -> Float[Tensor, ""]:
    """Cross-entropy of the outlines, in the boxes of the objects that have a mask; mean over all pixels."""
    wanted, counted = torch.zeros_like(logits), torch.zeros_like(logits[:, :1])
    for i, (canvas, layout) in enumerate(zip(canvases, layouts, strict=True)):
        if canvas is None or not layout.masks:
            continue
        owner, inside = owners(canvas)
        masks = torch.stack([mask.decode() for mask in layout.masks]).float()  # (n, height, width)
        cells = pixel_unshuffle(masks[:, None], cell)  # (n, q, h, w)
        wanted[i] = cells.gather(0, owner.expand(1, *cells.shape[1:]))[0].to(wanted)
        counted[i] = inside.to(counted)
    return (binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counted).mean()
