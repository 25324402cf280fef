"""CLIP's features of texts, as the published training data hold them.

Paper: Radford et al. 2021, arXiv 2103.00020. Weights: openai/clip-vit-large-patch14 (MIT).
"""

import base64
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.checkpoints import Checkpoint

logger = logging.getLogger(__name__)


@runtime_checkable
class TextEmbedder(Protocol):
    """Turns texts into vectors."""

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n d"]: ...


class CLIPText:
    """The text tower's pooled state after its last norm, before the projection.

    Texts of more than 77 tokens are cut; ``truncated`` counts them.

    Args:
        checkpoint: a CLIP model of transformers, a folder or a hub id.
        revision: of the hub's repository.
        batch_size: texts at once.
        dtype: the network's.

    Raises:
        CheckpointError: on first use, where the weights are missing or none of CLIP's.
    """

    def __init__(
        self,
        checkpoint: str = "openai/clip-vit-large-patch14",
        revision: str = "main",
        batch_size: int = 128,
        dtype: str = "float32",
    ) -> None:
        self.checkpoint, self.revision, self.batch_size, self.dtype = checkpoint, revision, batch_size, dtype
        self.truncated = 0

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What is loaded."""
        return [Checkpoint(self.checkpoint, self.revision, ("config.json", "model.safetensors", "tokenizer.json"))]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPTextModel, CLIPTokenizer

        (checkpoint,) = self.checkpoints
        network = checkpoint.load(CLIPTextModel, dtype=getattr(torch, self.dtype))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return network.to(device).eval(), checkpoint.load(CLIPTokenizer)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector per text, in order, float32 on the CPU."""
        network, tokenizer = self._loaded
        found = []
        longest = network.config.max_position_embeddings
        for start in range(0, len(texts), self.batch_size):
            some = list(texts[start : start + self.batch_size])
            self.truncated += sum(len(x) > longest for x in tokenizer(some, verbose=False)["input_ids"])
            padded = tokenizer(some, truncation=True, max_length=longest, padding=True, return_tensors="pt")
            padded = padded.to(network.device)
            found.append(network(**padded).pooler_output.float().cpu())
        return torch.cat(found) if found else torch.zeros(0, network.config.hidden_size)


class Embeddings:
    """Remembers every text's vector, so that none is encoded twice.

    They lie in a temporary database that goes from memory to disk when it grows.
    """

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder
        self._known = sqlite3.connect("")
        self._known.execute("CREATE TABLE known (text TEXT PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def of(self, texts: Iterable[str]) -> dict[str, str]:
        """Each text's vector in base64."""
        distinct = list(dict.fromkeys(texts))
        found = {text: vector for text in distinct if (vector := self._recall(text)) is not None}
        new = [text for text in distinct if text not in found]
        if new:
            vectors = [x.tobytes() for x in self.embedder.embed(new).numpy().astype("<f4")]
            rows = [(_storable(text), vector) for text, vector in zip(new, vectors, strict=True)]
            self._known.executemany("INSERT INTO known VALUES (?, ?)", rows)
            found.update(zip(new, vectors, strict=True))
        return {text: base64.b64encode(vector).decode() for text, vector in found.items()}

    def _recall(self, text: str) -> bytes | None:
        row = self._known.execute("SELECT vector FROM known WHERE text = ?", (_storable(text),)).fetchone()
        return row[0] if row else None


def to_base64(vector: Float[Tensor, " d"]) -> str:
    """A vector's little-endian float32 bytes in base64."""
    return base64.b64encode(vector.cpu().numpy().astype("<f4").tobytes()).decode()


def from_base64(text: str) -> Float[Tensor, " d"]:
    """The vector of ``to_base64``; of an empty text, an empty one."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32))


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
