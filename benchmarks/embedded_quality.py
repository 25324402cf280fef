"""How good and how fast the embedded annotators are on shapes, whose truth is known, beside what is aimed at.

Boxes are scored with COCO's own evaluation, without classes; the goals are a prototype's numbers.
"""

import argparse
import contextlib
import io
import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scenewright.annotators.appearance import describe
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Layout, Sample

#: What a prototype reached, in the order of ``COLUMNS``; None where it was not measured. Its shapes, and its colours
#: of easy scenes, were read from masks that it had found, all others from true masks as here.
GOALS: dict[tuple[str, int], tuple[float | None, ...]] = {
    ("easy", 64): (0.73, 0.91, 0.66, 0.91, 0.99, None, 0.91),
    ("easy", 128): (None,) * 7,
    ("easy", 256): (None,) * 7,
    ("full", 64): (0.58, 0.75, 0.56, 0.76, 0.85, 0.69, 0.78),
    ("full", 128): (0.65, 0.79, 0.55, 0.82, 0.88, 0.80, 0.81),
    ("full", 256): (0.71, 0.84, 0.58, 0.85, 0.89, 0.81, 0.82),
}
COLUMNS = ("AP50", "recall", "precision", "mask IoU", "colour", "pattern", "shape")
STAGES = ("tag", "detect", "segment", "caption")


def average_precision(found: list[Layout], samples: list[Sample]) -> float:
    """COCO's AP at IoU 0.5, all boxes of one class, up to 100 per image."""
    images, truths, results = [], [], []
    for number, (layout, sample) in enumerate(zip(found, samples, strict=True), 1):
        height, width = sample.image.shape[1:]
        images.append({"id": number, "height": height, "width": width})
        for box in _corner_and_size(sample.layout, height, width):
            place = {"id": len(truths) + 1, "image_id": number, "category_id": 1, "bbox": box}
            truths.append({**place, "area": box[2] * box[3], "iscrowd": 0})
        scores = layout.scores.tolist() if layout.scores is not None else [1.0] * len(layout)
        for box, score in zip(_corner_and_size(layout, height, width), scores, strict=True):
            results.append({"image_id": number, "category_id": 1, "bbox": box, "score": score})
    if not results:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = {"images": images, "annotations": truths, "categories": [{"id": 1, "name": "thing"}]}
        truth.createIndex()
        evaluation: Any = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def matched(found: Layout, truth: Layout, height: int, width: int) -> tuple[int, list[float]]:
    """How many true boxes are found at IoU 0.5, each by another; and the IoU of the masks of each such pair."""
    boxes, wanted = (np.array(_corner_and_size(x, height, width)).reshape(-1, 4) for x in (found, truth))
    if not len(boxes) or not len(wanted):
        return 0, []
    overlaps = np.asarray(coco_masks.iou(boxes, wanted, [0] * len(wanted)))
    pairs = []
    for at in range(len(boxes)):  # the surest first, as COCO does
        best = int(overlaps[at].argmax())
        if overlaps[at, best] >= 0.5:
            pairs.append((at, best))
            overlaps[:, best] = -1
    ours, theirs = _run_lengths(found), _run_lengths(truth)
    return len(pairs), [float(coco_masks.iou([ours[i]], [theirs[j]], [0])[0][0]) for i, j in pairs if ours]


def _run_lengths(layout: Layout) -> list[Any]:
    return [{"size": list(mask.size), "counts": mask.counts} for mask in layout.masks or []]


def _corner_and_size(layout: Layout, height: int, width: int) -> list[list[float]]:
    boxes = layout.pixel_boxes(height, width).tolist()
    return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes]


def appearance(sample: Sample) -> list[tuple[bool, bool, bool]]:
    """Whether first colour, pattern and shape are right, given each true mask."""
    pixels = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    right = []
    for drawn, mask in zip(sample.metadata["objects"], sample.layout.masks or [], strict=True):
        seen = describe(pixels, mask.decode().numpy())
        colour = bool(seen.colours) and seen.colours[0][0] == drawn["colour"]
        right.append((colour, seen.pattern == drawn["pattern"], seen.shape == drawn["shape"]))
    return right


def run(annotators: Any, samples: list[Sample]) -> tuple[list[float], dict[str, float]]:
    """The columns' numbers, and milliseconds per image by stage."""
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def timed(verb: str, plugin: Any, *arguments: Any) -> Any:
        start = time.process_time()
        result = getattr(plugin, verb)(*arguments)[0]
        seconds[verb] += time.process_time() - start
        return result

    found, pairs, shared = [], 0, list[float]()
    for sample in samples:
        image = [sample.image]
        tags = timed("tag", annotators["tagger"], image)
        layout = timed("detect", annotators["detector"], image, [tags])
        if len(layout):
            layout = replace(layout, masks=timed("segment", annotators["segmenter"], image, [layout]))
            timed("caption", annotators["captioner"], image, [layout])
        count, overlaps = matched(layout, sample.layout, *sample.image.shape[1:])
        found.append(layout)
        pairs, shared = pairs + count, shared + overlaps
    recall, precision = pairs / max(1, sum(len(s.layout) for s in samples)), pairs / max(1, sum(map(len, found)))
    numbers = [average_precision(found, samples), recall, precision, float(np.mean(shared)) if shared else 0.0]
    right = np.array([x for sample in samples for x in appearance(sample)]).mean(0).tolist()
    return [*numbers, *right], {verb: s / len(samples) * 1e3 for verb, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="six scenes of one kind, to see that it runs")
    parser.add_argument("--scenes", type=int, default=60, help="of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with initialize_config_module("scenewright.conf", version_base="1.3"):
        config = compose("annotate", ["experiment=embedded", "dataset=shapes", "output_dir=unused"])
    annotators = instantiate(config.annotator, _convert_="all")
    run(annotators, list(Shapes(length=1)))  # what is loaded on first use is not an image's time
    print("| scenes |" + "".join(f" {x} | goal |" for x in COLUMNS) + "".join(f" {x} ms |" for x in STAGES))
    print(f"|---|{'---|' * (2 * len(COLUMNS) + len(STAGES))}")
    for difficulty, side in list(GOALS)[3:4] if arguments.smoke else GOALS:
        count = 6 if arguments.smoke else arguments.scenes
        shapes = Shapes(length=count, height=side, width=side, seed=11, split="test", difficulty=difficulty)
        numbers, times = run(annotators, list(shapes))
        goals = (" –" if x is None else f" {x:.2f}" for x in GOALS[difficulty, side])
        cells = "".join(f" {x:.2f} |{goal} |" for x, goal in zip(numbers, goals, strict=True))
        print(f"| {difficulty} {side} px |{cells}{''.join(f' {t:.0f} |' for t in times.values())}", flush=True)


if __name__ == "__main__":
    main()
