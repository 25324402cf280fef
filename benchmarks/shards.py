"""How fast shards are written and read.

Baselines, measured in the same run: ``tarfile`` writing the same members, with one fsync at the end and without;
and plain ``webdataset`` decoding the same tars.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from materials.photographs import write_photographs
from webdataset.compat import WebDataset

from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter
from scenewright.datasets.stream import Stream
from scenewright.layout import Sample

SAMPLES_PER_SHARD = 500


def annotated(folder: Path, count: int, side: int) -> list[Sample]:
    """Photographs with the boxes, masks and captions of drawn scenes, so that records are as long as real ones."""
    scenes = Shapes(length=count, height=side, width=side)
    pairs = zip(ImageFolder(str(folder)), scenes, strict=True)
    samples = [Sample(p.key, p.source, s.caption, s.tags, s.layout) for p, s in pairs]
    for sample in samples:
        assert sample.image.shape[1:] == (side, side)  # as after annotating: the image is read and decoded
    return samples


def write_ours(samples: list[Sample], folder: Path) -> None:
    with ShardWriter(folder) as writer:
        for number, start in enumerate(range(0, len(samples), SAMPLES_PER_SHARD)):
            writer.write(number, samples[start : start + SAMPLES_PER_SHARD])


def write_bare(members: list[list[tuple[str, bytes]]], folder: Path, sync: bool) -> None:
    for number, shard in enumerate(members):
        with open(folder / f"{number:05d}.tar", "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for name, data in shard:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            if sync:
                file.flush()
                os.fsync(file.fileno())


def members_of(folder: Path) -> list[list[tuple[str, bytes]]]:
    """What is in the tars, in memory."""
    shards = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            shards.append([(info.name, tar.extractfile(info).read()) for info in tar])  # type: ignore[union-attr]
    return shards


def touch(samples: Iterable[Sample]) -> int:
    """Decode every image; the number of values."""
    return sum(sample.image.numel() for sample in samples)


def read_bare(folder: Path) -> int:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset: Any = WebDataset(urls, shardshuffle=False).decode("torchrgb8")
    return sum(sample["jpg"].numel() for sample in dataset)


def measure(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; there and back, so that none is always first."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            start = time.perf_counter()
            ways[way]()
            seconds[way].append(time.perf_counter() - start)
    return seconds


def report(seconds: dict[str, list[float]], ratios: list[tuple[str, str, str]], count: int, size: float) -> None:
    for way, all_of in seconds.items():
        print(f"  {way:<28} {count / median(all_of):8.0f} images/s {size / median(all_of) / 1e6:8.1f} MB/s")
    for ours, bare, goal in ratios:
        each = [b / o for o, b in zip(seconds[ours], seconds[bare], strict=True)]
        print(f"  {ours} / {bare}: {median(each):.2f} ({min(each):.2f} to {max(each):.2f}; {goal})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, side, repeats = (24, 256, 1) if arguments.smoke else (1500, 512, 3)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_photographs(root / "photographs", count, side)
        samples = annotated(root / "photographs", count, side)
        for name in ("ours", "bare"):
            (root / name).mkdir()
        write_ours(samples, root / "ours")
        members = members_of(root / "ours")
        size = sum(len(data) for shard in members for _, data in shard)
        print(f"{count} photographs of {side} px, {size / count / 1e3:.0f} kB each with their records")
        print("writing")
        writing: dict[str, Callable[[], Any]] = {
            "ShardWriter": lambda: write_ours(samples, root / "ours"),
            "tarfile, synced": lambda: write_bare(members, root / "bare", sync=True),
            "tarfile": lambda: write_bare(members, root / "bare", sync=False),
        }
        ratios = [
            ("ShardWriter", "tarfile, synced", "goal 0.8"),
            ("ShardWriter", "tarfile", "no goal: it may lose data"),
        ]
        report(measure(writing, repeats), ratios, count, size)
        print("reading and decoding")
        shards = Shards(root / "ours")
        reading: dict[str, Callable[[], Any]] = {
            "Shards": lambda: touch(shards),
            "Stream, shuffled": lambda: touch(Stream(shards)),
            "webdataset": lambda: read_bare(root / "ours"),
        }
        ratios = [(name, "webdataset", "goal 0.9") for name in ("Shards", "Stream, shuffled")]
        report(measure(reading, repeats), ratios, count, size)


if __name__ == "__main__":
    main()
