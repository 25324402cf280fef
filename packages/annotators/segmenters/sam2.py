"""SAM 2: cuts out what each box frames, faster than SAM.

Source: Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714, in transformers'
implementation. Weights: https://huggingface.co/facebook/sam2.1-hiera-small, also -tiny, -base-plus and -large,
Apache-2.0.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scenewright.annotators.box_prompts import PointPrompted, Seen, as_inputs, best, ready
from scenewright.checkpoints import VISION_FILES, Checkpoint
from scenewright.layout import Image
from scenewright.networks import precision


class SAM2(PointPrompted):
    """Segments each box with SAM 2.

    An image is looked at once, squashed to a square of 1024 pixels; masks are cut at the image's own size. A mask may
    reach beyond its box, and may be empty.

    Args:
        checkpoint: of transformers' ``Sam2Model``, a folder or a hub id.
        multimask: take the best of three candidates (part, object, whole) by predicted IoU; else the single one,
            unless the checkpoint's own rule finds it unstable.
        batch_size: images that are looked at together.
        boxes_per_call: boxes, of any of these images, that are decoded together.
        dtype: of the image encoder: "float32", "bfloat16" or "float16". Prompts and masks are float32.
        compile: compile the image encoder on first use.
    """

    def __init__(
        self,
        checkpoint: str = "facebook/sam2.1-hiera-small",
        revision: str = "main",
        *,
        multimask: bool = False,
        batch_size: int = 8,
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
        inputs = processor(images=images, return_tensors="pt", device=images[0].device)
        size = (int(inputs["pixel_values"].shape[2]), int(inputs["pixel_values"].shape[3]))
        levels = network.get_image_embeddings(inputs["pixel_values"].to(precision(self.dtype)))
        levels = [level.float() for level in levels]

        def decode(places: list[int], prompts: Tensor) -> tuple[Tensor, Tensor]:
            found = network(
                image_embeddings=[level[places] for level in levels],
                **as_inputs(prompts, self.multimask),
            )
            return best(found.pred_masks[:, 0], found.iou_scores[:, 0])

        def enlarge(i: int, logits: Tensor) -> Tensor:
            return processor.post_process_masks([logits[:, None]], [shapes[i]])[0][:, 0]

        return Seen([size] * len(images), decode, enlarge)

    @cached_property
    def _processor(self) -> Any:
        from transformers import Sam2ImageProcessor

        return self.checkpoints[0].load(Sam2ImageProcessor)

    @cached_property
    def _network(self) -> Any:
        from transformers import Sam2Model

        network = self.checkpoints[0].load(Sam2Model, dtype=torch.float32)
        encoder, decoder = network.vision_encoder, network.mask_decoder
        # two layers of the decoder are part of what is computed once per image
        return ready(network, encoder, [encoder, decoder.conv_s0, decoder.conv_s1], self.dtype, self.compile)
