"""What the plugins of Florence-2 share: the network, its questions and its answers as tokens.

Florence-2 answers every task with text, in which places are written as 1000 location tokens for each axis.

Source: Xiao et al. 2024, arXiv 2311.06242. Weights: ``florence-community/Florence-2-{base,large}[-ft]`` (MIT), which
are ``microsoft/Florence-2-*`` in the form that transformers reads without remote code.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image
from scenewright.networks import precision

#: How finely a place is told, on each axis.
BINS = 1000

_LOCATION = re.compile(r"<loc_(\d+)>")


@dataclass(frozen=True)
class Answer:
    """What the network wrote, without its marks of beginning and end.

    Attributes:
        pieces: in order, text ("a dog") or a location, as a bin in [0, 999]; other marks are left out.
        chances: of each piece, the probability that the network gave it, in [0, 1]; of a text, its tokens' geometric
            mean. All 1 where they were not asked for.
    """

    pieces: list[str | int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The words alone."""
        return " ".join(x for x in self.pieces if isinstance(x, str))


@dataclass(frozen=True)
class Florence:
    """The network with its processor.

    Attributes:
        dtype: of its weights and activations, as torch names it.
        compile: the image encoder, whose input has one size.
    """

    checkpoint: Checkpoint
    dtype: str = "float32"
    compile: bool = False

    @torch.inference_mode()
    def answer(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        chances: bool = False,
    ) -> list[Answer]:
        """Ask one question about each image, all at once.

        Args:
            prompts: a task's name ("<OD>"), with its input behind it where it takes one.
            num_beams: 1 is greedy.
            chances: say how sure each piece is; greedy decoding only.
        """
        network = self._network.to(images[0].device)
        # positions count from the left, so what is padded must come last
        inputs = self._processor(
            images=list(images), text=list(prompts), padding=True, padding_side="right", return_tensors="pt"
        ).to(images[0].device, network.dtype)
        record = _Record()
        tokens = network.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
            logits_processor=[record] if chances else None,
        )
        told = record.chances if chances else torch.ones(tokens.shape[0], tokens.shape[1] - 1)
        # the first token is the one that decoding starts from
        return [self._read(row, sure) for row, sure in zip(tokens[:, 1:].tolist(), told.tolist(), strict=True)]

    def _read(self, tokens: list[int], chances: list[float]) -> Answer:
        pieces: list[str | int] = []
        sure: list[float] = []
        text: list[tuple[int, float]] = []

        def close() -> None:
            words = self._tokenizer.decode([t for t, _ in text]).strip() if text else ""
            if words:
                pieces.append(words)
                sure.append(geometric_mean([c for _, c in text]))
            text.clear()

        for token, chance in zip(tokens, chances, strict=True):
            if token == self._tokenizer.eos_token_id:
                break
            if token in self._locations:
                close()
                pieces.append(self._locations[token])
                sure.append(chance)
            elif token in self._marks:
                close()
            else:
                text.append((token, chance))
        close()
        return Answer(pieces, sure)

    @cached_property
    def _network(self) -> Any:
        from transformers import Florence2ForConditionalGeneration

        network = self.checkpoint.load(Florence2ForConditionalGeneration, dtype=precision(self.dtype)).eval()
        if self.compile:
            network.model.vision_tower.compile()
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import Florence2Processor

        return self.checkpoint.load(Florence2Processor)

    @property
    def _tokenizer(self) -> Any:
        return self._processor.tokenizer

    @cached_property
    def _locations(self) -> dict[int, int]:
        """Token to bin."""
        found = ((token, _LOCATION.fullmatch(name)) for name, token in self._tokenizer.get_vocab().items())
        return {token: int(match[1]) for token, match in found if match}

    @cached_property
    def _marks(self) -> set[int]:
        """Tokens that are neither words nor locations: ``<s>``, ``<poly>``, ``<od>``."""
        added = {token for token, x in self._tokenizer.added_tokens_decoder.items() if x.content.startswith("<")}
        return (added | set(self._tokenizer.all_special_ids)) - set(self._locations)


class _Record:
    """Notes how probable the token is that greedy decoding takes; the scores of all 50 000 would fill the memory."""

    def __init__(self) -> None:
        self._chances: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._chances.append(scores.float().softmax(-1).amax(-1))
        return scores

    @property
    def chances(self) -> Float[Tensor, "b t"]:
        return torch.stack(self._chances, 1)


def geometric_mean(chances: Sequence[float]) -> float:
    """The mean of probabilities that are multiplied."""
    return math.exp(sum(math.log(max(c, 1e-30)) for c in chances) / len(chances))


def located(box: Sequence[float]) -> str:
    """A box in fractions, as Florence-2 reads it."""
    return "".join(f"<loc_{min(max(math.floor(v * BINS), 0), BINS - 1)}>" for v in box)
