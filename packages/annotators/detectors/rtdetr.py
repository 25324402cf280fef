"""RT-DETRv2: boxes of the classes it was trained on, in real time.

Source: Lv et al. 2024, "RT-DETRv2: Improved Baseline with Bag-of-Freebies for Real-Time
Detection Transformer", arXiv 2407.17140. Network of ``transformers``; weights
PekingU/rtdetr_v2_r18vd, _r34vd, _r50vd and _r101vd (COCO's 80 classes), Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from scenewright.annotators.prompts import distinct
from scenewright.annotators.suppression import suppress_as
from scenewright.batching import in_batches
from scenewright.checkpoints import VISION_FILES, Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import load_network


class RTDETR:
    """Finds the classes of its training set; each box has its surest class.

    Args:
        checkpoint: a folder or hub id.
        box_threshold: a box is kept when its score is above this.
        restrict_to_tags: only boxes whose class is one of the image's tags, whatever their case; else tags are
            ignored.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.
        batch_size: images that run together.
        dtype: the network's precision.
        compile: with ``torch.compile``.
    """

    def __init__(
        self,
        checkpoint: str = "PekingU/rtdetr_v2_r50vd",
        revision: str = "main",
        *,
        box_threshold: float = 0.5,
        restrict_to_tags: bool = False,
        nms_threshold: float | None = 0.7,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.box_threshold, self.restrict_to_tags, self.nms_threshold = box_threshold, restrict_to_tags, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, VISION_FILES)]

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the classes, the surest boxes first."""
        wanted = [bool(distinct(x)) or not self.restrict_to_tags for x in tags]
        asked = [image for image, yes in zip(images, wanted, strict=True) if yes]
        if asked:
            self._network.to(images[0].device)
        found = iter(in_batches(self._find, asked, self.batch_size))
        layouts = [next(found) if yes else Layout.empty() for yes in wanted]
        return [self._chosen(layout, names) for layout, names in zip(layouts, tags, strict=True)]

    def _find(self, images: list[Image]) -> list[Layout]:
        pixels = self._processor(images, return_tensors="pt", device=images[0].device)["pixel_values"]
        outputs = self._network(pixel_values=pixels.to(self._network.dtype))
        surest, best = outputs.logits.float().cpu().max(2)  # (b, q)
        boxes = box_convert(outputs.pred_boxes.float().cpu(), "cxcywh", "xyxy")  # (b, q, 4)
        return [self._layout(*x) for x in zip(boxes, surest.sigmoid(), best, strict=True)]

    def _layout(self, boxes: Tensor, scores: Tensor, best: Tensor) -> Layout:
        names = self._network.config.id2label
        kept = scores > self.box_threshold
        return Layout(boxes=boxes[kept], labels=[names[i] for i in best[kept].tolist()], scores=scores[kept])

    def _chosen(self, layout: Layout, tags: Sequence[str]) -> Layout:
        if self.restrict_to_tags:
            asked = {tag.strip().lower() for tag in tags}
            layout = layout.keep(torch.tensor([x.lower() in asked for x in layout.labels], dtype=torch.bool))
        if not len(layout):
            return Layout.empty()
        return suppress_as(self, layout)

    @cached_property
    def _network(self) -> Any:
        from transformers import RTDetrV2ForObjectDetection

        checkpoint = self.checkpoints[0]
        return load_network(RTDetrV2ForObjectDetection, checkpoint, dtype=self.dtype, compile=self.compile)

    @cached_property
    def _processor(self) -> Any:
        from transformers import RTDetrImageProcessor

        return self.checkpoints[0].load(RTDetrImageProcessor)
