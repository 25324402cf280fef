"""Words of one's own in a frozen text encoder: tokens such as ``<cat1>``, each with an embedding that learns.

Source: Gal et al. 2022, "An Image is Worth One Word", arXiv 2208.01618; Kumari et al. 2023, "Multi-Concept
Customization of Text-to-Image Diffusion", arXiv 2212.04488.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

#: What a token looks like in a caption.
_TOKEN = re.compile(r"<[A-Za-z0-9][\w-]*>")

#: What the embedding of the composition's token begins as.
_COMPOSITION = "composition"

#: The projections of a UNet that read the caption.
_KEYS_AND_VALUES = re.compile(r"\.attn2\.to_[kv]\.weight$")


class ConceptEmbedding(nn.Module):
    """A frozen table of embeddings, followed by the rows that learn.

    Args:
        table: of the text encoder.
        words: the rows, in the order of their ids. They stay whose they are: this module does not have them among its
            parameters.
        first: the id of the first row; all below are the table's.
    """

    def __init__(self, table: nn.Embedding, words: nn.ParameterDict, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        object.__setattr__(self, "_words", words)

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        return self.table.weight

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Embeddings of tokens, in the table's precision."""
        words: Any = self._words
        places = ids - self.first
        found = self.table(torch.where(places < 0, ids, 0))
        if not len(words):
            return found
        rows = torch.stack(list(words.values())).to(found.dtype)
        return torch.where((places < 0)[..., None], found, rows[places.clamp(min=0)])


def concept_tokens(concepts: Mapping[str, str], composition: str | None) -> dict[str, str]:
    """The new tokens, and the word that the embedding of each begins as.

    Args:
        concepts: class words by token; the brackets of ``<cat1>`` may be left out.
        composition: the token of the arrangement, if there is one.

    Raises:
        ValueError: a token cannot be one or is given twice, or a class word is empty.
    """
    found: dict[str, str] = {}
    given = [*concepts.items(), *([] if composition is None else [(composition, _COMPOSITION)])]
    for name, word in given:
        token = name if name.startswith("<") else f"<{name}>"
        if not _TOKEN.fullmatch(token) or token != token.lower():
            raise ValueError(
                "a concept's token is small letters, digits, hyphens and underscores in <>, such as <cat1>, "
                f"got {name!r}"
            )
        if token in found:
            raise ValueError(f"each concept needs a token of its own, got {token} twice")
        if not str(word).strip():
            raise ValueError(f"{token} needs a class word that its embedding begins as, such as cat, got {word!r}")
        found[token] = str(word)
    return found


def add_words(
    text_encoder: nn.Module, tokens: Mapping[str, str], first: int, ids_of: Callable[[str], Sequence[int]]
) -> nn.ParameterDict:
    """Give a text encoder rows for new tokens; each begins as the mean of the embeddings of its class word's tokens.

    Args:
        text_encoder: of transformers.
        tokens: class words by token.
        first: the id of the first token; the others follow.
        ids_of: the ids of a text, without marks.

    Returns:
        The rows by token, in float32 and in the order of the ids.
    """
    table = text_encoder.get_input_embeddings()  # type: ignore[operator]
    words = nn.ParameterDict()
    for token, word in tokens.items():
        words[token] = nn.Parameter(table.weight[list(ids_of(word))].detach().float().mean(0))
    text_encoder.set_input_embeddings(ConceptEmbedding(table, words, first))  # type: ignore[operator]
    return words


def train_keys_and_values(unet: nn.Module) -> None:
    """Let the projections to keys and values of the cross-attentions learn, and nothing else of a UNet."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(bool(_KEYS_AND_VALUES.search(name)))


def check_tokens(captions: Sequence[str], known: Collection[str]) -> None:
    """Make sure that captions speak of no concept that a model does not know.

    Raises:
        ValueError: one does; names those that are known.
    """
    for caption in captions:
        for token in _TOKEN.findall(caption):
            if token not in known:
                raise ValueError(
                    f"{token} is no concept of this model, which knows {', '.join(known) or 'none'}; the caption is "
                    f"{caption!r}. layout_model.concepts={{{token[1:-1]}: CLASS}} names one, with its class word"
                )


def prior_weights(captions: Sequence[str], known: Collection[str], weight: float) -> Float[Tensor, " b"]:
    """The weight of each image in the loss: 1 where the caption speaks of a concept, ``weight`` where it does not."""
    spoken = [any(token in known for token in _TOKEN.findall(caption)) for caption in captions]
    return torch.tensor([1.0 if x else weight for x in spoken])
