"""Image files to measure with: pieces of the photographs that scikit-image and scikit-learn bring along."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image


def write_photographs(folder: Path, count: int, side: int = 512, quality: int = 92) -> None:
    """Write JPEG files of ``side`` by ``side`` pixels, each a piece of a photograph, turned and scaled at random."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [data.astronaut(), data.cat(), data.coffee(), data.rocket()]
    arrays += [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    photographs = [Image.fromarray(array) for array in arrays]
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        size = int(min(photograph.size) * rng.uniform(0.6, 1))
        left, top = rng.integers(0, photograph.width - size + 1), rng.integers(0, photograph.height - size + 1)
        piece = photograph.crop((int(left), int(top), int(left) + size, int(top) + size))
        piece = piece.resize((side, side), Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # the grain that enlarging took away, so that files are as long as a camera's
        grain = rng.normal(scale=4, size=(side, side, 1)).astype(np.float32)
        noisy = (np.asarray(piece, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=quality)
