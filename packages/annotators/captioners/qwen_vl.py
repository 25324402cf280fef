"""QwenVL: describes regions with a Qwen vision-language model, by a call per crop or one per image.

Reads Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose boxes are stated in the coordinates each was trained on.

Source: Wang et al. 2024, arXiv 2409.12191 (Qwen2-VL); Bai et al. 2025, arXiv 2502.13923 (Qwen2.5-VL);
https://github.com/QwenLM/Qwen3-VL. Weights: https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct, Apache-2.0, as are
Qwen3-VL-4B-Instruct, Qwen2-VL-2B-Instruct and Qwen2.5-VL-7B-Instruct; Qwen2.5-VL-3B-Instruct has Qwen's research
licence, for non-commercial use.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import count
from typing import Any

import torch

from scenewright.annotators.captions import describe
from scenewright.annotators.structured import Frame, Question, describe_together
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.layout import Image, Layout
from scenewright.networks import load_network

logger = logging.getLogger(__name__)

#: Whether a family was trained with boxes in pixels of the resized image (else in thousandths).
_IN_PIXELS = {"qwen2_vl": False, "qwen2_5_vl": True, "qwen3_vl": False, "qwen3_vl_moe": False}


class QwenVL:
    """Captions regions with a Qwen-VL model: greedily and so the same in every run, unless ``sample`` is set.

    Args:
        checkpoint: of Qwen2-VL, Qwen2.5-VL or Qwen3-VL, a folder or a hub id.
        calls: "region": one call per crop. "image": one call per image, in which all its regions are numbered; what
            it leaves out is asked for once more, and then by a call per crop. The whole image, and a region alone in
            its image, always take a call per crop.
        prompt: for a crop, ``{label}`` stands for its label; or a name in ``captions.PROMPTS``.
        image_prompt: for a layout that is the whole image.
        padding, blur, min_area, small, legacy, clean: of the crops and their captions, see ``captions.describe``; what
            a structured call says is always cleaned.
        max_new_tokens: for one caption.
        min_pixels, max_pixels: crops are resized to between so many pixels; one token is 28 x 28 or 32 x 32 of them.
        max_image_pixels: the same limit for the image of ``calls="image"``.
        regions_per_call: with ``calls="image"``, longer layouts take several calls.
        draw_boxes: with ``calls="image"``, draw the numbered boxes into the picture.
        sample: draw tokens, from the nucleus of ``top_p``, as the reference does. transformers takes no generator, so
            crops are then answered one by one, each with torch's generator forked and seeded for it: a caption
            depends on its image's seed and never on the batch.
        top_p: of the nucleus, in (0, 1].
        batch_size: crops, or images of ``calls="image"``, in one forward pass.
        dtype: of the weights: "float32", "bfloat16", "float16".
        compile: decode with a cache of fixed size, with which transformers compiles decoding on a GPU.
    """

    def __init__(
        self,
        checkpoint: str = "Qwen/Qwen3-VL-2B-Instruct",
        revision: str = "main",
        *,
        calls: str = "region",
        prompt: str = "region",
        image_prompt: str = "image",
        padding: float = 0.0,
        blur: float = 0.0,
        min_area: int = 1024,
        small: str = "label",
        legacy: bool = False,
        clean: bool = True,
        max_new_tokens: int = 64,
        min_pixels: int = 65_536,
        max_pixels: int = 262_144,
        max_image_pixels: int = 1_048_576,
        regions_per_call: int = 16,
        draw_boxes: bool = False,
        sample: bool = False,
        top_p: float = 0.3,
        batch_size: int = 16,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision, self.calls = checkpoint, revision, calls
        self.prompt, self.image_prompt = prompt, image_prompt
        self.padding, self.blur, self.min_area, self.small = padding, blur, min_area, small
        self.legacy, self.clean, self.max_new_tokens = legacy, clean, max_new_tokens
        self.min_pixels, self.max_pixels, self.max_image_pixels = min_pixels, max_pixels, max_image_pixels
        self.regions_per_call, self.draw_boxes = regions_per_call, draw_boxes
        self.sample, self.top_p = sample, top_p
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @torch.inference_mode()
    def caption(
        self, images: Sequence[Image], layouts: Sequence[Layout], *, seeds: Sequence[int] | None = None
    ) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Args:
            seeds: one per image, needed if ``sample`` is set.

        Raises:
            ValueError: ``calls`` or ``dtype`` is unknown; seeds are missing.
            CheckpointError: the checkpoint is not here, or none of Qwen-VL.
        """
        if self.calls not in ("region", "image"):
            raise ValueError(f'calls must be "region" or "image", got {self.calls!r}')
        if not self.sample:
            return self._caption(images, layouts, None)
        if seeds is None:
            raise ValueError("sampled captions need one seed per image; give seeds, or set sample=false")
        one = zip(images, layouts, seeds, strict=True)
        return [self._caption([image], [layout], count(seed))[0] for image, layout, seed in one]

    def _caption(
        self, images: Sequence[Image], layouts: Sequence[Layout], seeds: Iterator[int] | None
    ) -> list[list[str]]:
        """Captions of images; ``seeds`` has one for every call that samples."""

        def ask(crops: list[Image], prompts: list[str]) -> list[str]:
            return self.answer(crops, prompts, [self.max_new_tokens] * len(crops), seeds=seeds)

        def ask_together(questions: list[Question]) -> list[str]:
            return in_batches(partial(self._replies, seeds=seeds), questions, self.batch_size)

        alone = partial(
            describe,
            ask=ask,
            prompt=self.prompt,
            image_prompt=self.image_prompt,
            padding=self.padding,
            blur=self.blur,
            min_area=self.min_area,
            small=self.small,
            legacy=self.legacy,
            clean=self.clean,
            batch_size=self.batch_size,
        )
        if self.calls == "region":
            return alone(images, layouts)
        return describe_together(
            images,
            layouts,
            ask_together,
            alone,
            regions_per_call=self.regions_per_call,
            frame=self._frame,
            draw_boxes=self.draw_boxes,
            min_area=self.min_area,
        )

    def _replies(self, questions: list[Question], seeds: Iterator[int] | None) -> list[str]:
        # a sentence, and the quotes, comma and number around it
        limits = [16 + (self.max_new_tokens + 8) * x.regions for x in questions]
        pictures, prompts = [x.picture for x in questions], [x.prompt for x in questions]
        return self.answer(pictures, prompts, limits, max_pixels=self.max_image_pixels, seeds=seeds)

    @torch.inference_mode()
    def answer(
        self,
        pictures: Sequence[Image],
        prompts: Sequence[str],
        limits: Sequence[int],
        *,
        max_pixels: int | None = None,
        seeds: Iterator[int] | None = None,
    ) -> list[str]:
        """What the model says to a prompt about a picture, for each of them; one forward pass for all.

        What was spent is logged at level DEBUG: calls, prompt tokens and new tokens are the record's arguments.

        Args:
            limits: the most new tokens of each answer.
            max_pixels: the pictures are resized to at most so many; those of a crop if not given.
            seeds: with ``sample``, one is taken for each answer.
        """
        if not pictures:
            return []
        if seeds is not None:
            one = zip(pictures, prompts, limits, seeds, strict=False)
            return [self._generate([x], [text], [most], max_pixels, seed)[0] for x, text, most, seed in one]
        return self._generate(pictures, prompts, limits, max_pixels, None)

    def _generate(
        self,
        pictures: Sequence[Image],
        prompts: Sequence[str],
        limits: Sequence[int],
        max_pixels: int | None,
        seed: int | None,
    ) -> list[str]:
        device = pictures[0].device
        network = self._network.to(device)
        inputs = self._inputs(pictures, prompts, max_pixels or self.max_pixels).to(device)
        with _seeded(seed, device):
            tokens = network.generate(**inputs, generation_config=self._decoding(max(limits), seed is not None))
        start = inputs["input_ids"].shape[1]
        # cut to its own limit, so that an answer does not depend on how long the others may be
        answers = [row[start : start + limit] for row, limit in zip(tokens, limits, strict=True)]
        padding = self._processor.tokenizer.pad_token_id
        new = sum(int((x != padding).sum()) for x in answers)
        logger.debug(
            "%d calls: %d prompt tokens, %d new tokens", len(pictures), int(inputs["attention_mask"].sum()), new
        )
        return self._processor.batch_decode(answers, skip_special_tokens=True)

    def _inputs(self, pictures: Sequence[Image], prompts: Sequence[str], max_pixels: int) -> Any:
        """Tokens, padded on the left, and the pictures' patches."""
        texts = [
            self._processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for prompt in prompts
        ]
        return self._processor(
            text=texts,
            images=list(pictures),
            size={"shortest_edge": self.min_pixels, "longest_edge": max_pixels},
            padding=True,
            padding_side="left",
            # a compiled network is compiled again for every new length
            pad_to_multiple_of=64 if self.compile else None,
            return_tensors="pt",
        )

    def _decoding(self, limit: int, sample: bool) -> Any:
        """How to generate."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=sample,
            max_new_tokens=limit,
            pad_token_id=self._processor.tokenizer.pad_token_id,
            **({"top_p": self.top_p, "top_k": 0} if sample else {}),
            **({"cache_implementation": "static"} if self.compile else {}),
        )

    def _frame(self, image: Image) -> Frame | None:
        """Height and width of an image as the network sees it, if it was trained on boxes in these."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        if not _IN_PIXELS[self._network.config.model_type]:
            return None
        height, width = image.shape[1:]
        patches = self._processor.image_processor
        return smart_resize(
            height, width, patches.patch_size * patches.merge_size, self.min_pixels, self.max_image_pixels
        )

    @property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.checkpoint, self.revision)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForImageTextToText, GenerationConfig

        network = load_network(AutoModelForImageTextToText, self._checkpoint, dtype=self.dtype)
        if network.config.model_type not in _IN_PIXELS:
            raise CheckpointError(
                f"{self.checkpoint} is a model of the kind {network.config.model_type}; "
                f"QwenVL needs one of {', '.join(_IN_PIXELS)}"
            )
        # its own temperature and penalties would be taken for whatever is not set
        network.generation_config = GenerationConfig(eos_token_id=network.generation_config.eos_token_id)
        return network

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return self._checkpoint.load(AutoProcessor)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """torch's generators as if seeded for one call, and as they were after it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
