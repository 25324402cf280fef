"""Whether memory stays flat: the peak of annotating many images over that of a tenth of them."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from resource import RUSAGE_SELF, getrusage
from typing import Any

# This process must stay small and so imports nothing large: Linux counts the memory of
# whoever starts a program into the program's own peak.


def peak() -> float:
    """The most memory this process has held so far, in MB."""
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024


def thrifty() -> Mapping[str, Any]:
    """Annotators that take no time: one box, its mask and its caption for each image."""
    import torch

    from scenewright.layout import Image, Layout, RunLengths

    class Whole:
        def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
            return [Layout.whole() for _ in images]

        def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
            return [RunLengths.encode((x.float().mean(0) > 127)[None]) for x in images]

        def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
            return [
                [f"{x.float().mean():.1f} on average" for _ in range(len(y))]
                for x, y in zip(images, layouts, strict=True)
            ]

    torch.set_num_threads(1)
    return dict.fromkeys(("detector", "segmenter", "captioner"), Whole())


def embedded() -> Mapping[str, Any]:
    """The annotators of ``experiment=embedded``."""
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    with initialize_config_module("scenewright.conf", version_base="1.3"):
        config = compose("annotate", ["experiment=embedded", "dataset=shapes", "output_dir=unused"])
    return instantiate(config.annotator, _convert_="all")


def work(annotators: str, count: int, side: int) -> None:
    """Annotate shapes into shards that are thrown away; print the peak of one batch and of all."""
    from scenewright.annotators.pipeline import annotate
    from scenewright.datasets.shapes import Shapes
    from scenewright.datasets.shards import ShardWriter, write_shards

    chosen = {"thrifty": thrifty, "embedded": embedded}[annotators]()
    with tempfile.TemporaryDirectory() as folder:
        for length in (8, count):  # one batch first: what the libraries need, however few the images
            with ShardWriter(f"{folder}/{length}") as writer:
                shapes = Shapes(length=length, height=side, width=side, difficulty="easy")
                write_shards(shapes, writer, partial(annotate, **chosen), samples_per_shard=max(count // 10, 1))
            print(peak())


def measure(annotators: str, count: int, side: int) -> tuple[float, float]:
    """The peaks of one batch and of ``count`` images, in MB, of a process of their own."""
    command = [sys.executable, __file__, "--work", annotators, str(count), str(side)]
    start = time.perf_counter()
    first, last = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    seconds = time.perf_counter() - start
    print(f"  {count:6d} images: peak {last:6.1f} MB, after one batch {first:6.1f} MB ({seconds:.0f} s)", flush=True)
    return first, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    parser.add_argument("--work", nargs=3, metavar=("ANNOTATORS", "COUNT", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        name, count, side = arguments.work
        work(name, int(count), int(side))
        return
    runs = (
        [("thrifty", 100, 300, 32)] if arguments.smoke else [("thrifty", 1000, 10_000, 32), ("embedded", 50, 500, 64)]
    )
    for name, few, many, side in runs:
        print(f"{name} annotators, shapes of {side} px")
        small, large = measure(name, few, side), measure(name, many, side)
        print(f"  {many} / {few} images: {large[1] / small[1]:.3f} (goal 1.2)", flush=True)


if __name__ == "__main__":
    main()
