"""Gated self-attention of pixels over pixels and grounding tokens, the layer of GLIGEN and InstanceDiffusion.

Only pixels ask: what a grounding token would find is thrown away by the definition, so it is not computed.
Samples without grounding pass unchanged, and padding is masked, so that a result depends on its own sample only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """Which pixels belong to which object, to let objects attend to themselves only.

    Two pixels see each other iff they lie in one common object. Pixels of no object, the background, see each other;
    so a sample of empty masks is not restricted at all. A pixel sees the tokens of the objects it lies in, and all
    tokens that belong to no object in particular.

    Attributes:
        cells: by number of pixels of a grid, ``(m, n, l)``: the pixels of each object. Grids that are missing here
            are not restricted.
        owners: ``(m, t)``, the object of each token; -1 for tokens that every pixel sees.
        background: False: a pixel of no object sees no pixel but itself, as in the released code.

    Source: arXiv 2402.03290, section 3.2 (instance-masked attention); where background pixels look is ours.
    """

    cells: Mapping[int, Bool[Tensor, "m n _l"]]
    owners: Int[Tensor, "m t"]
    background: bool = True
    _made: dict[int, Tensor | None] = field(default_factory=dict, repr=False)

    def allowed(self, pixels: int) -> Bool[Tensor, "m 1 l k"] | None:
        """Which pixels and tokens, in this order, each pixel of a grid may attend to; None for all of them."""
        if pixels not in self.cells:
            return None
        if pixels not in self._made:
            self._made[pixels] = self._between(self.cells[pixels])
        return self._made[pixels]

    def _between(self, cells: Bool[Tensor, "m n l"]) -> Bool[Tensor, "m 1 l k"] | None:
        if not cells.any():
            return None
        sees = torch.eye(cells.shape[2], dtype=torch.bool, device=cells.device).repeat(len(cells), 1, 1)
        groups = torch.cat([cells, ~cells.any(1, keepdim=True)], 1) if self.background else cells
        for inside in groups.unbind(1):  # one at a time: all at once would be (m, n, l, l)
            sees |= inside[:, :, None] & inside[:, None, :]
        index = self.owners.clamp(min=0)[:, :, None].expand(-1, -1, cells.shape[2])
        tokens = cells.gather(1, index) | (self.owners < 0)[:, :, None]
        return torch.cat([sees, tokens.transpose(1, 2)], 2)[:, None]

    def to(self, device: torch.device | str) -> ObjectMasks:
        """The same on ``device``."""
        cells = {pixels: x.to(device) for pixels, x in self.cells.items()}
        return ObjectMasks(cells, self.owners.to(device), self.background)


@dataclass(frozen=True, eq=False)
class GroundingTokens:
    """What the layouts of a batch say, as the layers of a UNet read it.

    Attributes:
        tokens: ``(m, t, c)``, padded to the longest sample of the batch.
        valid: ``(m, t)``, False for padding; None where there is none.
        rows: ``(m,)``, which samples of the batch these are, all others pass unchanged; None for all in order.
        scale: what the gates are multiplied by; 0 switches grounding off.
        objects: restricts attention to objects; None for no restriction.
    """

    tokens: Float[Tensor, "m t c"]
    valid: Bool[Tensor, "m t"] | None = None
    rows: Int[Tensor, " m"] | None = None
    scale: float = 1.0
    objects: ObjectMasks | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.scale or not self.tokens.shape[0] or not self.tokens.shape[1]

    def at(self, scale: float) -> GroundingTokens:
        """The same with another scale of the gates."""
        return replace(self, scale=scale)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GroundingTokens:
        """The same on ``device``, tokens in ``dtype``."""
        return replace(
            self,
            tokens=self.tokens.to(device, dtype),
            valid=None if self.valid is None else self.valid.to(device),
            rows=None if self.rows is None else self.rows.to(device),
            objects=None if self.objects is None else self.objects.to(device),
        )

    def allowed(self, pixels: int) -> Bool[Tensor, "m 1 _l k"] | None:
        """Which pixels and tokens, in this order, each pixel of a grid may attend to; None for all of them."""
        inside = None if self.objects is None else self.objects.allowed(pixels)
        if self.valid is None:
            return inside
        real = torch.cat([self.valid.new_ones(len(self.valid), pixels), self.valid], 1)[:, None, None]
        return real if inside is None else inside & real


class GatedSelfAttention(nn.Module):
    """Adds to each pixel what it finds among all pixels and the grounding tokens; at first nothing.

    ``x + s tanh(a) attention(norm(x), norm([x; linear(g)]))``, and then ``x + s tanh(b) feed_forward(norm(x))``.
    Parameters are named as in the released weights, which are those of diffusers' ``GatedSelfAttentionDense``.

    Args:
        query_dim: channels of a pixel.
        context_dim: channels of a grounding token.
        n_heads: of the attention.
        d_head: channels of a head.

    Source: arXiv 2301.07093, section 3.2 (gated self-attention).
    """

    def __init__(self, query_dim: int, context_dim: int, n_heads: int, d_head: int) -> None:
        from diffusers.models.attention import FeedForward
        from diffusers.models.attention_processor import Attention

        super().__init__()
        self.linear = nn.Linear(context_dim, query_dim)
        self.attn = Attention(query_dim=query_dim, heads=n_heads, dim_head=d_head)
        self.ff = FeedForward(query_dim, activation_fn="geglu")
        self.norm1, self.norm2 = nn.LayerNorm(query_dim), nn.LayerNorm(query_dim)
        self.alpha_attn, self.alpha_dense = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: Float[Tensor, "b l d"], grounding: GroundingTokens) -> Float[Tensor, "b l d"]:
        """Hidden states with the grounding added; the very same object where there is none."""
        if grounding.empty:
            return hidden_states
        if grounding.rows is None:
            return self._ground(hidden_states, grounding)
        grounded = self._ground(hidden_states.index_select(0, grounding.rows), grounding)
        return hidden_states.index_copy(0, grounding.rows, grounded)

    def _ground(self, pixels: Float[Tensor, "m l d"], grounding: GroundingTokens) -> Float[Tensor, "m l d"]:
        scale = grounding.scale
        x = pixels + scale * self.alpha_attn.tanh() * self._attend(pixels, grounding)
        x = x + scale * self.alpha_dense.tanh() * self.ff(self.norm2(x))
        # layers that learn in float32 on a base in half precision give back what they were given
        return x.to(pixels.dtype)

    def _attend(self, pixels: Float[Tensor, "m l d"], grounding: GroundingTokens) -> Float[Tensor, "m l d"]:
        attn: Any = self.attn
        asking = self.norm1(pixels)
        seen = torch.cat([asking, self.norm1(self.linear(grounding.tokens))], 1)
        query, key, value = (
            f(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for f, x in ((attn.to_q, asking), (attn.to_k, seen), (attn.to_v, seen))
        )
        found = scaled_dot_product_attention(query, key, value, attn_mask=grounding.allowed(pixels.shape[1]))
        return attn.to_out[0](found.transpose(1, 2).flatten(2))
