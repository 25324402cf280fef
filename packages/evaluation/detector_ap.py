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

_ANY = (-1.0, 1e10)

#: COCO's: least and most square pixels.
_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


class DetectorAP(RecordingMetric):
    """COCO's box AP of a detector that looks in each image for its layout's labels, the layout being the truth.

    ``detector_ap`` is AP at IoU 0.5 to 0.95, ``AP50`` and ``AP75`` at one IoU, ``AR`` the recall with 100 detections,
    each a mean over the categories of the whole set, 0 .. 1; NaN where no layout has a region. ``iou`` is, per region,
    the best IoU of a detection with its label, 0 if there is none. Categories are labels without regard to case and
    space around them, and of equal labels in one image each needs a detection of its own. An open-set detector is
    asked only for what is in the layout; what a closed-set one finds besides counts against it, if it is a category of
    another layout.

    Boxes of any size count alike, unless ``by_size`` asks for ``AP_small``, ``AP_medium`` and ``AP_large`` too: AP of
    boxes below 32², up to 96² and above 96² square pixels of the image that is judged, where COCO measures masks; what
    has another size neither helps nor harms, and a size that no box has is NaN. A box without area cannot be found. A
    region without a label is not scored. An empty
    layout has nothing to find. Every image counts by itself, also several of one layout. A detector without scores is
    equally sure of all. For a full precision-recall curve the detector's own threshold must be low.

    Args:
        detector: its thresholds and suppression are part of what is measured.
        by_size: make a bootstrap four times as long.

    Source: Lin et al. 2014, "Microsoft COCO", arXiv 1405.0312; ``pycocotools`` does the matching and the averaging.
        Used so by GLIGEN's YOLO score and InstanceDiffusion's YOLO AP.
    """

    rounds = 200

    def __init__(self, detector: Detector, by_size: bool = False) -> None:
        super().__init__()
        self.detector, self.by_size = detector, by_size

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        found = look_for(self.detector, generated, [x.layout for x in samples])
        sizes = _SIZES if self.by_size else {}
        return [_record(*x, sizes=sizes) for x in zip(generated, samples, found, strict=True)]

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        records = sorted(records, key=_order)
        sizes = {f"AP_{size}": _by_category(records, size) for size in (_SIZES if self.by_size else {})}
        of_size = {name: np.mean([x["precision"] for x in some]) if some else np.nan for name, some in sizes.items()}
        found = _by_category(records)
        if not found:
            return dict.fromkeys(("detector_ap", "AP50", "AP75", "AR", "iou", *of_size), np.nan)
        precisions = np.mean([x["precision"] for x in found], (0, 2, 3, 4, 5))  # (t,): over categories and recalls
        numbers = {"detector_ap": precisions.mean(), "AP50": precisions[0], "AP75": precisions[5]}
        numbers |= {"AR": np.mean([x["recall"] for x in found]), "iou": super().summarize(records)["iou"], **of_size}
        return {name: float(x) for name, x in numbers.items()}


def _record(image: Image, sample: Sample, found: Layout, sizes: Mapping[str, tuple[float, float]]) -> Record:
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
    pixels = image.shape[-2] * image.shape[-1]
    matches, kept = _matches(layout, names, found, scores, {"": _ANY, **sizes}, pixels)
    arrays = {name: x if name == "wanted" else x[kept] for name, x in arrays.items()}
    arrays["matches"] = matches[""]["matches"][:, kept]
    for size in sizes:
        some = matches[size]
        ignored = {"ignored": some["ignored"][:, kept], "unasked": some["unasked"]}
        arrays |= {f"{name}_{size}": x for name, x in {"matches": some["matches"][:, kept], **ignored}.items()}
    return Record(sample.key, {"iou": best}, arrays=arrays, problems=unnamed(layout))


def _matches(
    layout: Layout,
    names: Sequence[str],
    found: Layout,
    scores: np.ndarray,
    sizes: Mapping[str, tuple[float, float]],
    pixels: int,
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """What COCO's matching makes of one image, by size; and whether a detection is sure enough to count at all.

    Returns:
        By size, for each of COCO's ten IoUs, ``matches``: whether a detection is right, and ``ignored``: whether it
        does not count since it is of another size; ``unasked``: which regions are of another size.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys([*names, *found.labels]))}
    wanted = [i for i, name in enumerate(names) if name]
    truth = [_annotation(layout.boxes[i].tolist(), numbers[names[i]], 1 + k, pixels) for k, i in enumerate(wanted)]
    detected = [
        {**_annotation(box, numbers[label], 1 + i, pixels), "score": score}
        for i, (box, label, score) in enumerate(zip(found.boxes.tolist(), found.labels, scores.tolist(), strict=True))
    ]
    evaluator = _evaluator(_dataset(truth, numbers), _dataset(detected, numbers), sizes)
    with redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    shape, kept = (len(evaluator.params.iouThrs), len(found)), np.zeros(len(found), bool)
    every = {
        size: {
            "matches": np.zeros(shape, bool),
            "ignored": np.zeros(shape, bool),
            "unasked": np.zeros(len(wanted), bool),
        }
        for size in sizes
    }
    for one in filter(None, evaluator.evalImgs):
        some = every[next(size for size, bounds in sizes.items() if list(bounds) == list(one["aRng"]))]
        some["unasked"][np.array(one["gtIds"], int) - 1] = one["gtIgnore"]
        if one["dtIds"]:
            places = np.array(one["dtIds"]) - 1
            some["matches"][:, places], some["ignored"][:, places] = one["dtMatches"] > 0, one["dtIgnore"]
            kept[places] = True
    return every, kept


def _annotation(box: Sequence[float], name: int, number: int, pixels: int) -> dict[str, Any]:
    # boxes as fractions of the image, since an IoU is the same in any unit; their areas in pixels
    x_min, y_min, x_max, y_max = box
    bbox = [x_min, y_min, x_max - x_min, y_max - y_min]
    area = bbox[2] * bbox[3] * pixels
    return {"id": number, "image_id": 0, "category_id": name, "bbox": bbox, "area": area, "iscrowd": 0}


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


def _evaluator(truth: Any = None, detected: Any = None, sizes: Mapping[str, tuple[float, float]] | None = None) -> Any:
    from pycocotools.cocoeval import COCOeval

    made = COCOeval(truth, detected, "bbox")
    bounds = {"": _ANY} if sizes is None else sizes
    made.params.areaRng, made.params.areaRngLbl = [list(x) for x in bounds.values()], list(bounds)
    made.params.maxDets = [_MOST_DETECTIONS]
    return made


def _by_category(records: Sequence[Record], size: str = "") -> list[dict[str, Any]]:
    """Precision and recall of each category that is asked for, in boxes of one size or of any."""
    every: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for arrays in (x.arrays for x in records):
        for name in {*arrays["wanted"].tolist(), *arrays["labels"].tolist()}:
            every[name].append(_evaluated(arrays, name, f"_{size}" if size else ""))
    return [_accumulated(x) for x in every.values() if any(not y["gtIgnore"].all() for y in x)]


def _evaluated(arrays: Mapping[str, np.ndarray], name: int, size: str) -> dict[str, Any]:
    """One category in one image, as COCO's evaluation has it before it averages."""
    chosen, asked = arrays["labels"] == name, arrays["wanted"] == name
    matches = arrays[f"matches{size}"][:, chosen]
    return {
        "dtScores": arrays["scores"][chosen],
        "dtMatches": matches,
        "dtIgnore": arrays[f"ignored{size}"][:, chosen] if size else np.zeros_like(matches),
        "gtIgnore": arrays[f"unasked{size}"][asked] if size else np.zeros(np.count_nonzero(asked)),
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
