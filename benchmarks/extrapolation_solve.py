"""Text features of many images from their nearest originals: solved together, beside one image after the other.

The baseline finds each image's neighbours and calls ``torch.linalg.solve`` for it alone, in float64 as we do.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated.solving import extrapolate, nearest

GOAL = 5.0  # times


def one_by_one(images: Tensor, originals: Tensor, texts: Tensor, k: int, ridge: float) -> Tensor:
    """The definition, image by image."""
    found = []
    for image in images:
        places = (originals @ image).topk(k).indices
        columns = originals[places].double().T
        gram = columns.T @ columns
        penalty = ridge * gram.trace() / k
        weights = torch.linalg.solve(gram + penalty * torch.eye(k, dtype=gram.dtype), columns.T @ image.double())
        found.append((texts[places].double().T @ weights).float())
    return torch.stack(found)


def together(images: Tensor, originals: Tensor, texts: Tensor, k: int, ridge: float) -> Tensor:
    """What the dataset does, in batches of 4096."""
    _, places = nearest(images, originals, k)
    batches = zip(images.split(4096), places.split(4096), strict=True)
    return torch.cat([extrapolate(some, originals[at], texts[at], ridge).texts for some, at in batches])


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few images, once, to see that it runs")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--originals", type=int, default=8192, help="CUB has 8855 for training")
    parser.add_argument("--neighbours", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, originals, repeats = options.images, options.originals, options.repeats
    if options.smoke:
        images, originals, repeats = 256, 512, 1
    random = torch.Generator().manual_seed(0)
    f, columns = (normalize(torch.randn(n, 512, generator=random), dim=1) for n in (images, originals))
    given = f, columns, torch.randn(originals, 512, generator=random), options.neighbours, 1e-3
    torch.testing.assert_close(together(*given), one_by_one(*given), rtol=1e-3, atol=1e-4)
    rounds = [(seconds(lambda: one_by_one(*given)), seconds(lambda: together(*given))) for _ in range(repeats)]
    alone, ours = (median(x) for x in zip(*rounds, strict=True))
    ratios = sorted(x / y for x, y in rounds)
    print(f"{images} images, {originals} originals, {options.neighbours} neighbours, 512 values; medians of {repeats}")
    print(f"  one by one  {1e6 * alone / images:8.1f} µs per image")
    print(f"  together    {1e6 * ours / images:8.1f} µs per image")
    print(f"  one by one / together {median(ratios):.1f} times ({ratios[0]:.1f} – {ratios[-1]:.1f}; goal {GOAL:g})")


if __name__ == "__main__":
    main()
