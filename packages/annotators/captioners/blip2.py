"""BLIP2: a language model that was taught to see describes each crop; the captioner of InstanceDiffusion's data.

Source: Li et al. 2023, "BLIP-2", arXiv 2301.12597. Weights: ``Salesforce/blip2-flan-t5-xl``, ``-xxl`` (MIT; FLAN-T5 is
Apache-2.0) and ``Salesforce/blip2-opt-2.7b`` (MIT, but OPT's own licence allows no commercial use).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from scenewright.annotators.captions import describe
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import precision

_QUANTIZATIONS = (None, "8bit")


class BLIP2:
    """Describes each region's crop, squashed to 224 x 224, in a few words.

    It was taught to go on from nothing, so it does best without a prompt; "Question: … Answer:" and "a photo of" are
    others that it knows. InstanceDiffusion's data: ``flan-t5-xxl``, ``num_beams=5``, ``max_new_tokens=30``,
    ``legacy=true``, ``small=empty``, ``clean=false``. Rich-Context's: greedy, ``max_new_tokens=19`` (their length of 20
    counts the token that decoding starts from), ``quantization=8bit``, ``legacy=true``, ``clean=false``.

    Args:
        prompt: for regions; ``{label}`` stands for the label.
        image_prompt: for whole images.
        padding: context around a crop, as a fraction of the box's width and height.
        blur: of what is around the region in its crop, as a fraction of the crop's longer side.
        min_area: regions of fewer pixels are not looked at.
        small: what these get: their "label", or "empty" text.
        legacy: crop as the reference pipelines do: truncated corners, black outside of the image, no padding.
        clean: make one plain sentence of each caption.
        num_beams: 1 is greedy.
        length_penalty: above 0 favours long captions; of beam search only.
        quantization: "8bit" halves the memory (needs ``bitsandbytes`` and a GPU, where the weights then are, whatever
            ``dtype``); captions may then depend on the batch a little. null for ``dtype``.
        batch_size: crops that are looked at together, of any images.
        compile: the image encoder and the transformer after it.

    Raises:
        ValueError: there is no such quantization.
    """

    def __init__(
        self,
        checkpoint: str = "Salesforce/blip2-flan-t5-xl",
        revision: str = "main",
        prompt: str = "",
        image_prompt: str = "",
        padding: float = 0.1,
        blur: float = 0.0,
        min_area: int = 1024,
        small: str = "label",
        legacy: bool = False,
        clean: bool = True,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        quantization: str | None = None,
        batch_size: int = 16,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if quantization not in _QUANTIZATIONS:
            raise ValueError(f'quantization must be null or "8bit", got {quantization!r}')
        self.checkpoint, self.revision = checkpoint, revision
        self.prompt, self.image_prompt = prompt, image_prompt
        self.padding, self.blur, self.min_area, self.small = padding, blur, min_area, small
        self.legacy, self.clean = legacy, clean
        self.max_new_tokens, self.num_beams, self.length_penalty = max_new_tokens, num_beams, length_penalty
        self.quantization, self.batch_size, self.dtype, self.compile = quantization, batch_size, dtype, compile

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Raises:
            CheckpointError: the weights are not there, or not BLIP-2's.
        """
        return describe(
            images,
            layouts,
            self._ask,
            prompt=self.prompt,
            image_prompt=self.image_prompt,
            padding=self.padding,
            blur=self.blur,
            min_area=self.min_area,
            small=self.small,
            legacy=self.legacy,
            batch_size=self.batch_size,
            clean=self.clean,
            max_aspect=float("inf"),  # squashed anyway
        )

    @torch.inference_mode()
    def _ask(self, crops: list[Image], prompts: list[str]) -> list[str]:
        network = self._network if self.quantization else self._network.to(crops[0].device)
        alone = network.language_model.config.is_encoder_decoder
        inputs = self._processor(
            images=crops,
            text=prompts,
            padding=True,
            # a decoder goes on from the last token; T5 measures the distance from image to text
            padding_side="right" if alone else "left",
            return_tensors="pt",
        ).to(network.device, network.dtype)
        tokens = network.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
        )
        if not alone:  # the question comes first
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [x.strip() for x in self._processor.batch_decode(tokens, skip_special_tokens=True)]

    @cached_property
    def _network(self) -> Any:
        from transformers import BitsAndBytesConfig, Blip2ForConditionalGeneration

        options: dict[str, Any] = {"dtype": precision(self.dtype)}
        if self.quantization:
            options = {
                "dtype": "float16",
                "device_map": "auto",
                "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
            }
        network = self._weights.load(Blip2ForConditionalGeneration, **options).eval()
        if self.compile:
            network.vision_model.compile()
            network.qformer.compile()
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import Blip2Processor

        return self._weights.load(Blip2Processor)

    @property
    def _weights(self) -> Checkpoint:
        return Checkpoint(self.checkpoint, self.revision)
