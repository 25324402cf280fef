"""The network of RAT-Diffusion: a diffusion transformer that a recurrent cell tells the text, group by group.

Parameters have the names of the published checkpoints, but for their copies of the recurrent cell; see published.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

#: How the text changes the tokens before a group of layers.
VARIANTS = ("shift", "affine")

#: Layers between two steps of the recurrent cell.
LAYERS_PER_GROUP = 4

#: Values of the sinusoidal code of a timestep.
_TIME_CODE = 256


@dataclass(frozen=True)
class Size:
    """Layers, channels and heads of a transformer."""

    depth: int
    width: int
    heads: int


#: Source: Peebles and Xie 2022, arXiv 2212.09748, table 1.
SIZES = {"S": Size(12, 384, 6), "B": Size(12, 768, 12), "L": Size(24, 1024, 16), "XL": Size(28, 1152, 16)}


class RatTransformer(nn.Module):
    """Predicts the noise of latents, and where between its bounds the variance of a denoising step lies.

    Before each group of four layers the recurrent cell makes a step, with the same text as its input each time. Its
    states do not depend on the latents: ``states`` computes them up front, and a sampler does so once per image.
    At the start the output is zero.

    Args:
        size: depth, width and heads. Where the depth is no multiple of four, the last group has fewer layers.
        patch: latents per side of a token.
        channels: of the latents.
        grid: latents per side that positions are kept ready for; other sizes work too.
        text_width: values of a text feature.
        variant: ``shift``: the state is added to all tokens, as in the released code; ``affine``: scale, shift and
            gate are read from it, as the paper has it. The latter begins without any effect.
        zero_gates: layers begin as the identity (adaLN-Zero); False: at Xavier's values, as in the released code.

    Raises:
        ValueError: there is no such variant, or the width cannot be shared out among heads and positions.

    Source: Ye and Liu 2024, arXiv 2410.01638; Peebles and Xie 2022, arXiv 2212.09748.
    """

    #: Of the usual grid, in float32; ``(1, n, d)``.
    pos_embed: Tensor

    blocks: Any

    def __init__(
        self,
        size: Size,
        patch: int = 2,
        channels: int = 4,
        grid: int = 32,
        text_width: int = 512,
        variant: str = "shift",
        zero_gates: bool = True,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if size.width % size.heads or size.width % 4:
            raise ValueError(f"the width must be a multiple of the heads and of 4, got {size.width} and {size.heads}")
        super().__init__()
        self.patch, self.channels, self.text_width, self.zero_gates = patch, channels, text_width, zero_gates
        self.gradient_checkpointing = False
        self.x_embedder = PatchEmbedding(channels, size.width, patch)
        self.t_embedder = TimeEmbedding(size.width)
        self.lstm = RecurrentText(text_width, size.width)
        depths = [min(LAYERS_PER_GROUP, size.depth - x) for x in range(0, size.depth, LAYERS_PER_GROUP)]
        self.blocks = nn.ModuleList(Group(depth, size, affine=variant == "affine") for depth in depths)
        self.final_layer = FinalLayer(size.width, 2 * channels * patch**2)
        tokens = grid // patch
        self.register_buffer("pos_embed", positions(size.width, tokens, tokens).float()[None], persistent=False)
        self.initialise()

    def states(self, text: Float[Tensor, "b c"]) -> Float[Tensor, "g b d"]:
        """The recurrent cell's state before each group, of texts."""
        return self.lstm(text, len(self.blocks))

    def forward(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Int[Tensor, " t"], states: Float[Tensor, "g b d"]
    ) -> Float[Tensor, "b k h w"]:
        """What is predicted of noisy latents.

        Args:
            noisy: sides are multiples of ``patch``.
            timesteps: one per image, or one for all.
            states: of the texts.

        Returns:
            As many channels of noise as there are latents, then as many of the variance: -1 at the lower bound of its
            logarithm, 1 at the upper one.
        """
        height, width = (side // self.patch for side in noisy.shape[2:])
        tokens = self.x_embedder(noisy) + self._positions(height, width)  # (b, h w, d)
        time = self.t_embedder(timesteps)[:, None]  # (t, 1, d)
        for group, state in zip(self.blocks, states, strict=True):
            tokens = group(tokens, time, state[:, None], self.gradient_checkpointing and self.training)
        out = self.final_layer(tokens, time).unflatten(1, (height, width)).unflatten(-1, (self.patch, self.patch, -1))
        return out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def initialise(self) -> None:
        """Draw new weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(self.t_embedder.mlp[index].weight, std=0.02)
        zero = [self.final_layer.linear, self.final_layer.adaLN_modulation[1]]
        for group in self.blocks:
            zero += [group.affine] if group.affine is not None else []
            zero += [layer.adaLN_modulation[1] for layer in group.blocks] if self.zero_gates else []
        for linear in zero:
            nn.init.zeros_(linear.weight)

    def _positions(self, height: int, width: int) -> Tensor:
        ready = math.isqrt(self.pos_embed.shape[1])
        if (height, width) == (ready, ready):
            return self.pos_embed
        return positions(self.pos_embed.shape[2], height, width)[None].to(self.pos_embed)


class RecurrentText(nn.Module):
    """An LSTM cell that is given the same text at each step, and begins with states read from it.

    Source: Hochreiter and Schmidhuber 1997; recurrent affine transformation, Ye et al. 2022, arXiv 2204.10482.
    """

    def __init__(self, text: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.W = nn.Parameter(torch.empty(text, 4 * width).uniform_(-bound, bound))
        self.U = nn.Parameter(torch.empty(width, 4 * width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(4 * width).uniform_(-bound, bound))
        self.noise2h, self.noise2c = nn.Linear(text, width), nn.Linear(text, width)

    def forward(self, text: Float[Tensor, "b c"], steps: int) -> Float[Tensor, "g b d"]:
        """The hidden states after 1, 2, … steps."""
        hidden, cell, states = self.noise2h(text), self.noise2c(text), []
        said = text @ self.W + self.bias
        for _ in range(steps):
            hidden, cell = self.step(said, hidden, cell)
            states.append(hidden)
        return torch.stack(states)

    def step(self, said: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next states; ``said`` is the text's part of the gates."""
        entering, kept, new, shown = (said + hidden @ self.U).chunk(4, -1)
        cell = kept.sigmoid() * cell + entering.sigmoid() * new.tanh()
        return shown.sigmoid() * cell.tanh(), cell


class Group(nn.Module):
    """The layers between two steps of the recurrent cell, and what its state does to their tokens."""

    def __init__(self, depth: int, size: Size, affine: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Layer(size.width, size.heads) for _ in range(depth))
        self.affine = nn.Linear(size.width, 3 * size.width) if affine else None

    def forward(self, tokens: Tensor, time: Tensor, state: Tensor, recompute: bool = False) -> Tensor:
        """Args: ``state`` is ``(b, 1, d)``, ``time`` ``(b or 1, 1, d)``."""
        if self.affine is None:
            return self._layers(tokens + state, time, recompute)
        scale, shift, gate = self.affine(state).chunk(3, -1)
        return self._layers((1 + scale) * tokens + shift, time, recompute) * (1 + gate)

    def _layers(self, tokens: Tensor, time: Tensor, recompute: bool) -> Tensor:
        for layer in self.blocks:
            tokens = checkpoint(layer, tokens, time, use_reentrant=False) if recompute else layer(tokens, time)
        return tokens


class Layer(nn.Module):
    """Attention and an MLP, each shifted, scaled and gated as the time says."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), FeedForward(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(time).chunk(6, -1)
        tokens = tokens + gate * self.attn(_normed(tokens) * (1 + scale) + shift)
        return tokens + mlp_gate * self.mlp(_normed(tokens) * (1 + mlp_scale) + mlp_shift)


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers with four times the channels between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(self.act(self.fc1(tokens)))


class FinalLayer(nn.Module):
    """From tokens to the values of their patches."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(time).chunk(2, -1)
        return self.linear(_normed(tokens) * (1 + scale) + shift)


class PatchEmbedding(nn.Module):
    """From patches of latents to tokens, row by row."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return self.proj(latents).flatten(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """From timesteps to what the layers are told of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp: Any = nn.Sequential(nn.Linear(_TIME_CODE, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        return self.mlp(time_code(timesteps).to(self.mlp[0].weight.dtype))


def time_code(timesteps: Int[Tensor, " t"]) -> Float[Tensor, "t 256"]:
    """Cosines and then sines of timesteps, in float32."""
    from diffusers.models.embeddings import get_timestep_embedding

    return get_timestep_embedding(timesteps, _TIME_CODE, flip_sin_to_cos=True, downscale_freq_shift=0)


def positions(width: int, rows: int, columns: int) -> Float64[Tensor, "n d"]:
    """Sines and cosines of a token's column, and then of its row, for each token row by row."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid

    with torch.device("cpu"):
        places = [torch.arange(side, dtype=torch.float64) for side in (columns, rows)]
        column, row = torch.meshgrid(*places, indexing="xy")
        return get_2d_sincos_pos_embed_from_grid(width, [column, row])


def _normed(tokens: Tensor) -> Tensor:
    return layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
