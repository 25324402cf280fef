"""LayoutSuccess: how many of the layout's objects are there, where they are to be, and where they overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from scenewright.evaluation.found_boxes import category, ious, look_for, unnamed
from scenewright.evaluation.scoring import Record, RecordingMetric, mean
from scenewright.layout import Image, Layout, Sample
from scenewright.protocols import Detector

#: Made of all regions of the set alike, as COCO-MIG does; the others are means over images.
_POOLED = ("layout_success", "miou")


class LayoutSuccess(RecordingMetric):
    """COCO-MIG's success rates and mIoU, and OverLayBench's IoU of overlaps, from a detector's boxes.

    The detector looks for the layout's labels. Regions and detections of one label are matched one to one such that
    their IoUs have the largest sum; what has no IoU is no match. All numbers are 0 .. 1:

    - ``layout_success``: the share of regions whose detection has at least ``threshold`` IoU, over all regions;
    - ``miou``: the mean IoU over all regions, 0 for one that was not found;
    - ``image_success``: the share of images in which every region succeeds;
    - ``o_miou``: for each pair of overlapping regions, the IoU of the rectangle that their boxes share with the one
      that their detections share, 0 if they share none or one was not found; the mean over an image's pairs, then
      over images.

    Colours are not checked, which COCO-MIG does too; two regions never share a detection, which they may there. Labels
    are compared without case and space around them. A region without a label is not scored, nor is its image's success
    or a pair with it. An empty layout has no scores, one without overlaps no ``o_miou``; that lowers no coverage. A box
    without area cannot be found.

    Args:
        detector: its thresholds and suppression are part of what is measured.
        threshold: the least IoU of a success.
        min_overlap: two regions overlap if their boxes' IoU is above this.

    Raises:
        ValueError: ``threshold`` is not in (0, 1].

    Source: Zhou et al. 2024, "MIGC", arXiv 2402.05408, and its COCO-MIG benchmark (mIoU and instance success rate); Li
        et al. 2025, "OverLayBench" (O-mIoU).
    """

    rounds = 200

    def __init__(self, detector: Detector, *, threshold: float = 0.5, min_overlap: float = 0.0) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        super().__init__()
        self.detector, self.threshold, self.min_overlap = detector, threshold, min_overlap

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        found = look_for(self.detector, generated, [x.layout for x in samples])
        return [self._record(*x) for x in zip(samples, found, strict=True)]

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        pooled = {name: mean([s for x in records for s in x.objects[name]]) for name in _POOLED}
        means = super().summarize(records)
        return {**pooled, **{name: means.get(name, math.nan) for name in ("image_success", "o_miou")}}

    def _record(self, sample: Sample, found: Layout) -> Record:
        layout = sample.layout
        matched, overlap = _matched(layout, found)
        named = [bool(category(x)) for x in layout.labels]
        reached = [x if known else math.nan for x, known in zip(overlap, named, strict=True)]
        success = [float(x >= self.threshold) if known else math.nan for x, known in zip(overlap, named, strict=True)]
        image = {}
        if success:
            image["image_success"] = min(success) if all(named) else math.nan
        between = ious(layout.boxes, layout.boxes)
        pairs = [
            _shared_iou(layout.boxes[[i, k]], found.boxes, (matched[i], matched[k]))
            for i, k in combinations([i for i, known in enumerate(named) if known], 2)
            if between[i, k] > self.min_overlap
        ]
        if pairs:
            image["o_miou"] = mean(pairs)
        objects = {"layout_success": success, "miou": reached}
        scores = torch.ones(len(found)) if found.scores is None else found.scores
        arrays = {"boxes": found.boxes.numpy(), "scores": scores.numpy(), "matched": np.array(matched, np.int64)}
        return Record(sample.key, objects, image, arrays, unnamed(layout))


def _matched(layout: Layout, found: Layout) -> tuple[list[int], list[float]]:
    """Of each region, the place of its detection, or -1, and their IoU."""
    names = [category(x) for x in layout.labels]
    overlaps = ious(layout.boxes, found.boxes).numpy()
    same = np.array([[bool(x) and x == y for y in found.labels] for x in names], bool).reshape(overlaps.shape)
    overlaps = np.where(same, overlaps, 0.0)  # so that regions of several labels are matched at once
    places, reached = [-1] * len(layout), [0.0] * len(layout)
    for i, k in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
        if overlaps[i, k] > 0:
            places[i], reached[i] = int(k), float(overlaps[i, k])
    return places, reached


def _shared_iou(wanted: torch.Tensor, found: torch.Tensor, places: tuple[int, int]) -> float:
    """The IoU of what two boxes share with what their detections share."""
    if -1 in places:
        return 0.0
    both = found[list(places)]
    shared = [torch.cat([x[:, :2].amax(0), x[:, 2:].amin(0)]) for x in (wanted, both)]
    if bool((shared[1][2:] <= shared[1][:2]).any()):  # no rectangle: its area would be a product of negative sides
        return 0.0
    return float(ious(shared[0][None].to(shared[1]), shared[1][None]))
