"""The query decoder: every tag asks the image whether it is there."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class DecoderLayer(nn.Module):
    """Cross-attention and a feed-forward block, each added and then normalised; no self-attention.

    Args:
        width: of the queries.
        context: width of the image tokens.
        inner: width inside the feed-forward block.
    """

    def __init__(self, width: int, context: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(context, width), nn.Linear(context, width)
        self.attended, self.fed = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, queries: Float[Tensor, "_b n d"], tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b n d"]:
        """Queries of a batch of one serve every image, and are projected once for all."""
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, d / heads)
            for x in (self.query(queries), self.key(tokens), self.value(tokens))
        )
        q = q.expand(len(tokens), -1, -1, -1)
        found = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)  # (b, n, d)
        hidden = self.attended(queries + self.output(found))
        return self.fed(hidden + self.narrow(gelu(self.widen(hidden))))


class QueryDecoder(nn.Module):
    """The tagging head of RAM, RAM++ and Tag2Text: a short stack of cross-attention layers.

    Source: Query2Label, arXiv 2107.10834; Tag2Text, arXiv 2303.05657.
    """

    def __init__(self, depth: int, width: int, context: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, context, inner, heads, eps) for _ in range(depth))

    def forward(self, queries: Float[Tensor, "_b n d"], tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b n d"]:
        for layer in self.layers:
            queries = layer(queries, tokens)
        return queries


class ClassLinear(nn.Module):
    """One linear map to a number for every class: Tag2Text's; RAM's is the same for all classes."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.zeros(1, classes, width)), nn.Parameter(torch.zeros(1, classes))

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 1"]:
        return ((self.W * hidden).sum(-1) + self.b).unsqueeze(-1)
