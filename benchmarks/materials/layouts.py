"""Layouts as models meet them: boxes of one to sixty percent of the image, anywhere, each with a sentence."""

from __future__ import annotations

import numpy as np
import torch

from scenewright.layout import Layout


class WordTokenizer:
    """A token per word, around the ids and the length of CLIP."""

    bos, eos, pad, separator, length = 49406, 49407, 49407, 282, 77

    def tokens(self, text: str) -> list[int]:
        return [1000 + sum(31**i * ord(x) for i, x in enumerate(word[:4])) % 40000 for word in text.split()]


def random_layout(count: int, seed: int = 0, words: int = 15) -> Layout:
    """``count`` objects; about as many regions as a human's layout of that size makes."""
    rng = np.random.default_rng(seed)
    area, aspect = np.exp(rng.uniform(np.log(0.01), np.log(0.6), count)), np.exp(rng.uniform(-0.7, 0.7, count))
    size = np.minimum(np.sqrt(np.stack([area * aspect, area / aspect], 1)), 1)
    corner = rng.uniform(0, 1 - size)
    labels = [" ".join(f"w{x}" for x in rng.integers(0, 1000, words)) for _ in range(count)]
    return Layout(boxes=torch.from_numpy(np.concatenate([corner, corner + size], 1)).float(), labels=labels)
