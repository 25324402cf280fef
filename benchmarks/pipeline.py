"""What the pipeline adds to the annotators' own time, and what it saves against a loop over images and crops.

Baselines, measured in the same run: the sum of the plugin calls on the same batches, decoded beforehand; and a loop
as the published scripts have it: an image is read, annotated, its crops captioned one by one, and a JSON file
written, before the next is looked at.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from materials.networks import RandomBLIP, RandomGroundingDINO, RandomSAM
from materials.photographs import write_photographs
from more_itertools import batched

from scenewright.annotators.pipeline import annotate
from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shards import ShardWriter, write_shards
from scenewright.layout import Image, Layout

#: tagger, detector, segmenter and captioner; any may be missing.
Annotators = Mapping[str, Any]


def embedded() -> Annotators:
    """The annotators of ``experiment=embedded``."""
    with initialize_config_module("scenewright.conf", version_base="1.3"):
        config = compose("annotate", ["experiment=embedded", "dataset=shapes", "output_dir=unused"])
    return instantiate(config.annotator, _convert_="all")


def networks() -> Annotators:
    """Networks of medium size with random weights."""
    return {"detector": RandomGroundingDINO(), "segmenter": RandomSAM(), "captioner": RandomBLIP()}


def call_plugins(annotators: Annotators, images: list[Image], batch_size: int) -> float:
    """Seconds inside the plugins, called batch after batch on images that are decoded."""
    seconds = 0.0

    def timed(name: str, verb: str, *arguments: Any) -> list[Any]:
        nonlocal seconds
        start = time.perf_counter()
        results = getattr(annotators[name], verb)(*arguments)
        seconds += time.perf_counter() - start
        return results

    for batch in batched(images, batch_size):
        tags, layouts = [[] for _ in batch], [Layout.empty() for _ in batch]
        if "tagger" in annotators:
            tags = timed("tagger", "tag", batch)
        if "detector" in annotators:
            layouts = timed("detector", "detect", batch, tags)
        full = [(image, layout) for image, layout in zip(batch, layouts, strict=True) if len(layout)]
        found, layouts = [image for image, _ in full], [layout for _, layout in full]
        if "segmenter" in annotators and found:
            masks = timed("segmenter", "segment", found, layouts)
            layouts = [replace(layout, masks=m) for layout, m in zip(layouts, masks, strict=True)]
        if "captioner" in annotators:
            if found:
                timed("captioner", "caption", found, layouts)
            timed("captioner", "caption", batch, [Layout.whole()] * len(batch))
    return seconds


def run_pipeline(annotators: Annotators, folder: Path, batch_size: int) -> float:
    """Seconds from image files to whole shards."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        with ShardWriter(output) as writer:
            write_shards(ImageFolder(str(folder)), writer, partial(annotate, **annotators, batch_size=batch_size))
        return time.perf_counter() - start


def loop(annotators: Annotators, folder: Path) -> float:
    """Seconds of one image after the other, one crop after the other, one JSON file each."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        for sample in ImageFolder(str(folder)):
            image, tags, layout, captions = [sample.image], [[]], Layout.empty(), []
            if "tagger" in annotators:
                tags = annotators["tagger"].tag(image)
            if "detector" in annotators:
                layout = annotators["detector"].detect(image, tags)[0]
            if "segmenter" in annotators and len(layout):
                layout = replace(layout, masks=annotators["segmenter"].segment(image, [layout])[0])
            if "captioner" in annotators:
                crops = [layout.keep(torch.tensor([i])) for i in range(len(layout))]
                captions = [annotators["captioner"].caption(image, [crop])[0][0] for crop in [Layout.whole(), *crops]]
            record: dict[str, Any] = {"tags": tags[0], "boxes": layout.boxes.tolist(), "labels": layout.labels}
            record |= {"captions": captions, "masks": [m.counts.decode() for m in layout.masks or []]}
            Path(output, f"{sample.key}.json").write_text(json.dumps(record, indent=4))
        return time.perf_counter() - start


def compare(name: str, annotators: Annotators, count: int, side: int, batch_size: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_photographs(folder, count, side)
        images = [sample.image for sample in ImageFolder(str(folder))]
        call_plugins(annotators, images[:batch_size], batch_size)  # builds networks, fills caches
        ways: dict[str, Callable[[], float]] = {
            "pure": lambda: call_plugins(annotators, images, batch_size),
            "pipeline": lambda: run_pipeline(annotators, folder, batch_size),
            "loop": lambda: loop(annotators, folder),
        }
        rounds = []
        for number in range(repeats):  # there and back, so that none is always first
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            rounds.append({way: ways[way]() for way in order})
    print(f"{name}: {count} photographs of {side} px, {', '.join(annotators)}, batches of {batch_size}")
    for way in ways:
        print(f"  {way:<9} {median(x[way] for x in rounds) / count * 1e3:8.1f} ms/image")
    added, saved = [x["pipeline"] / x["pure"] for x in rounds], [x["loop"] / x["pipeline"] for x in rounds]
    print(f"  pipeline / pure  {median(added):.3f}  (of {repeats}: {min(added):.3f} to {max(added):.3f}; goal 1.10)")
    print(f"  loop / pipeline  {median(saved):.2f} times  ({min(saved):.2f} to {max(saved):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    parser.add_argument("--only", choices=["embedded", "networks"])
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV inside the annotators")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    count, repeats = (1, 1) if arguments.smoke else (32, 3)
    if arguments.only != "networks":
        compare("embedded", embedded(), count, side=512, batch_size=8, repeats=repeats)
    if arguments.only != "embedded":
        compare("networks", networks(), count, side=512, batch_size=8, repeats=repeats)


if __name__ == "__main__":
    main()
