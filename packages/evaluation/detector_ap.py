"""DetectorAP: does a detector find the layout's objects where they are to be? COCO's average precision."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from hashlib import blake2b
from typing import Any

import numpy as np

from scenewright.evaluation.found_boxes import category, ious, look_for, unnamed
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Layout, Sample
from scenewright.protocols import Detector

#: COCO's: the surest of one category in one image.
_MOST_DETECTIONS = 100


class DetectorAP(RecordingMetric):
    """COCO's box AP of a detector that looks in each image for its layout's labels, the layout being the truth.

    ``detector_ap`` is AP at IoU 0.5 to 0.95, ``AP50`` and ``AP75`` at one IoU, ``AR`` the recall with 100 detections,
    each a mean over the categories of the whole set, 0 .. 1; NaN where no layout has a region. ``iou`` is, per region,
    the best IoU of a detection with its label, 0 if there is none. Categories are labels without regard to case and
    space around them, and of equal labels in one image each needs a detection of its own. An open-set detector is
    asked only for what is in the layout; what a closed-set one finds besides counts against it, if it is a category of
    another layout.

    Boxes of any size count alike; one without area cannot be found. A region without a label is not scored. An empty
    layout has nothing to find. Every image counts by itself, also several of one layout. A detector without scores is
    equally sure of all. For a full precision-recall curve the detector's own threshold must be low.

    Args:
        detector: its thresholds and suppression are part of what is measured.

    Source: Lin et al. 2014, "Microsoft COCO", arXiv 1405.0312; ``pycocotools`` does the matching and the averaging.
        Used so by GLIGEN's YOLO score and InstanceDiffusion's YOLO AP.
    """

    rounds = 200

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        found = look_for(self.detector, generated, [x.layout for x in samples])
        return [_record(*x) for x in zip(samples, found, strict=True)]

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        every: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for arrays in (x.arrays for x in sorted(records, key=_order)):
            for name in {*arrays["wanted"].tolist(), *arrays["labels"].tolist()}:
                every[name].append(_evaluated(arrays, name))
        found = [_accumulated(x) for x in every.values() if any(len(y["gtIgnore"]) for y in x)]
        if not found:
            return dict.fromkeys(("detector_ap", "AP50", "AP75", "AR", "iou"), np.nan)
        precisions = np.mean([x["precision"] for x in found], (0, 2, 3, 4, 5))  # (t,): over categories and recalls
        numbers = {"detector_ap": precisions.mean(), "AP50": precisions[0], "AP75": precisions[5]}
        numbers |= {"AR": np.mean([x["recall"] for x in found]), "iou": super().summarize(records)["iou"]}
        return {name: float(x) for name, x in numbers.items()}


def _record(sample: Sample, found: Layout) -> Record:
    layout = sample.layout
    names = [category(x) for x in layout.labels]
    overlaps = ious(layout.boxes, found.boxes).numpy()
    best = []
    for name, row in zip(names, overlaps, strict=True):
        same = [iou for iou, label in zip(row.tolist(), found.labels, strict=True) if label == name]
        best.append(max(same, default=0.0) if name else np.nan)
    scores = np.ones(len(found)) if found.scores is None else found.scores.double().numpy()
    arrays = {
        "boxes": found.boxes.numpy(),
        "scores": scores,
        "labels": np.array([_number(x) for x in found.labels], np.int64),
        "wanted": np.array([_number(x) for x in names if x], np.int64),
    }
    matches, kept = _matches(layout, names, found, scores)
    arrays = {name: x if name == "wanted" else x[kept] for name, x in arrays.items()}
    return Record(sample.key, {"iou": best}, arrays={**arrays, "matches": matches[:, kept]}, problems=unnamed(layout))


def _matches(layout: Layout, names: Sequence[str], found: Layout, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of COCO's ten IoUs, whether a detection is right; and whether it is sure enough to count at all."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys([*names, *found.labels]))}
    wanted = [i for i, name in enumerate(names) if name]
    truth = [_annotation(layout.boxes[i].tolist(), numbers[names[i]], 1 + k) for k, i in enumerate(wanted)]
    detected = [
        {**_annotation(box, numbers[label], 1 + i), "score": score}
        for i, (box, label, score) in enumerate(zip(found.boxes.tolist(), found.labels, scores.tolist(), strict=True))
    ]
    evaluator = _evaluator(_dataset(truth, numbers), _dataset(detected, numbers))
    with redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    right, kept = np.zeros((len(evaluator.params.iouThrs), len(found)), bool), np.zeros(len(found), bool)
    for one in evaluator.evalImgs:
        if one is not None and one["dtIds"]:
            places = np.array(one["dtIds"]) - 1
            right[:, places], kept[places] = one["dtMatches"] > 0, True
    return right, kept


def _annotation(box: Sequence[float], name: int, number: int) -> dict[str, Any]:
    # fractions of the image: an IoU is the same in any unit, and without bounds an area need not be in pixels
    x_min, y_min, x_max, y_max = box
    bbox = [x_min, y_min, x_max - x_min, y_max - y_min]
    return {"id": number, "image_id": 0, "category_id": name, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}


def _dataset(annotations: list[dict[str, Any]], numbers: Mapping[str, int]) -> Any:
    from pycocotools.coco import COCO

    with redirect_stdout(io.StringIO()):
        made: Any = COCO()  # its type stubs ask for what no evaluation needs
        made.dataset = {
            "images": [{"id": 0}],
            "annotations": annotations,
            "categories": [{"id": i} for i in numbers.values()],
        }
        made.createIndex()
    return made


def _evaluator(truth: Any = None, detected: Any = None) -> Any:
    from pycocotools.cocoeval import COCOeval

    made = COCOeval(truth, detected, "bbox")
    made.params.areaRng, made.params.areaRngLbl, made.params.maxDets = [[-1.0, 1e10]], ["all"], [_MOST_DETECTIONS]
    return made


def _evaluated(arrays: Mapping[str, np.ndarray], name: int) -> dict[str, Any]:
    """One category in one image, as COCO's evaluation has it before it averages."""
    chosen = arrays["labels"] == name
    matches = arrays["matches"][:, chosen]
    return {
        "dtScores": arrays["scores"][chosen],
        "dtMatches": matches,
        "dtIgnore": np.zeros_like(matches),
        "gtIgnore": np.zeros(np.count_nonzero(arrays["wanted"] == name)),
    }


def _accumulated(evaluated: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision and recall of one category over all images."""
    evaluator = _evaluator()
    evaluator.params.imgIds, evaluator.params.catIds = list(range(len(evaluated))), [0]
    evaluator.evalImgs, evaluator._paramsEval = evaluated, evaluator.params
    with redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return evaluator.eval


def _number(name: str) -> int:
    """A category as an array can hold it."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little", signed=True)


def _order(record: Record) -> tuple[str, list[bytes]]:
    """Where detections are equally sure the order decides; it must not be the order in which records come."""
    return record.key, [record.arrays[name].tobytes() for name in ("scores", "matches", "labels", "wanted")]
