"""The network of RAM, RAM++ and Tag2Text: image tokens, a query for every tag, and a logit for each."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, relu, softmax

from scenewright.annotators.recognition.decoder import QueryDecoder


class FixedQueries(nn.Module):
    """Queries that are the same for every image."""

    def __init__(self, queries: Float[Tensor, "n d"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(queries)

    @property
    def classes(self) -> int:
        return len(self.weight)

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "1 n d"]:
        return self.weight.unsqueeze(0)


class TextQueries(nn.Module):
    """Queries made from text features: one of each tag, or several descriptions weighed by the image.

    Args:
        descriptions: of each tag; RAM has 1, RAM++ 51. ``label_embed`` holds them tag by tag.
    """

    def __init__(self, rows: int, text_width: int, width: int, descriptions: int) -> None:
        super().__init__()
        self.descriptions = descriptions
        self.label_embed = nn.Parameter(torch.zeros(rows, text_width))
        self.wordvec_proj = nn.Linear(text_width, width)
        if descriptions > 1:
            self.reweight_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def classes(self) -> int:
        return len(self.label_embed) // self.descriptions

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "_b n d"]:
        return self.project(self.features(tokens))

    def features(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "_b n c"]:
        """The text feature of each tag: the mean of its descriptions, weighed by how well they fit the image."""
        if self.descriptions == 1:
            return self.label_embed.unsqueeze(0)
        described = self.label_embed.unflatten(0, (-1, self.descriptions))  # (n, descriptions, c)
        fit = self.reweight_scale.exp() * torch.einsum("bc,nkc->nbk", normalize(tokens[:, 0], dim=-1), described)
        weights = softmax(fit.float(), -1).to(fit.dtype)
        return (weights @ described).transpose(0, 1)  # a batched product: the weighted features are never stored

    def project(self, features: Float[Tensor, "_b n c"]) -> Float[Tensor, "_b n d"]:
        return relu(self.wordvec_proj(features))

    def fixed(self, features: Float[Tensor, "n c"] | None = None) -> FixedQueries:
        """The queries of one feature per tag, computed once."""
        chosen = self.label_embed if features is None else features.to(self.label_embed)
        return FixedQueries(self.project(chosen.unsqueeze(0)).squeeze(0))


class TaggingNetwork(nn.Module):
    """Pixels to a logit for every tag.

    Args:
        backbone: transformers' ``SwinModel``.
        image_proj: from its width to that of the text features.
        queries: from the image tokens to a query for every tag.
        score: from a decoded query to its logit.
    """

    queries: FixedQueries | TextQueries

    def __init__(
        self,
        backbone: Any,
        image_proj: nn.Module,
        queries: FixedQueries | TextQueries,
        decoder: QueryDecoder,
        score: nn.Module,
    ) -> None:
        super().__init__()
        self.backbone, self.image_proj, self.queries = backbone, image_proj, queries
        self.decoder, self.score = decoder, score
        self.image_size: int = backbone.config.image_size  # side of the square that it sees, in pixels

    def see(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t c"]:
        """The backbone's tokens, their mean before them."""
        tokens = self.backbone(pixels).last_hidden_state
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        tokens = self.image_proj(self.see(pixels))
        return self.score(self.decoder(self.queries(tokens), tokens)).squeeze(-1)
