"""Layouts to what the layers attend to: token features, boxes, and which pixel sees which of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.compat import compat_text, draw
from scenewright.layout_models.rich_context.region_text import RegionText, Tokenizer, region_text
from scenewright.layout_models.rich_context.regional_attention import Grounding, Level, group_pixels
from scenewright.layout_models.rich_context.regions import Grid, Regions, partition_grids


class GroundingEncoder(nn.Module):
    """Joins each token's text feature with the box of its object.

    Args:
        dim: channels of a token, in and out.
        boxes: False leaves the boxes out, which is the ablation V1 of the released code.
        hidden: channels in between.
        frequencies: of the box code.

    Source: Cheng et al. 2024, arXiv 2409.04847, "sequenced grounding encoding"; parameters are named as in the released
    weights (``TextEmbeddingNetV2``). ``null_text_feature`` stands for padded slots there; nothing is padded
    here, so it is kept but not trained.
    """

    def __init__(self, dim: int, *, boxes: bool = True, hidden: int = 512, frequencies: int = 8) -> None:
        super().__init__()
        self.boxes, self.frequencies = boxes, frequencies
        width = dim + (8 * frequencies if boxes else 0)
        self.linears = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim)
        )
        self.null_text_feature = nn.Parameter(torch.zeros(width), requires_grad=False)

    def forward(self, grounding: Grounding) -> Grounding:
        """The same grounding with its features; those that are there are kept."""
        if grounding.features is None:
            grounding.features = self.encode(grounding.tokens, grounding.boxes)
        return grounding

    def encode(self, tokens: Float[Tensor, "*n c"], boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n c"]:
        """The features of tokens whose objects have these boxes, in fractions of the image; -1 for none."""
        if self.boxes:
            tokens = torch.cat([tokens, box_code(boxes, self.frequencies).to(tokens.dtype)], -1)
        return self.linears(tokens)


def box_code(boxes: Float[Tensor, "*n 4"], frequencies: int = 8) -> Float[Tensor, "*n k"]:
    """Sines and cosines of the four coordinates; the frequency varies slowest, the coordinate fastest.

    Always computed in float32.

    Source: Cheng et al. 2024, arXiv 2409.04847; frequencies 100^(k/8) as in GLIGEN, arXiv 2301.07093.
    """
    scale = 100 ** (torch.arange(frequencies, dtype=torch.float32, device=boxes.device) / frequencies)
    angles = boxes.float()[..., None, None, :] * scale[:, None, None]  # (*n, k, 1, 4)
    return torch.cat([angles.sin(), angles.cos()], -2).flatten(-3)


@dataclass(frozen=True, eq=False)
class Canvas:
    """One layout, cut into regions and tokenised; it depends on no weights.

    Attributes:
        regions: of all grids.
        ids: ``(h, w)`` for each grid, the region of each cell.
        text: of the regions.
    """

    regions: Regions
    ids: list[Int[Tensor, "_h _w"]]
    text: RegionText


def canvas(
    layout: Layout,
    height: int,
    width: int,
    grids: Sequence[Grid],
    tokenizer: Tokenizer,
    *,
    cell: int = 8,
    compat: bool = False,
    slots: int = 30,
    seed: int = 0,
) -> Canvas:
    """Prepare a layout for an image of ``height`` by ``width`` pixels.

    An object says its caption, or its label where it has none.

    Args:
        layout: what is where.
        height: of the image, in pixels.
        width: of the image, in pixels.
        grids: those on which the UNet attends to text.
        tokenizer: of the label encoder.
        cell: pixels per side of a cell, in which areas are counted.
        compat: as the reference, defects included.
        slots: with ``compat``, so many regions get attention.
        seed: with ``compat``, which ones, if there are more.

    Raises:
        ValueError: a box is not finite or inverted, or the canvas is not a whole number of cells.
    """
    said = [caption or label for caption, label in zip(layout.captions or layout.labels, layout.labels, strict=True)]
    boxes = layout.pixel_boxes(height, width).double().cpu()
    regions, ids = partition_grids(boxes, height, width, grids, cell=cell, compat=compat)
    if not compat:
        return Canvas(regions=regions, ids=ids, text=region_text(regions, said, tokenizer))
    regions, order = draw(regions, slots, seed)
    return Canvas(regions=regions, ids=ids, text=compat_text(regions, order, said[: len(regions.boxes)], tokenizer))


#: Token ids to features, ``(u, t)`` to ``(u, t, c)``.
Encode = Callable[[Int[Tensor, "u t"]], Float[Tensor, "u t c"]]


def ground(
    canvases: Sequence[Canvas | None],
    encode: Encode,
    grids: Sequence[Grid],
    *,
    dropped: Sequence[bool] | None = None,
    attention_weight_scale: float = 1.0,
    self_attention: bool = False,
) -> Grounding:
    """What the layers of a UNet need of the layouts of a batch, on the CPU but for the features.

    Args:
        canvases: one per sample; None for a sample without a layout.
        encode: the label encoder; each distinct sequence is given to it once.
        grids: those of the canvases.
        dropped: which samples without a layout receive the learnt vector in its place (dropped in training, or the
            unconditional half of guidance); the others pass unchanged. All, if not given.
        attention_weight_scale: how much the smaller objects of an overlap are favoured; 0 not at all.
        self_attention: also say which pixels share an object.
    """
    drops = [x is None for x in canvases] if dropped is None else list(dropped)
    rows = [i for i, x in enumerate(canvases) if x is not None]
    given = [x for x in canvases if x is not None]
    packed = _pack(given, encode, attention_weight_scale)
    levels = {}
    for number, (h, w) in enumerate(grids):
        numbers = [offsets[x.ids[number].flatten()] for x, offsets in zip(given, packed.numbers, strict=True)]
        if numbers:
            level = group_pixels(torch.cat(numbers), packed.starts, packed.lengths, packed.bias)
            levels[h * w] = _with_sight(level, [(x, x.ids[number]) for x in given]) if self_attention else level
        else:
            levels[h * w] = Level(groups=(), place=torch.zeros(0, dtype=torch.long))
    return Grounding(
        tokens=packed.tokens,
        boxes=packed.boxes,
        levels=levels,
        rows=None if len(rows) == len(canvases) else torch.tensor(rows, dtype=torch.long),
        dropped=torch.tensor(drops, dtype=torch.float32).view(-1, 1, 1),
    )


@dataclass(frozen=True, eq=False)
class _Packed:
    """All tokens that are attended to, one region after the other.

    ``numbers`` has for each canvas the packed number of each of its regions, -1 for those without attention.
    """

    tokens: Float[Tensor, "p c"]
    boxes: Float[Tensor, "p 4"]
    bias: Float[Tensor, " p"]
    starts: Int[Tensor, " r"]
    lengths: Int[Tensor, " r"]
    numbers: list[Int[Tensor, " _r"]]


def _pack(canvases: Sequence[Canvas], encode: Encode, scale: float) -> _Packed:
    ids = torch.cat([x.text.ids for x in canvases]) if canvases else torch.zeros(0, 1, dtype=torch.long)
    keys = torch.cat([x.text.keys for x in canvases]) if canvases else ids.bool()
    silent = torch.cat([(x.text.owner < 0).all(1) for x in canvases]) if canvases else ids.bool()[:, 0]
    kept = torch.cat([x.regions.kept for x in canvases]) if canvases else silent
    # regions in which nobody speaks all say the same, whichever image they are of: they are one
    chosen = kept & ~silent
    first_silent = (kept & silent).nonzero()[:1, 0]
    order = torch.cat([first_silent, chosen.nonzero()[:, 0]])
    number = torch.full((len(ids),), -1)
    number[kept & silent] = 0
    number[chosen] = torch.arange(int(chosen.sum())) + len(first_silent)
    sequences, which = torch.unique(ids[order], dim=0, return_inverse=True)
    features = encode(sequences)
    attended = keys[order]
    lengths = attended.sum(1)
    region, position = attended.nonzero(as_tuple=True)
    flat = (which[region] * features.shape[1] + position).to(features.device)
    bias = torch.cat([x.text.bias(scale) for x in canvases])[order] if canvases else attended.float()
    boxes = torch.cat([x.text.boxes for x in canvases])[order] if canvases else torch.zeros(0, 1, 4)
    return _Packed(
        tokens=features.flatten(0, 1).index_select(0, flat),
        boxes=boxes[attended],
        bias=bias[attended],
        starts=lengths.cumsum(0) - lengths,
        lengths=lengths,
        numbers=list(number.split([len(x.regions) for x in canvases])),
    )


def _with_sight(level: Level, cells: Sequence[tuple[Canvas, Int[Tensor, "_h _w"]]]) -> Level:
    """The level with which pixels share an object with each pixel."""
    sees = torch.stack([x.regions.union[ids.flatten()][:, ids.flatten()] for x, ids in cells])
    return Level(groups=level.groups, place=level.place, unseen=level.unseen, sees=sees[:, None])
