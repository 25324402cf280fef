"""LocalPlanner: has layouts planned by a language model on this machine.

Weights: any instruction-tuned model of transformers with a chat template, such as ``Qwen/Qwen2.5-3B-Instruct`` (its own
research licence) or ``Qwen/Qwen3-4B-Instruct-2507`` (Apache-2.0), as safetensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.datasets.gen4gen.planner.conversation import Conversation, Question
from scenewright.datasets.gen4gen.records import LayoutPlan, LayoutRequest
from scenewright.networks import load_network

logger = logging.getLogger(__name__)

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class LocalPlanner:
    """Asks for a background, real sizes if wanted, and boxes; checks the boxes, and asks again with what is wrong.

    It asks and checks as ``ChatPlanner`` does. Each canvas has random numbers of its own, so that a plan does not
    depend on what is planned beside it, up to the rounding of the network.

    Args:
        checkpoint: of a causal language model with a chat template: a folder, or a repository of the hub.
        revision: of the hub's repository.
        max_new_tokens: of one answer.
        batch_size: questions that are answered together.
        device: "cpu", "cuda", ...; if not given, a GPU where there is one.
        dtype: "float32", "bfloat16" or "float16".
        attempts: how often a question is asked until its answer can be used.
        temperature: the range, at least 0, from which each canvas draws that of its layout.
        obj_ratio: ask for the real sizes of the things.
        verify_backgrounds: ask of each suggested background whether the things could be there, and leave out others.
        coco: the folder of COCO, for examples of layouts from it; without it, the prompt's own are used.
        coco_categories, coco_images_per_category, coco_exemplars, coco_seed: which of them, see ``coco_exemplars``.
        max_overlap, min_side, min_area, max_area, max_aspect: of the boxes, see ``validation.Limits``.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
    """

    def __init__(
        self,
        checkpoint: str = "Qwen/Qwen3-4B-Instruct-2507",
        revision: str = "main",
        *,
        max_new_tokens: int = 512,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = "float32",
        attempts: int = 3,
        temperature: Sequence[float] = (0.0, 1.0),
        obj_ratio: bool = False,
        verify_backgrounds: bool = False,
        coco: str | None = None,
        coco_categories: Sequence[str] | None = None,
        coco_images_per_category: int = 10,
        coco_exemplars: int = 50,
        coco_seed: int = 0,
        max_overlap: float = 0.1,
        min_side: float = 32.0,
        min_area: float = 0.004,
        max_area: float = 0.9,
        max_aspect: float = 8.0,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.device, self.dtype = device, dtype
        self.attempts, self.temperature = attempts, tuple(temperature)
        self.obj_ratio, self.verify_backgrounds = obj_ratio, verify_backgrounds
        self.coco, self.coco_categories = coco, coco_categories
        self.coco_images_per_category, self.coco_exemplars = coco_images_per_category, coco_exemplars
        self.coco_seed, self.max_overlap, self.min_side = coco_seed, max_overlap, min_side
        self.min_area, self.max_area, self.max_aspect = min_area, max_area, max_aspect

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What it loads."""
        return [Checkpoint(self.checkpoint, self.revision, _FILES)]

    def plan(self, requests: Sequence[LayoutRequest]) -> list[LayoutPlan]:
        """One plan per request, in order.

        Raises:
            CheckpointError: the weights are not there, are no causal language model's, or come without a chat template.
            OSError: COCO's files are not there.
            ValueError: a setting makes no sense.
        """
        conversations = [self._conversation.plan(x) for x in requests]
        plans: dict[int, LayoutPlan] = {}
        questions = {i: next(x) for i, x in enumerate(conversations)}
        while questions:
            distinct = {x.key: x for x in questions.values()}
            replies = in_batches(self._answer, list(distinct.values()), self.batch_size)
            by_key = dict(zip(distinct, replies, strict=True))
            for i, question in list(questions.items()):
                try:
                    questions[i] = conversations[i].send(by_key[question.key])
                except StopIteration as end:
                    plans[i] = end.value
                    del questions[i]
        return [plans[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _answer(self, questions: Sequence[Question]) -> list[str]:
        """The model's replies, from one forward pass for all."""
        from transformers import GenerationConfig, LogitsProcessorList

        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network, tokenizer = self._network.to(device), self._tokenizer
        texts = [
            tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role, text in x.messages],
                add_generation_prompt=True,
                tokenize=False,
            )
            for x in questions
        ]
        inputs = tokenizer(
            texts,
            padding=True,
            padding_side="left",  # the answer goes on from the last token
            add_special_tokens=False,  # the template has them
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(device)
        tokens = network.generate(
            **inputs,
            logits_processor=LogitsProcessorList([_sampler(questions)]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=network.generation_config.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )
        return tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    @cached_property
    def _conversation(self) -> Conversation:
        return Conversation.of(self, self.checkpoint)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForCausalLM, GenerationConfig

        network = load_network(AutoModelForCausalLM, self.checkpoints[0], dtype=self.dtype)
        # its own temperature and penalties would be taken for whatever is not set
        network.generation_config = GenerationConfig(eos_token_id=network.generation_config.eos_token_id)
        return network

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = self.checkpoints[0].load(AutoTokenizer)
        if not tokenizer.chat_template:
            raise CheckpointError(f"{self.checkpoint} has no chat template; choose an instruction-tuned model")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def _sampler(
    questions: Sequence[Question],
) -> Callable[[Int[Tensor, "b t"], Float[Tensor, "b v"]], Float[Tensor, "b v"]]:
    """Turn the choice of the likeliest token into a draw, each question's from its own seed and temperature.

    Adding Gumbel noise and taking the largest is drawing from the softmax.
    """
    generators = [torch.Generator().manual_seed(x.seed) for x in questions]

    def draw(tokens: Int[Tensor, "b t"], logits: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        logits = logits.float()
        for row, (question, generator) in enumerate(zip(questions, generators, strict=True)):
            if question.temperature > 0:
                noise = -torch.empty(logits.shape[1]).exponential_(generator=generator).log()
                logits[row] = logits[row] / question.temperature + noise.to(logits.device)
        return logits

    return draw
