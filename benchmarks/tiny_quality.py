"""What the tiny model draws, judged without weights: is the right colour and shape in each box?

Held-out scenes are drawn by the model from captions and layouts; in each box the object is cut out by GrabCut and its
colour and shape are read by rules. The same meter reads the true images (as much as it can give) and the true images of
other layouts (what is right by chance).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from scenewright.annotators.appearance import describe
from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Image, Sample
from scenewright.layout_models.tiny import Tiny
from scenewright.layout_models.tiny_caption_only import TinyCaptionOnly

COLUMNS = ("colour", "shape", "both")

#: Sides of the images, in pixels.
SIZE = 32


def judge(image: Image, sample: Sample) -> list[tuple[bool, bool, bool]]:
    """For each box: is the colour right, the shape, and both."""
    # by its box alone: masks would tell it what is to be found out
    masks = GrabCut().segment([image], [replace(sample.layout, masks=None)])[0]
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    right = []
    for drawn, mask in zip(sample.metadata["objects"], masks, strict=True):
        seen = describe(pixels, mask.decode().numpy())
        colour = bool(seen.colours) and seen.colours[0][0] == drawn["colour"]
        shape = seen.shape == drawn["shape"]
        right.append((colour, shape, colour and shape))
    return right


def draw(model: Any, samples: Sequence[Sample], batch_size: int = 16) -> list[Image]:
    """One image per sample, seeds 0, 1, 2, …"""
    images = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        seeds = range(start, start + len(part))
        images += model.sample([x.caption for x in part], [x.layout for x in part], seeds, height=SIZE, width=SIZE)
    return images


def interval(right: np.ndarray, owners: np.ndarray, rounds: int = 1000) -> tuple[float, float]:
    """95 % of the means when scenes are drawn anew with replacement."""
    random = np.random.default_rng(0)
    sums, counts = (np.bincount(owners, weights) for weights in (right, np.ones(len(right))))
    chosen = random.integers(len(sums), size=(rounds, len(sums)))
    low, high = np.quantile(sums[chosen].sum(1) / counts[chosen].sum(1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--turn", type=float, default=0.0, help="how far objects turn, 0 .. 1; 0 as in training")
    parser.add_argument("--weights", default="shipped", help="of the regional model: a file, or the shipped ones")
    parser.add_argument("--twin", default="shipped", help="of the model that sees the caption alone")
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.scenes = 3
    drawn = {"height": SIZE, "width": SIZE, "split": "test", "difficulty": "easy", "turn": arguments.turn}
    samples = list(Shapes(length=arguments.scenes, **drawn))
    rows: dict[str, Callable[[], list[Image]]] = {
        "truth": lambda: [x.image for x in samples],
        "tiny": lambda: draw(Tiny(arguments.weights).eval(), samples),
        "caption only": lambda: draw(TinyCaptionOnly(arguments.twin).eval(), samples),
        "truth, shuffled": lambda: [x.image for x in samples[1:] + samples[:1]],
    }
    owners = np.repeat(np.arange(len(samples)), [len(x.layout) for x in samples])
    print(f"{len(samples)} held-out scenes, {len(owners)} boxes; share of boxes that are right, with 95 % intervals")
    print(f"{'images':16}" + "".join(f"{x:>20}" for x in COLUMNS) + f"{'of truth':>10}")
    truth = 0.0
    for name, images in rows.items():
        torch.manual_seed(0)
        right = np.array([x for pair in zip(images(), samples, strict=True) for x in judge(*pair)], dtype=float)
        truth = truth or right[:, 2].mean()
        cells = [f"{right[:, i].mean():.2f} ({low:.2f}–{high:.2f})" for i in range(3) for low, high in [
            interval(right[:, i], owners)]]  # fmt: skip
        print(f"{name:16}" + "".join(f"{x:>20}" for x in cells) + f"{right[:, 2].mean() / truth:>10.2f}")


if __name__ == "__main__":
    main()
