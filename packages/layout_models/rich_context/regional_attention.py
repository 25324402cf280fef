"""Attention in which each pixel sees the text of its own region only.

The definition: every region attends with all pixels, its result is kept inside it, results
are summed. Since regions are disjoint, that is one query projection, one attention of each
pixel over the tokens of its region, and one output projection, which is what is done here:
pixels are gathered into groups of one region each, groups of similar length are padded and
attended to in one call, and the results go back to their places.

Source: Cheng et al. 2024, arXiv 2409.04847, section 3 (regional cross-attention). Parameters are named as in the
released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

#: Regions whose numbers of tokens are rounded up to the same one of these are attended to in one call.
_PADDED_TOKENS = (16, 32, 80)

#: And these are padded to a multiple of this, which fused kernels want of a mask.
_ALIGNED = 8

#: Pixels in a row of a group, or as many as the largest region has.
_ROW_LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)

#: Fetching a key for a group costs as much as this many queries attending to it (measured on a CPU).
_FETCH = 24


@dataclass(frozen=True, eq=False)
class Group:
    """Pixels and the tokens they attend to, in rows that are padded to one length.

    Attributes:
        pixels: ``(g, q)``, indices into all pixels of the samples that have a layout.
        tokens: ``(g, t)``, indices into the grid's tokens.
        bias: ``(g, 1, 1, t)``, added to the logits; -inf where a row has no further token.
    """

    pixels: Int[Tensor, "g q"]
    tokens: Int[Tensor, "g t"]
    bias: Float[Tensor, "g 1 1 t"]


@dataclass(frozen=True, eq=False)
class Level:
    """How the pixels of one grid are grouped.

    Attributes:
        groups: one for each attention call.
        place: ``(m * l,)``, where in the groups' results, laid end to end, each pixel finds its own.
        unseen: ``(m * l, 1)``, pixels whose region gets no attention; None where there is none.
        sees: ``(m, 1, l, l)``, which pixels share an object with each pixel; None unless asked for.
        tokens: ``(u,)``, those of all tokens that this grid's regions attend to; None for all.
    """

    groups: tuple[Group, ...]
    place: Int[Tensor, " ml"]
    unseen: Bool[Tensor, "ml 1"] | None = None
    sees: Bool[Tensor, "m 1 l l"] | None = None
    tokens: Int[Tensor, " u"] | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Level:
        """The same on ``device``, with the biases in ``dtype``."""
        return Level(
            groups=tuple(
                Group(x.pixels.to(device), x.tokens.to(device), x.bias.to(device, dtype)) for x in self.groups
            ),
            place=self.place.to(device),
            unseen=None if self.unseen is None else self.unseen.to(device),
            sees=None if self.sees is None else self.sees.to(device),
            tokens=None if self.tokens is None else self.tokens.to(device),
        )


@dataclass(eq=False)
class Grounding:
    """The layouts of a batch, as the layers of a UNet need them.

    Attributes:
        tokens: ``(p, c)``, text features of all tokens that are attended to, of all samples.
        boxes: ``(p, 4)``, the box of each token's object, in fractions; -1 for none.
        levels: by number of pixels.
        rows: ``(m,)``, the samples that have a layout; None if all have.
        dropped: ``(b, 1, 1)``, 1 for samples whose layout was taken away, 0 for all others: what is neither
            among these nor in ``rows`` passes unchanged.
        reuse: nothing but pixels changes from call to call, as between the steps of a sampler: keys and values
            are kept. Not while training.
        enabled: False lets everything pass unchanged.
        features: ``(p, c)``, what the grounding encoder makes of ``tokens`` and ``boxes``.
    """

    tokens: Float[Tensor, "p c"]
    boxes: Float[Tensor, "p 4"]
    levels: dict[int, Level]
    rows: Int[Tensor, " m"] | None
    dropped: Float[Tensor, "b 1 1"]
    reuse: bool = False
    enabled: bool = True
    features: Float[Tensor, "p c"] | None = None

    def __post_init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.shared: dict[int, Tensor] = {}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Grounding:
        """The same on ``device``, floating-point numbers in ``dtype``."""
        return replace(
            self,
            tokens=self.tokens.to(device, dtype),
            boxes=self.boxes.to(device),
            levels={size: level.to(device, dtype) for size, level in self.levels.items()},
            rows=None if self.rows is None else self.rows.to(device),
            dropped=self.dropped.to(device, dtype),
            features=None,
        )

    def level(self, pixels: int) -> Level:
        """How the pixels of a grid of so many are grouped.

        Raises:
            ValueError: the grounding was made for other grids.
        """
        if pixels not in self.levels:
            raise ValueError(f"the layout was prepared for grids of {sorted(self.levels)} pixels, got {pixels}")
        return self.levels[pixels]

    def share(self) -> None:
        """Pick each grid's features once, for all of its layers."""
        if not self.shared:
            self.shared = {pixels: self._features_on(pixels) for pixels in self.levels}

    def features_on(self, pixels: int) -> Float[Tensor, "u c"]:
        """Features of the tokens to which a grid of so many pixels attends."""
        return self.shared[pixels] if pixels in self.shared else self._features_on(pixels)

    def _features_on(self, pixels: int) -> Float[Tensor, "u c"]:
        assert self.features is not None, "the grounding encoder comes first"
        tokens = self.levels[pixels].tokens
        return self.features if tokens is None else self.features.index_select(0, tokens)


class Projections(nn.Module):
    """The matrices of a multi-head attention; only the last has a bias, and starts at zero."""

    def __init__(self, dim: int, context_dim: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        last = nn.Linear(dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.to_out = nn.ModuleList([last])


class RegionalCrossAttention(nn.Module):
    """Adds to each pixel what the text of its region says; at first nothing.

    Pixels of a sample whose layout was dropped, and those whose region gets no attention, receive a learnt vector.

    Args:
        dim: channels of a pixel.
        context_dim: channels of a token.
        heads: of the attention.
        name: unlike that of all other layers of a network: keys and values are kept under it.

    Source: arXiv 2409.04847, section 3; the variant ``ca`` of the released code.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, name: str = "") -> None:
        super().__init__()
        self.heads, self.name = heads, name
        self.attn = Projections(dim, context_dim)
        self.null_text_feat = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden_states: Float[Tensor, "b l d"], grounding: Grounding) -> Float[Tensor, "b l d"]:
        """Hidden states with the regions' text added."""
        if not grounding.enabled:
            return hidden_states
        rows, dropped = grounding.rows, grounding.dropped
        if rows is None:
            return hidden_states + self._attend(hidden_states, grounding)
        # layers that learn in float32 on a base in half precision give back what they were given
        result = hidden_states + (dropped * self.null_text_feat).to(hidden_states.dtype)
        if not len(rows):
            return result
        return result.index_add_(0, rows, self._attend(hidden_states.index_select(0, rows), grounding))

    def _attend(self, pixels: Float[Tensor, "m l d"], grounding: Grounding) -> Float[Tensor, "m l d"]:
        level = grounding.level(pixels.shape[1])
        queries = self.attn.to_q(pixels).flatten(0, 1)
        found = grouped_attention(queries, self._keys_values(pixels.shape[1], grounding), level, self.heads)
        out = self.attn.to_out[0](found)
        if level.unseen is not None:
            out = torch.where(level.unseen, self.null_text_feat, out)
        return out.view_as(pixels).to(pixels.dtype)

    def _keys_values(self, pixels: int, grounding: Grounding) -> list[tuple[Tensor, Tensor]]:
        if self.name in grounding.kept:
            return grounding.kept[self.name]
        level = grounding.level(pixels)
        features = grounding.features_on(pixels)
        keys, values = self.attn.to_k(features), self.attn.to_v(features)
        pairs = [(_fetch(keys, x.tokens, self.heads), _fetch(values, x.tokens, self.heads)) for x in level.groups]
        if grounding.reuse:
            pairs = [(k.contiguous(), v.contiguous()) for k, v in pairs]  # a quarter faster to read, on a CPU
            grounding.kept[self.name] = pairs
        return pairs


class RegionalCrossAndSelfAttention(RegionalCrossAttention):
    """The same, and then each pixel attends to the pixels that share an object with it; background pixels to all.

    One attention with a mask; the reference runs one per region.

    Source: the variant ``casa`` of the released code of arXiv 2409.04847.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, name: str = "") -> None:
        super().__init__(dim, context_dim, heads, name)
        self.self_attn = Projections(dim, dim)

    def forward(self, hidden_states: Float[Tensor, "b l d"], grounding: Grounding) -> Float[Tensor, "b l d"]:
        """Hidden states with the regions' text, and then their pixels, added."""
        result = super().forward(hidden_states, grounding)
        rows = grounding.rows
        if not grounding.enabled or (rows is not None and not len(rows)):
            return result
        if rows is None:
            return result + self._attend_to_pixels(result, grounding)
        return result.index_add(0, rows, self._attend_to_pixels(result.index_select(0, rows), grounding))

    def _attend_to_pixels(self, pixels: Float[Tensor, "m l d"], grounding: Grounding) -> Float[Tensor, "m l d"]:
        level = grounding.level(pixels.shape[1])
        assert level.sees is not None, "the grounding was prepared without self-attention"
        heads = (_split(f(pixels), self.heads) for f in (self.self_attn.to_q, self.self_attn.to_k, self.self_attn.to_v))
        found = scaled_dot_product_attention(*heads, attn_mask=level.sees).transpose(1, 2).flatten(2)
        out = self.self_attn.to_out[0](found)
        out = out if level.unseen is None else out.masked_fill(level.unseen.view(*out.shape[:2], 1), 0)
        return out.to(pixels.dtype)


def grouped_attention(
    queries: Float[Tensor, "n d"], keys_values: Sequence[tuple[Tensor, Tensor]], level: Level, heads: int
) -> Float[Tensor, "n d"]:
    """Attend from each pixel to the tokens of its region.

    Args:
        queries: of all pixels of all samples that have a layout.
        keys_values: for each group, ``(g, heads, t, d / heads)`` each.
        level: which pixel attends to which tokens.
        heads: of the attention.

    Returns:
        One row per query; what it says of pixels that attend to nothing means nothing.
    """
    found = []
    for group, (keys, values) in zip(level.groups, keys_values, strict=True):
        attended = scaled_dot_product_attention(_fetch(queries, group.pixels, heads), keys, values, group.bias)
        found.append(attended.transpose(1, 2).reshape(-1, queries.shape[1]))
    return torch.cat(found).index_select(0, level.place)


def _fetch(rows: Float[Tensor, "n d"], index: Int[Tensor, "g t"], heads: int) -> Float[Tensor, "g h t k"]:
    # index_select, whose gradient is far cheaper than that of rows[index]
    return _split(rows.index_select(0, index.flatten()).view(*index.shape, -1), heads)


def _split(rows: Float[Tensor, "g t d"], heads: int) -> Float[Tensor, "g h t k"]:
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


def group_pixels(
    regions: Int[Tensor, " n"],
    starts: Int[Tensor, " r"],
    lengths: Int[Tensor, " r"],
    bias: Float[Tensor, " e"],
    tokens: Int[Tensor, " e"] | None = None,
) -> Level:
    """Gather pixels of one region, and regions of similar length, so that few attention calls do them all.

    Args:
        regions: the region of each pixel, -1 for those that get no attention.
        starts: where the tokens of each region begin in ``tokens``.
        lengths: how many tokens it has, at least one.
        bias: of each entry of ``tokens``.
        tokens: one region after the other; None if these are all tokens, in order.

    Source: the trade between padding and fetching is ours; see benchmarks/regional_attention.py.
    """
    number, first, length, added = (x.numpy() for x in (regions, starts, lengths, bias))
    unseen = regions < 0
    counts = np.bincount(number[number >= 0], minlength=len(first))
    order = np.argsort(number, kind="stable")[int(unseen.sum()) :]
    entries, used = _used(tokens, counts > 0, first, length)
    kind = np.searchsorted(_PADDED_TOKENS, length)
    place = np.zeros(len(number), dtype=np.int64)
    groups, done = [], 0
    for bucket in np.unique(kind[counts > 0]).tolist():
        members = ((kind == bucket) & (counts > 0)).nonzero()[0]
        pixels, real, row = _rows(counts[members], (np.cumsum(counts) - counts)[members], order)
        place[pixels[real]] = real.ravel().nonzero()[0] + done
        places, biases = _padded(first[members][row], length[members][row], added)
        groups.append(Group(*map(torch.from_numpy, (pixels, entries[places], biases[:, None, None]))))
        done += pixels.size
    return Level(
        groups=tuple(groups),
        place=torch.from_numpy(place),
        unseen=unseen[:, None] if unseen.any() else None,
        tokens=None if used is None else torch.from_numpy(used),
    )


def _used(tokens: Tensor | None, present: Any, starts: Any, lengths: Any) -> tuple[Any, Any]:
    """The tokens of the regions that there are, numbered anew, and which ones these are if not all."""
    entries = np.arange(int(lengths.sum())) if tokens is None else tokens.numpy()
    size = int(entries.max(initial=-1)) + 1
    wanted = np.zeros(size, dtype=bool)
    for start, length in zip(starts[present].tolist(), lengths[present].tolist(), strict=True):
        wanted[entries[start : start + length]] = True
    if wanted.all():
        return entries, None
    return np.maximum(np.cumsum(wanted) - 1, 0)[entries], wanted.nonzero()[0]


def _rows(counts: Any, firsts: Any, order: Any) -> tuple[Any, Any, Any]:
    """Pixels of regions in rows of one length, ``(g, q)``, which of them are no padding, and each row's region."""
    width = _row_length(counts)
    rows = -(-counts // width)
    region = np.repeat(np.arange(len(counts)), rows)
    number = np.arange(len(region)) - (np.cumsum(rows) - rows)[region]  # of a row among those of its region
    inside = number[:, None] * width + np.arange(width)  # (g, q): pixels of the region
    pixels = order[np.minimum(firsts[region][:, None] + inside, len(order) - 1)]
    return pixels, inside < counts[region][:, None], region


def _padded(starts: Any, lengths: Any, bias: Any) -> tuple[Any, Any]:
    """Where each row finds its tokens, and their biases, ``(g, t)``."""
    at = np.arange(-(-lengths.max() // _ALIGNED) * _ALIGNED)
    places = starts[:, None] + np.minimum(at, lengths[:, None] - 1)
    return places, np.where(at < lengths[:, None], bias[places], np.float32(-np.inf)).astype(bias.dtype)


def _row_length(counts: Any) -> int:
    """How many pixels stand in a row: short rows fetch their tokens often, long ones are mostly padding."""
    largest = int(counts.max())
    candidates = np.array([n for n in _ROW_LENGTHS if n < largest] + [largest])
    rows = (-(-counts // candidates[:, None])).sum(1)
    return int(candidates[(rows * (candidates + _FETCH)).argmin()])
