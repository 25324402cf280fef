"""What RAT-Diffusion is told of a text: one vector."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.checkpoints import Checkpoint
from scenewright.layout_models.feature_cache import weights_digest

#: Texts of one computation.
_ROWS = 64


@runtime_checkable
class TextEncoder(Protocol):
    """Says one vector of a text, which depends on that text alone."""

    def fingerprint(self) -> str:
        """Of all that its vectors depend on besides the text."""
        ...

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "n c"]:
        """Features in float32, on ``device``."""
        ...


class CLIPText:
    """The feature by which CLIP compares a text with images, projected and not normalised; 512 wide for ViT-B/32.

    Of a long text, the first 77 tokens count.

    Args:
        checkpoint: a folder or hub id of a CLIP.
        revision: of that.

    Source: Radford et al. 2021, arXiv 2103.00020. Weights: MIT.
    """

    def __init__(self, checkpoint: str = "openai/clip-vit-base-patch32", revision: str = "main") -> None:
        self.checkpoint, self.revision = checkpoint, revision

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Where its weights come from."""
        files = ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.json", "merges.txt")
        return [Checkpoint(self.checkpoint, self.revision, files)]

    def fingerprint(self) -> str:
        """A digest of the weights."""
        return self._digest

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "n c"]:
        """Features in float32, on ``device``.

        Raises:
            CheckpointError: the weights are not there, or are none of a CLIP.
        """
        network, tokenizer = self._network.to(device), self._tokenizer
        length = min(tokenizer.model_max_length, network.config.max_position_embeddings)
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        found = [torch.zeros(0, network.config.projection_dim, device=device)]
        with torch.autocast(device.type, enabled=False):
            for start in range(0, len(texts), _ROWS):
                inputs = tokenizer(list(texts[start : start + _ROWS]), **options).to(device)
                found.append(network(**inputs).text_embeds)
        return torch.cat(found)

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self._network)

    @cached_property
    def _network(self) -> Any:
        from transformers import CLIPTextModelWithProjection

        return self.checkpoints[0].load(CLIPTextModelWithProjection).float().eval().requires_grad_(False)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return self.checkpoints[0].load(CLIPTokenizer)


class HashedWords:
    """A stand-in without weights: each word, and each run of words, has a random vector; a text is their sum.

    The vectors, of plus and minus one, come from a hash, so they are the same everywhere; the sum is divided by the
    root of its terms. It knows no likeness of words, and of their order only what is in a run.

    Args:
        width: values of a feature.
        longest: words of a run.
        seed: of the vectors.

    Raises:
        ValueError: ``width`` or ``longest`` is less than 1.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning", arXiv 0902.2206.
    """

    def __init__(self, width: int = 512, longest: int = 2, seed: int = 0) -> None:
        if width < 1 or longest < 1:
            raise ValueError(f"width and longest must be at least 1, got {width} and {longest}")
        self.width, self.longest, self.seed = width, longest, seed

    def fingerprint(self) -> str:
        """Its settings."""
        return f"hashed words {self.width} {self.longest} {self.seed}"

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "n c"]:
        """Features in float32, on ``device``; zero where there is no word."""
        features = torch.zeros(len(texts), self.width)
        for row, text in zip(features, texts, strict=True):
            runs = self._runs(text)
            if runs:
                total = np.sum([_signs(f"{self.seed}:{run}", self.width) for run in runs], 0, dtype=np.int64)
                row.copy_(torch.from_numpy(total / len(runs) ** 0.5))
        return features.to(device)

    def _runs(self, text: str) -> list[str]:
        words = re.findall(r"\w+(?:['-]\w+)*", text.casefold())
        lengths = range(1, self.longest + 1)
        return [" ".join(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1)]


@lru_cache(maxsize=1 << 14)
def _signs(text: str, width: int) -> np.ndarray:
    """As many of plus and minus one as asked for, of a text's hash."""
    digest = hashlib.shake_256(text.encode("utf-8", errors="surrogatepass")).digest((width + 7) // 8)
    return np.unpackbits(np.frombuffer(digest, np.uint8), count=width).astype(np.int8) * 2 - 1
