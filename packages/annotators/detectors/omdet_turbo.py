"""OmDet-Turbo: boxes for whatever a text names, in real time.

Source: Zhao et al. 2024, "Real-time Transformer-based Open-Vocabulary Detection with
Efficient Fusion Head", arXiv 2403.06892. Network of ``transformers`` (it remembers texts
itself); weights omlab/omdet-turbo-swin-tiny-hf, Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from scenewright.annotators.prompts import chunks, distinct
from scenewright.annotators.suppression import suppress_as
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import load_network

#: An image, and tags that are asked for at once.
Question = tuple[Image, list[str]]


class OmDetTurbo:
    """Finds tags, each box with the one tag that it shows best.

    The network is told its task in a sentence that lists the tags. Where that is longer than its text
    encoder reads, tags are asked for in several sentences.

    Args:
        checkpoint: a folder or hub id.
        box_threshold: a box is kept when its score is above this.
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
        checkpoint: str = "omlab/omdet-turbo-swin-tiny-hf",
        revision: str = "main",
        *,
        box_threshold: float = 0.3,
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.box_threshold, self.nms_threshold = box_threshold, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags, the surest boxes first; an image without tags has no regions."""
        asked = [chunks(some, fits=self._fits) if (some := distinct(x)) else [] for x in tags]
        questions = [(image, x) for image, some in zip(images, asked, strict=True) for x in some]
        if questions:
            self._network.to(images[0].device)
        # the network has no mask for absent classes: only as many go together as there are
        answers = iter(in_batches(self._answer, questions, self.batch_size, alike=lambda x: len(x[1])))
        found = [Layout.joined([next(answers) for _ in some]) for some in asked]
        return [suppress_as(self, x) for x in found]

    def _fits(self, tags: list[str]) -> bool:
        return len(self._processor.tokenizer(self._task(tags))["input_ids"]) <= self._text_limit

    def _task(self, tags: list[str]) -> str:
        return f"Detect {', '.join(tags)}."

    @property
    def _text_limit(self) -> int:
        return self._network.config.text_config.max_position_embeddings

    def _answer(self, questions: list[Question]) -> list[Layout]:
        images = [image for image, _ in questions]
        device = images[0].device
        pixels = self._processor.image_processor(images, return_tensors="pt", device=device)["pixel_values"]
        classes = self._tokens([tag for _, tags in questions for tag in tags], device)
        tasks = self._tokens([self._task(tags) for _, tags in questions], device)
        outputs = self._network(
            pixel_values=pixels.to(self._network.dtype),
            classes_input_ids=classes["input_ids"],
            classes_attention_mask=classes["attention_mask"],
            tasks_input_ids=tasks["input_ids"],
            tasks_attention_mask=tasks["attention_mask"],
            classes_structure=torch.tensor([len(tags) for _, tags in questions], device=device),
        )
        surest, best = outputs.decoder_class_logits.float().cpu().max(2)  # (b, q)
        boxes = box_convert(outputs.decoder_coord_logits.float().cpu(), "cxcywh", "xyxy")  # (b, q, 4)
        names = [tags for _, tags in questions]
        return [self._layout(*x) for x in zip(boxes, surest.sigmoid(), best, names, strict=True)]

    def _tokens(self, texts: list[str], device: torch.device) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": self._text_limit}
        return self._processor.tokenizer(texts, return_tensors="pt", **options).to(device)

    def _layout(self, boxes: Tensor, scores: Tensor, best: Tensor, tags: list[str]) -> Layout:
        kept = scores > self.box_threshold
        return Layout(boxes=boxes[kept], labels=[tags[i] for i in best[kept].tolist()], scores=scores[kept])

    @cached_property
    def _network(self) -> Any:
        from transformers import OmDetTurboForObjectDetection

        checkpoint = Checkpoint(self.checkpoint, self.revision)
        return load_network(OmDetTurboForObjectDetection, checkpoint, dtype=self.dtype, compile=self.compile)

    @cached_property
    def _processor(self) -> Any:
        from transformers import OmDetTurboProcessor

        return Checkpoint(self.checkpoint, self.revision).load(OmDetTurboProcessor)
