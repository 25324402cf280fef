"""SAM 3: boxes and masks of every instance of a concept that a text names.

Source: Meta 2025, "SAM 3: Segment Anything with Concepts", arXiv 2511.16719. Network of
``transformers``; weights facebook/sam3 under Meta's SAM Licence, which must be accepted on
the hub before they can be fetched.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scenewright.annotators.prompts import distinct
from scenewright.annotators.suppression import suppress_as
from scenewright.annotators.text_features import TextFeatures
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout, RunLengths
from scenewright.networks import load_network

#: Masks that are brought to the size of their image at once.
_MASKS = 8


class SAM3:
    """Finds every instance of each tag, with its mask: no segmenter is needed after it.

    The network is asked for one tag at a time; the image is encoded once for all of its tags, and a
    tag once for as long as it keeps coming back.

    Args:
        checkpoint: a folder or hub id.
        box_threshold: a box is kept when its score is above this: its own, times that of the tag being there.
        mask_threshold: a pixel belongs to the mask when its probability is above this.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.
        batch_size: images that are encoded together.
        tag_batch_size: tags of one image that are asked for together.
        dtype: the network's precision.
        compile: with ``torch.compile``.
    """

    def __init__(
        self,
        checkpoint: str = "facebook/sam3",
        revision: str = "main",
        *,
        box_threshold: float = 0.5,
        mask_threshold: float = 0.5,
        nms_threshold: float | None = 0.7,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        batch_size: int = 2,
        tag_batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.box_threshold, self.mask_threshold, self.nms_threshold = box_threshold, mask_threshold, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.batch_size, self.tag_batch_size, self.dtype, self.compile = batch_size, tag_batch_size, dtype, compile

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags, the surest boxes first, with masks; an image without tags has no regions."""
        names = [distinct(x) for x in tags]
        asked = [(image, some) for image, some in zip(images, names, strict=True) if some]
        if asked:
            self._network.to(images[0].device)
        found = iter(in_batches(self._find, asked, self.batch_size))
        layouts = [next(found) if some else Layout.empty() for some in names]
        return [suppress_as(self, x) for x in layouts]

    def _find(self, asked: list[tuple[Image, list[str]]]) -> list[Layout]:
        images = [image for image, _ in asked]
        pixels = self._processor.image_processor(images, return_tensors="pt", device=images[0].device)["pixel_values"]
        features = self._network.get_vision_features(pixels.to(self._network.dtype))
        levels = [features.fpn_hidden_states, features.fpn_position_encoding]
        return [self._ask(x, [tuple(y[i : i + 1] for y in some) for some in levels]) for i, x in enumerate(asked)]

    def _ask(self, asked: tuple[Image, list[str]], levels: list[tuple[Tensor, ...]]) -> Layout:
        image, tags = asked
        return Layout.joined(in_batches(lambda some: self._answer(image, levels, some), tags, self.tag_batch_size))

    def _answer(self, image: Image, levels: list[tuple[Tensor, ...]], tags: list[str]) -> list[Layout]:
        """The regions of each tag in one image, whose features are given."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

        states, positions = (tuple(x.expand(len(tags), -1, -1, -1) for x in some) for some in levels)
        tokens = self._tokens(tags, image.device)
        texts = torch.stack(self._texts(tokens))  # (t, 32, d)
        outputs = self._network(
            vision_embeds=Sam3VisionEncoderOutput(fpn_hidden_states=states, fpn_position_encoding=positions),
            text_embeds=BaseModelOutputWithPooling(pooler_output=texts),
            attention_mask=tokens["attention_mask"],
        )
        scores = outputs.pred_logits.float().sigmoid() * outputs.presence_logits.float().sigmoid()  # (t, q)
        return [
            self._layout(image, *x)
            for x in zip(outputs.pred_boxes.float(), scores, outputs.pred_masks, tags, strict=True)
        ]

    def _layout(self, image: Image, boxes: Tensor, scores: Tensor, masks: Tensor, tag: str) -> Layout:
        kept = scores > self.box_threshold
        runs = [run for some in masks[kept].split(_MASKS) for run in self._runs(image, some)]
        return Layout(boxes=boxes[kept].cpu(), labels=[tag] * int(kept.sum()), scores=scores[kept].cpu(), masks=runs)

    def _runs(self, image: Image, masks: Tensor) -> list[RunLengths]:
        """Masks at the size of their image."""
        if not len(masks):
            return []
        large = torch.nn.functional.interpolate(
            masks.float().sigmoid()[None], size=image.shape[1:], mode="bilinear", align_corners=False
        )[0]
        return RunLengths.encode(large > self.mask_threshold)

    def _tokens(self, tags: list[str], device: torch.device) -> Any:
        length = self._network.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return self._processor.tokenizer(tags, return_tensors="pt", **options).to(device)

    def _texts(self, tokens: Any) -> list[Tensor]:
        """The features of each row of tokens, ``(32, d)``."""

        def encode(places: list[int]) -> list[Tensor]:
            inputs = {name: tokens[name][places] for name in ("input_ids", "attention_mask")}
            return list(self._network.get_text_features(**inputs).pooler_output)

        known = self._features.of([tuple(row) for row in tokens["input_ids"].tolist()], encode)
        return [x.to(tokens["input_ids"].device) for x in known]

    @cached_property
    def _network(self) -> Any:
        from transformers import Sam3Model

        checkpoint = Checkpoint(self.checkpoint, self.revision)
        network = load_network(Sam3Model, checkpoint, dtype=self.dtype)
        if self.compile:  # the image encoder is called by itself, and is where the time goes
            network.vision_encoder.compile()
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import Sam3Processor

        return Checkpoint(self.checkpoint, self.revision).load(Sam3Processor)

    @cached_property
    def _features(self) -> TextFeatures:
        return TextFeatures(capacity=1024)
