"""SAM: cuts out what each box frames.

Source: Kirillov et al. 2023, "Segment Anything", arXiv 2304.02643, in transformers' implementation. Weights:
https://huggingface.co/facebook/sam-vit-huge, also -large and -base, Apache-2.0.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scenewright.annotators.box_prompts import (
    PointPrompted,
    Seen,
    as_inputs,
    best,
    ready,
    thickened,
)
from scenewright.checkpoints import VISION_FILES, Checkpoint
from scenewright.layout import Image
from scenewright.networks import precision


class SAM(PointPrompted):
    """Segments each box with the Segment Anything Model.

    An image is looked at once, with its longer side at 1024 pixels; masks are cut at the image's own size. A mask may
    reach beyond its box, and may be empty.

    Args:
        checkpoint: of transformers' ``SamModel``, a folder or a hub id.
        multimask: take the best of three candidates (part, object, whole) by predicted IoU; else the single one, as
            is right for boxes.
        batch_size: images that are looked at together.
        boxes_per_call: boxes, of any of these images, that are decoded together.
        dtype: of the image encoder: "float32", "bfloat16" or "float16". Prompts and masks are float32.
        compile: compile the image encoder on first use.
    """

    def __init__(
        self,
        checkpoint: str = "facebook/sam-vit-huge",
        revision: str = "main",
        *,
        multimask: bool = False,
        batch_size: int = 4,
        boxes_per_call: int = 64,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision, self.multimask = checkpoint, revision, multimask
        self.batch_size, self.boxes_per_call = batch_size, boxes_per_call
        self.dtype, self.compile = dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, VISION_FILES)]

    def _look(self, images: list[Image]) -> Seen:
        network, processor = self._network.to(images[0].device), self._processor
        shapes = [tuple(image.shape[1:]) for image in images]
        thick = [thickened(image, processor.size.longest_edge) for image in images]
        inputs = processor(images=thick, return_tensors="pt", device=images[0].device)
        sizes = [(int(height), int(width)) for height, width in inputs["reshaped_input_sizes"]]
        embeddings = network.get_image_embeddings(inputs["pixel_values"].to(precision(self.dtype))).float()

        def decode(places: list[int], prompts: Tensor) -> tuple[Tensor, Tensor]:
            found = network(image_embeddings=embeddings[places], **as_inputs(prompts, self.multimask))
            return best(found.pred_masks[:, 0], found.iou_scores[:, 0])

        def enlarge(i: int, logits: Tensor) -> Tensor:
            return processor.post_process_masks([logits[:, None]], [shapes[i]], [sizes[i]])[0][:, 0]

        return Seen(sizes, decode, enlarge)

    @cached_property
    def _processor(self) -> Any:
        from transformers import SamImageProcessor

        return self.checkpoints[0].load(SamImageProcessor)

    @cached_property
    def _network(self) -> Any:
        from transformers import SamModel

        network = self.checkpoints[0].load(SamModel, dtype=torch.float32)
        encoder = network.vision_encoder
        return ready(network, encoder, [encoder], self.dtype, self.compile)
