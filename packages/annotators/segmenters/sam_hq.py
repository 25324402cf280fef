"""SAM-HQ: SAM with finer outlines.

Source: Ke et al. 2023, "Segment Anything in High Quality", arXiv 2306.01567, in transformers' implementation. Weights:
https://huggingface.co/syscv-community/sam-hq-vit-huge, also -large and -base, Apache-2.0.
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


class SAMHQ(PointPrompted):
    """Segments each box with SAM-HQ, whose decoder also sees early features of the image.

    Those features come from the first block with global attention. A predictor made for plain SAM does not keep them,
    and then nothing is segmented at all; here they always go along.

    Args:
        checkpoint: of transformers' ``SamHQModel``, a folder or a hub id.
        hq_token_only: take the fine mask alone; else the sum of its logits and plain SAM's, as the paper does.
        multimask: add the fine mask to the best of plain SAM's three candidates by predicted IoU; else to its single
            one.
        batch_size: images that are looked at together.
        boxes_per_call: boxes of one image that are decoded together.
        dtype: of the image encoder: "float32", "bfloat16" or "float16". Prompts and masks are float32.
        compile: compile the image encoder on first use.
    """

    #: The early features are as wide as the encoder: repeating them for each prompt would cost more than decoding.
    across_images = False

    def __init__(
        self,
        checkpoint: str = "syscv-community/sam-hq-vit-huge",
        revision: str = "main",
        *,
        hq_token_only: bool = False,
        multimask: bool = False,
        batch_size: int = 4,
        boxes_per_call: int = 64,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.hq_token_only, self.multimask = hq_token_only, multimask
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
        embeddings, early = network.get_image_embeddings(inputs["pixel_values"].to(precision(self.dtype)))
        embeddings, early = embeddings.float(), early[0].float()  # the decoder reads the first of the early ones only

        def decode(places: list[int], prompts: Tensor) -> tuple[Tensor, Tensor]:
            i, inputs = places[0], as_inputs(prompts, self.multimask)
            found = network(
                image_embeddings=embeddings[i : i + 1],
                intermediate_embeddings=[early[i : i + 1]],
                **{name: x.transpose(0, 1) if isinstance(x, Tensor) else x for name, x in inputs.items()},
                hq_token_only=self.hq_token_only,
            )
            # with several candidates the network has put the best one first; the fine mask alone has no rivals
            if self.hq_token_only:
                return found.pred_masks[0, :, 0], found.iou_scores[0, :, 0]
            return best(found.pred_masks[0], found.iou_scores[0])

        def enlarge(i: int, logits: Tensor) -> Tensor:
            return processor.post_process_masks([logits[:, None]], [shapes[i]], [sizes[i]])[0][:, 0]

        return Seen(sizes, decode, enlarge)

    @cached_property
    def _processor(self) -> Any:
        from transformers import SamImageProcessor

        return self.checkpoints[0].load(SamImageProcessor)

    @cached_property
    def _network(self) -> Any:
        from transformers import SamHQModel

        network = self.checkpoints[0].load(SamHQModel, dtype=torch.float32)
        encoder = network.vision_encoder
        return ready(network, encoder, [encoder], self.dtype, self.compile)
