"""SAMIoU: does a promptable segmenter find a thing of the box's extent in the box?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.crops import truncated
from scenewright.evaluation.found_boxes import ious
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Layout, RunLengths, Sample
from scenewright.protocols import PointSegmenter, ScoringSegmenter, Segmenter


class SAMIoU(RecordingMetric):
    """The IoU of each box with the tight box of what is segmented there, 0 .. 1; 0 where nothing is.

    A segmenter that is prompted with the box itself tends to answer with something of its size, whatever is drawn.
    ``strict`` prompts with the box's centre alone: the extent must come from the image. That is another measurement,
    never to be compared with the first one. An image is looked at once for all its boxes, and the layout's own masks
    are not shown.

    A mask that its segmenter believes to have ``min_predicted_iou`` or less scores 0. A segmenter that does not say
    what it believes (``grabcut``, one behind a cache) has all its masks taken.

    The tight box of a mask has at least one pixel each way, so that a box smaller than a pixel cannot score 1, and one
    without area scores 0. Equal labels and captions do not matter; an empty layout has no scores.

    Args:
        min_predicted_iou: SAM's predictions are about 0 .. 1; below that takes every mask.
        strict: needs a segmenter that takes points.
        compat: as the reference does: boxes are cut off to whole pixels before they are shown, and the tight box ends
            before its last row and column, so that even a perfect mask does not reach 1 and one of a single column
            scores 0.

    Source: Cheng et al. 2024, arXiv 2409.04847, and its ``evaluation.py``, which looks at the image once per box.
    """

    def __init__(
        self, segmenter: Segmenter, *, min_predicted_iou: float = 0.5, strict: bool = False, compat: bool = False
    ) -> None:
        super().__init__()
        self.segmenter, self.min_predicted_iou, self.strict, self.compat = segmenter, min_predicted_iou, strict, compat

    def check(self) -> None:
        """Make sure, before any work is done, that the segmenter can be asked like this.

        Raises:
            ValueError: it takes no points.
        """
        if self.strict and not isinstance(self.segmenter, PointSegmenter):
            name = type(self.segmenter).__name__
            raise ValueError(f"strict=true prompts with points, which {name} does not take; sam, sam2 and sam_hq do")

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        self.check()
        layouts = [self._asked(*x) for x in zip(generated, samples, strict=True)]
        found = self._segment(generated, layouts)
        return [
            Record(sample.key, {"sam_iou": self._scores(image, layout, masks)})
            for image, sample, layout, masks in zip(generated, samples, layouts, found, strict=True)
        ]

    def _asked(self, image: Image, sample: Sample) -> Layout:
        """The layout as the segmenter is shown it: masks would tell it what is to be found out."""
        layout = replace(sample.layout, masks=None)
        if not self.compat:
            return layout
        height, width = image.shape[1:]
        boxes = torch.tensor(truncated(image, layout), dtype=torch.float32).reshape(-1, 4)
        return replace(layout, boxes=boxes / torch.tensor([width, height, width, height]))

    def _segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[tuple[RunLengths, float]]]:
        if self.strict:
            assert isinstance(self.segmenter, PointSegmenter)
            return self.segmenter.segment_points(images, [(x.boxes[:, :2] + x.boxes[:, 2:]) / 2 for x in layouts])
        if isinstance(self.segmenter, ScoringSegmenter):
            return self.segmenter.segment_scored(images, layouts)
        return [[(mask, float("inf")) for mask in masks] for masks in self.segmenter.segment(images, layouts)]

    def _scores(self, image: Image, layout: Layout, found: Sequence[tuple[RunLengths, float]]) -> list[float]:
        boxes = layout.pixel_boxes(*image.shape[1:])
        extents = torch.stack([self._extent(mask) for mask, _ in found]) if found else torch.zeros(0, 4)
        sure = [predicted > self.min_predicted_iou for _, predicted in found]
        return [iou if x else 0.0 for iou, x in zip(ious(boxes, extents).diagonal().tolist(), sure, strict=True)]

    def _extent(self, mask: RunLengths) -> Float[Tensor, " 4"]:
        """The tight box of a mask in pixels; no area for an empty one."""
        height, width = mask.size
        box = (mask.box.double() * torch.tensor([width, height, width, height])).round().float()
        return box - torch.tensor([0.0, 0.0, 1.0, 1.0]) if self.compat and mask.area else box
