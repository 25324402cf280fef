"""The tiny model's twin that sees the caption alone, and learns words of one's own: Custom Diffusion in small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from scenewright.layout_models.concepts import (
    add_words,
    check_tokens,
    concept_tokens,
    prior_weights,
    train_keys_and_values,
)
from scenewright.layout_models.tiny.words import WordTokenizer
from scenewright.layout_models.tiny_caption_only import TinyCaptionOnly


class TinyCustomDiffusion(TinyCaptionOnly):
    """Draws objects that captions name by tokens: "``<star1>`` star and ``<ring1>`` ring".

    Learnt are the embeddings of the tokens, and the projections to keys and values of the cross-attentions. While it is
    new, it draws what its base draws. Layouts are not read.

    Args:
        concepts: by token, the class word that its embedding begins as ("star"). The brackets may be left out.
        composition: the token of the whole arrangement; None for none. It begins as an unknown word.
        prior_weight: of images whose caption has no token, in the loss.
        num_inference_steps: of the sampler.
        guidance_scale: of the caption; 1 is none.
        caption_drop: share of the images whose caption is dropped in training.
        base: ``twin``, the weights of ``tiny_caption_only`` that come along, or a file of such.

    Raises:
        CheckpointError: the base is of another model.
        ValueError: a token cannot be one.

    Source: Kumari et al. 2023, arXiv 2212.04488; Yeh et al. 2024, arXiv 2402.15504, section 3.4.
    """

    #: What is new draws what the base draws.
    untrained = True

    def __init__(
        self,
        concepts: Mapping[str, str] | None = None,
        composition: str | None = None,
        prior_weight: float = 1.0,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.5,
        caption_drop: float = 0.0,
        base: str = "twin",
    ) -> None:
        self.tokens = concept_tokens(concepts or {}, composition)
        super().__init__(
            weights=None,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            caption_drop=caption_drop,
            base=base,
        )
        self.prior_weight, self.untrained = prior_weight, True
        self.requires_grad_(False)
        train_keys_and_values(self.unet)
        words = add_words(self.text_encoder, self.tokens, len(self.tokenizer), self.tokenizer.tokens)
        self.tokenizer = WordTokenizer(self.tokenizer.length, added=list(self.tokens))
        self.words = words

    def _weights(self, captions: Sequence[str]) -> Float[Tensor, " b"]:
        return prior_weights(captions, self.tokens, self.prior_weight)

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "b t d"]:
        check_tokens(texts, self.tokens)
        return super()._read(texts)
