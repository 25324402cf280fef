"""OWLv2: boxes for whatever a text names, one text against every patch of the image.

Source: Minderer et al. 2023, "Scaling Open-Vocabulary Object Detection", arXiv 2306.09683.
Network of ``transformers`` (which needs scipy for it); weights
google/owlv2-base-patch16-ensemble and google/owlv2-large-patch14-ensemble, Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from scenewright.annotators.prompts import distinct
from scenewright.annotators.suppression import suppress_as
from scenewright.annotators.text_features import TextFeatures
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import load_network


class OWLv2:
    """Finds tags, each box with the one tag that it shows best.

    Any number of tags: a further one costs a product of matrices. Its text is encoded once for as
    long as it keeps coming back.

    Args:
        checkpoint: a folder or hub id.
        box_threshold: a box is kept when its score is above this.
        template: the sentence around a tag, with ``{}`` in its place; "{}" for the bare tag.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.
        batch_size: images that run together.
        dtype: the network's precision.
        compile: with ``torch.compile``.

    Raises:
        ValueError: the template has no place for a tag.
    """

    def __init__(
        self,
        checkpoint: str = "google/owlv2-base-patch16-ensemble",
        revision: str = "main",
        *,
        box_threshold: float = 0.2,
        template: str = "a photo of a {}",
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if "{}" not in template:
            raise ValueError(f"template must have {{}} where the tag goes, got {template!r}")
        self.checkpoint, self.revision = checkpoint, revision
        self.box_threshold, self.template, self.nms_threshold = box_threshold, template, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags, the surest boxes first; an image without tags has no regions."""
        names = [distinct(x) for x in tags]
        asked = [(image, some) for image, some in zip(images, names, strict=True) if some]
        if asked:
            self._network.to(images[0].device)
        found = iter(in_batches(self._find, asked, self.batch_size))
        return [suppress_as(self, next(found)) if some else Layout.empty() for some in names]

    def _find(self, asked: list[tuple[Image, list[str]]]) -> list[Layout]:
        images = [image for image, _ in asked]
        device = images[0].device
        pixels = self._processor.image_processor(images, return_tensors="pt", device=device)["pixel_values"]
        grid = self._network.image_embedder(pixels.to(self._network.dtype))[0]  # (b, h, w, d)
        patches = grid.flatten(1, 2)
        rows = [torch.stack(self._texts(some, device)) for _, some in asked]
        texts = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (b, t, e)
        counts = torch.tensor([len(row) for row in rows], device=device)
        asked_for = torch.arange(texts.shape[1], device=device) < counts[:, None]
        logits = self._network.class_predictor(patches, texts, asked_for)[0].float().cpu()  # (b, h * w, t)
        boxes = box_convert(self._network.box_predictor(patches, grid).float().cpu(), "cxcywh", "xyxy")
        return [self._layout(*x) for x in zip(images, logits, boxes, [some for _, some in asked], strict=True)]

    def _texts(self, tags: list[str], device: torch.device) -> list[Tensor]:
        """The normalised features of each tag's sentence, ``(e,)``."""
        tokens = self._processor.tokenizer(
            [self.template.replace("{}", tag) for tag in tags],
            padding="max_length",
            truncation=True,
            max_length=self._network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)

        def encode(places: list[int]) -> list[Tensor]:
            features = self._network.owlv2.get_text_features(
                input_ids=tokens["input_ids"][places], attention_mask=tokens["attention_mask"][places]
            ).pooler_output
            return list(features / torch.linalg.norm(features, dim=-1, keepdim=True))

        known = self._features.of([tuple(row) for row in tokens["input_ids"].tolist()], encode)
        return [x.to(device) for x in known]

    def _layout(self, image: Image, logits: Tensor, boxes: Tensor, tags: list[str]) -> Layout:
        surest, best = logits.max(1)
        scores = surest.sigmoid()
        kept = scores > self.box_threshold
        # the network's picture is the image in the upper left corner of a square
        height, width = image.shape[1:]
        square = boxes.new_tensor([max(height, width)]) / boxes.new_tensor([width, height, width, height])
        return Layout(boxes=boxes[kept] * square, labels=[tags[i] for i in best[kept].tolist()], scores=scores[kept])

    @cached_property
    def _network(self) -> Any:
        from transformers import Owlv2ForObjectDetection

        checkpoint = Checkpoint(self.checkpoint, self.revision)
        network = load_network(Owlv2ForObjectDetection, checkpoint, dtype=self.dtype)
        if self.compile:  # its parts are called, not the whole
            network.owlv2.vision_model.compile()
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import Owlv2Processor

        return Checkpoint(self.checkpoint, self.revision).load(Owlv2Processor)

    @cached_property
    def _features(self) -> TextFeatures:
        return TextFeatures(capacity=8192)
