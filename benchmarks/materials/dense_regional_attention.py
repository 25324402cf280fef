"""Regional attention by its definition: pixels are repeated for every region, and what lies outside is thrown away.

The oracle of the tests and the baseline of the benchmarks. Slots are the published code's tensors: regions of one
sample, padded to the same number, each with all positions of its token sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention


@dataclass(frozen=True)
class Slots:
    """The regions of a batch: ``features (b, r, t, c)``, ``bias (b, r, t)``, ``masks (b, r, l)``, ``sees (b, r, l)``.

    ``masks`` says which pixels a region has, ``sees`` which ones it looks at in self-attention.
    """

    features: Tensor
    bias: Tensor
    masks: Tensor
    sees: Tensor


def dense(layer: Any, x: Tensor, slots: Slots, keys_values: Callable[..., Any] | None = None) -> Tensor:
    """``x (b, l, d)`` with what the regions say added, and with ``layer.self_attn`` what their pixels say."""
    r, masks = slots.masks.shape[1], slots.masks[..., None].to(x)
    k, v = (keys_values or project)(layer.attn, slots.features.flatten(0, 1), layer.heads)
    q = heads(layer.attn.to_q(x.repeat_interleave(r, 0)), layer.heads)  # (b * r, h, l, k)
    found = attention(q, k, v, slots.bias.flatten(0, 1)[:, None, None]).transpose(1, 2).flatten(2)
    spoken = layer.attn.to_out[0](found).unflatten(0, (-1, r))  # (b, r, l, d)
    x = x + (masks * spoken).sum(1) + (1 - masks.sum(1)) * layer.null_text_feat
    return x + (masks * dense_self(layer, x, slots)).sum(1) if hasattr(layer, "self_attn") else x


def dense_self(layer: Any, x: Tensor, slots: Slots) -> Tensor:
    """What the pixels that each region looks at say to all pixels, ``(b, r, l, d)``."""
    r, own = slots.masks.shape[1], layer.self_attn
    repeated = x.repeat_interleave(r, 0)
    q, k, v = (heads(f(repeated), layer.heads) for f in (own.to_q, own.to_k, own.to_v))
    found = attention(q, k, v, slots.sees.flatten(0, 1)[:, None, None]).transpose(1, 2).flatten(2)
    return own.to_out[0](found).unflatten(0, (-1, r))


def project(projections: Any, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values of all tokens, ``(b * r, h, t, k)``."""
    return heads(projections.to_k(features), count), heads(projections.to_v(features), count)


def heads(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(-1, (count, -1)).transpose(1, 2)


def slots(canvases: Sequence[Any], grid: int, encode: Callable[[Any], Tensor], scale: float = 1.0) -> Slots:
    """The tensors of prepared layouts on their grid number ``grid``; ``encode(text)`` gives ``(r, t, c)``.

    None for a sample leaves its slots empty.
    """
    given = [x for x in canvases if x is not None]
    most, pixels = max(len(x.regions) for x in given), given[0].ids[grid].numel()
    length, width = given[0].text.ids.shape[1], encode(given[0].text).shape[-1]
    shape = (len(canvases), most)
    features, bias = torch.zeros(*shape, length, width), torch.zeros(*shape, length)
    masks, sees = torch.zeros(*shape, pixels, dtype=torch.bool), torch.ones(*shape, pixels, dtype=torch.bool)
    for number, canvas in enumerate(canvases):
        if canvas is None:
            continue
        text, regions, ids = canvas.text, len(canvas.regions), canvas.ids[grid].flatten()
        features[number, :regions] = encode(text)
        for region in range(regions):
            told = text.owner[region] >= 0
            if told.any():
                bias[number, region] = torch.where(told, (text.weights[region] - 1) * scale, -torch.inf)
            masks[number, region] = (ids == region) & canvas.regions.kept[region]
            mine = canvas.regions.membership[region]
            if mine.any():
                sees[number, region] = canvas.regions.membership[ids][:, mine].any(1)
    return Slots(features=features, bias=bias, masks=masks, sees=sees)


def published(tensors: dict[str, Tensor], grid: tuple[int, int], features: str = "text_feat") -> Slots:
    """The published code's tensors on one grid: masks are sampled, and a bias of -1000 is no attention at all."""
    masks, sees = (tensors[name].bool() for name in ("reorg_masks", "reorg_union_masks" if "reorg_union_masks" in
                   tensors else "reorg_masks"))  # fmt: skip
    rows, columns = (torch.arange(n) * size // n for n, size in zip(grid, masks.shape[-2:], strict=True))
    masks, sees = (x[:, :, rows][..., columns].flatten(2) for x in (masks, sees))
    bias = tensors["cross_attention_mask"]
    kept = bias > -1000
    told = kept.any(2, keepdim=True)
    bias = torch.where(told, torch.where(kept, bias, -torch.inf), 0.0)
    return Slots(features=tensors[features].float(), bias=bias, masks=masks, sees=sees | ~sees.any(2, keepdim=True))


def packed(levels: Sequence[Slots], boxes: Tensor | None = None) -> Any:
    """The same as a ``Grounding``: tokens that are attended to, and for each grid which pixels attend to which."""
    from scenewright.layout_models.rich_context.regional_attention import Grounding, group_pixels

    first = levels[0]
    keys = first.bias.flatten(0, 1) > -torch.inf
    lengths, bias = keys.sum(1), first.bias.flatten(0, 1)[keys]
    rows = [i for i in range(len(first.masks)) if any(x.masks[i].any() for x in levels)]
    found = {}
    for x in levels:
        owner = x.masks.float().argmax(1)[rows]  # (m, l), the slot of each pixel
        slot = owner + torch.tensor(rows)[:, None] * x.masks.shape[1]
        level = group_pixels(
            torch.where(x.masks[rows].any(1), slot, -1).flatten(), lengths.cumsum(0) - lengths, lengths, bias
        )
        sees = torch.stack([x.sees[row][slots] for row, slots in zip(rows, owner, strict=True)])
        found[x.masks.shape[2]] = replace(level, sees=sees[:, None])
    return Grounding(
        tokens=first.features.flatten(0, 1)[keys],
        boxes=torch.full((int(keys.sum()), 4), -1.0) if boxes is None else boxes.flatten(0, 1)[keys],
        levels=found,
        rows=torch.tensor(rows),
        dropped=torch.tensor([float(i not in rows) for i in range(len(first.masks))]).view(-1, 1, 1),
    )
