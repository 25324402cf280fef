"""Layouts to what the layers attend to: token features, boxes, and which pixel sees which of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
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
        if not len(grounding.tokens):
            grounding.features = grounding.tokens
        if grounding.features is None:
            grounding.features = self.encode(grounding.tokens, grounding.boxes)
        if len(grounding.tokens):
            grounding.share()
        return grounding

    def encode(self, tokens: Float[Tensor, "*n c"], boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n c"]:
        """The features of tokens whose objects have these boxes, in fractions of the image; -1 for none."""
        if self.boxes:
            code = box_code(boxes.to(torch.promote_types(tokens.dtype, torch.float32)), self.frequencies)
            tokens = torch.cat([tokens, code.to(tokens.dtype)], -1)
        return self.linears(tokens)


def box_code(boxes: Float[Tensor, "*n 4"], frequencies: int = 8) -> Float[Tensor, "*n k"]:
    """Sines and cosines of the four coordinates; the frequency varies slowest, the coordinate fastest.

    Computed in float32 at least.

    Source: Cheng et al. 2024, arXiv 2409.04847; frequencies 100^(k/8) as in GLIGEN, arXiv 2301.07093.
    """
    scale = 100 ** (torch.arange(frequencies, dtype=torch.float32, device=boxes.device) / frequencies)
    angles = (
        boxes.to(torch.promote_types(boxes.dtype, scale.dtype))[..., None, None, :] * scale[:, None, None]
    )  # (*n, k, 1, 4)
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


def said_of(layout: Layout) -> list[str]:
    """What each object says: its caption, or its label where it has none."""
    return [caption or label for caption, label in zip(layout.captions or layout.labels, layout.labels, strict=True)]


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
    said = said_of(layout)
    boxes = layout.pixel_boxes(height, width).cpu().double()
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
    causal: bool = True,
) -> Grounding:
    """What the layers of a UNet need of the layouts of a batch, on the CPU but for the features.

    Args:
        canvases: one per sample; None for a sample without a layout.
        encode: the label encoder; each distinct sequence is given to it once, and none that another one begins with.
        grids: those of the canvases.
        dropped: which samples without a layout receive the learnt vector in its place (dropped in training, or the
            unconditional half of guidance); the others pass unchanged. All, if not given.
        attention_weight_scale: how much the smaller objects of an overlap are favoured; 0 not at all.
        self_attention: also say which pixels share an object.
        causal: a token's feature depends on the tokens before it alone, as CLIP's do, so what regions begin with in
            common is projected once. False for encoders that look ahead.
    """
    drops = [x is None for x in canvases] if dropped is None else list(dropped)
    rows = [i for i, x in enumerate(canvases) if x is not None]
    given = [x for x in canvases if x is not None]
    state = torch.tensor(drops, dtype=torch.float32).view(-1, 1, 1)
    if not given:
        levels = {h * w: Level(groups=(), place=torch.zeros(0, dtype=torch.long)) for h, w in grids}
        nothing = torch.zeros(0, 4)
        return Grounding(nothing, nothing, levels, rows=torch.zeros(0, dtype=torch.long), dropped=state)
    packed = _pack(given, encode, attention_weight_scale, causal)
    levels = {}
    for number, (h, w) in enumerate(grids):
        numbers = [offsets[x.ids[number].flatten()] for x, offsets in zip(given, packed.numbers, strict=True)]
        level = group_pixels(torch.cat(numbers), packed.starts, packed.lengths, packed.bias, packed.entries)
        levels[h * w] = _with_sight(level, [(x, x.ids[number]) for x in given]) if self_attention else level
    return Grounding(
        tokens=packed.tokens,
        boxes=packed.boxes,
        levels=levels,
        rows=None if len(rows) == len(canvases) else torch.tensor(rows, dtype=torch.long),
        dropped=state,
    )


@dataclass(frozen=True, eq=False)
class _Packed:
    """All tokens that are attended to, each once, and which of them each region attends to.

    ``entries`` lists tokens, one region after the other; ``numbers`` has for each canvas the number of each of its
    regions, -1 for those without attention.
    """

    tokens: Float[Tensor, "p c"]
    boxes: Float[Tensor, "p 4"]
    entries: Int[Tensor, " e"]
    bias: Float[Tensor, " e"]
    starts: Int[Tensor, " r"]
    lengths: Int[Tensor, " r"]
    numbers: list[Int[Tensor, " _r"]]


def _pack(canvases: Sequence[Canvas], encode: Encode, scale: float, causal: bool) -> _Packed:
    ids, owner, boxes = (torch.cat([getattr(x.text, name) for x in canvases]) for name in ("ids", "owner", "boxes"))
    attended, bias = torch.cat([x.text.keys for x in canvases]), torch.cat([x.text.bias(scale) for x in canvases])
    sizes = [len(x.regions) for x in canvases]
    image = np.repeat(np.arange(len(canvases)), sizes)
    rows = torch.cat([x.regions.kept for x in canvases]).nonzero()[:, 0].numpy()
    order, new, alike = _beginnings(ids.numpy()[rows], owner.numpy()[rows], image[rows], causal)
    rows = rows[order]
    # a token that another sequence says with the same words before it is taken from there
    source = np.maximum.accumulate(np.where(new, np.arange(len(rows))[:, None], 0), axis=0)
    keys = attended.numpy()[rows]
    first = new & keys
    number = np.cumsum(first.ravel()).reshape(first.shape) - 1
    needed = first.any(1)
    sequences, which = _distinct(ids.numpy()[rows[needed]])
    features = encode(torch.from_numpy(sequences))
    row, position = first.nonzero()
    flat = which[(np.cumsum(needed) - 1)[row]] * ids.shape[1] + position
    # regions in which nobody speaks say the same, whichever image they are of: they are one
    keys = keys & ~alike[:, None]
    row, position = keys.nonzero()
    lengths = torch.from_numpy(keys[~alike].sum(1))
    numbers = torch.full((len(ids),), -1)
    numbers[rows] = torch.from_numpy(np.cumsum(~alike) - 1)
    return _Packed(
        tokens=features.flatten(0, 1).index_select(0, torch.from_numpy(flat).to(features.device)),
        boxes=boxes[rows][first],
        entries=torch.from_numpy(number[source[row, position], position]),
        bias=bias[rows][keys],
        starts=lengths.cumsum(0) - lengths,
        lengths=lengths,
        numbers=list(numbers.split(sizes)),
    )


def _beginnings(ids: Any, owner: Any, image: Any, causal: bool) -> tuple[Any, Any, Any]:
    """Which sequences of an image begin alike, with the same objects' words.

    Returns:
        An order in which such sequences follow each other, ``(r,)``, longer ones first; which tokens, ``(r, t)``, are
        not those of the sequence before; and which sequences, ``(r,)``, say nothing just like the one before.
    """
    length, told = ids.shape[1], owner >= 0
    silent = ~told.any(1)
    ended = (np.cumsum(told[:, ::-1], axis=1)[:, ::-1] == 0) & ~silent[:, None]
    key = np.where(ended, np.iinfo(np.int64).max, ids * (int(owner.max(initial=0)) + 2) + owner + 1)
    key = np.concatenate([np.where(silent, 0, image + 1)[:, None], key], 1)
    order = np.argsort(_as_bytes(key), kind="stable")
    same = key[order][1:] == key[order][:-1]
    shared = np.concatenate([[0], np.where(same.all(1), length, same.argmin(1) - 1)])[: len(order)]
    if not causal:
        shared = np.where(shared == length, length, 0)
    return order, np.arange(length) >= shared[:, None], silent[order] & (shared == length)


def _distinct(rows: Any) -> tuple[Any, Any]:
    _, first, which = np.unique(_as_bytes(rows), return_index=True, return_inverse=True)
    return rows[first], which


def _as_bytes(rows: Any) -> Any:
    """Each row as one item that sorts like it."""
    return np.ascontiguousarray(rows.astype(">i8")).view(np.dtype((np.void, 8 * rows.shape[1])))[:, 0]


def _with_sight(level: Level, cells: Sequence[tuple[Canvas, Int[Tensor, "_h _w"]]]) -> Level:
    """The level with which pixels share an object with each pixel."""
    sees = torch.stack([x.regions.union[ids.flatten()][:, ids.flatten()] for x, ids in cells])
    return replace(level, sees=sees[:, None])
