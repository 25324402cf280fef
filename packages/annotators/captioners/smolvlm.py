"""SmolVLM: a very small chat model that sees, for machines without a GPU.

Source: Marafioti et al. 2025, "SmolVLM", arXiv 2504.05299. Weights: ``HuggingFaceTB/SmolVLM-256M-Instruct`` and
``-500M-Instruct`` (Apache-2.0). ``HuggingFaceTB/SmolVLM2-*`` load too where ``num2words`` is installed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from scenewright.annotators.captions import describe
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import precision


class SmolVLM:
    """Describes each region's crop, named by its label, in one sentence.

    Args:
        prompt: for regions; ``{label}`` stands for the label. Or a name in ``captions.PROMPTS``.
        image_prompt: for whole images.
        padding: context around a crop, as a fraction of the box's width and height.
        blur: of what is around the region in its crop, as a fraction of the crop's longer side.
        min_area: regions of fewer pixels are not looked at and take their label.
        tiles: how many of the encoder's squares (512 pixels) go along a crop's longer side. 1 shows each crop as one
            square of 64 tokens; the authors' 4 show it in up to 16, and once more as a whole, at 17 times the cost.
        batch_size: crops that are looked at together, of any images.
        compile: the image encoder.

    Raises:
        ValueError: there are no tiles.
    """

    def __init__(
        self,
        checkpoint: str = "HuggingFaceTB/SmolVLM-256M-Instruct",
        revision: str = "main",
        prompt: str = "region",
        image_prompt: str = "image",
        padding: float = 0.1,
        blur: float = 0.0,
        min_area: int = 1024,
        tiles: int = 1,
        max_new_tokens: int = 40,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if tiles < 1:
            raise ValueError(f"tiles must be at least 1, got {tiles}")
        self.checkpoint, self.revision = checkpoint, revision
        self.prompt, self.image_prompt = prompt, image_prompt
        self.padding, self.blur, self.min_area = padding, blur, min_area
        self.tiles, self.max_new_tokens = tiles, max_new_tokens
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Raises:
            CheckpointError: the weights are not there, or not SmolVLM's.
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
            batch_size=self.batch_size,
        )

    @torch.inference_mode()
    def _ask(self, crops: list[Image], prompts: list[str]) -> list[str]:
        network = self._network.to(crops[0].device)
        inputs = self._processor(
            images=[[crop] for crop in crops],
            text=[self._question(prompt) for prompt in prompts],
            do_image_splitting=self.tiles > 1,
            size={"longest_edge": self.tiles * self._processor.image_processor.max_image_size["longest_edge"]},
            padding=True,
            padding_side="left",  # the answer goes on from the last token
            return_tensors="pt",
        ).to(crops[0].device, network.dtype)
        tokens = network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        return self._processor.batch_decode(answers, skip_special_tokens=True)

    def _question(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForImageTextToText

        network = self._weights.load(
            AutoModelForImageTextToText, dtype=precision(self.dtype), use_safetensors=True
        ).eval()
        if self.compile:
            network.model.vision_model.compile()
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return self._weights.load(AutoProcessor)

    @property
    def _weights(self) -> Checkpoint:
        return Checkpoint(self.checkpoint, self.revision)
