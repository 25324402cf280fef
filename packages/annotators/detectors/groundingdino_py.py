"""GroundingDINOPy: GroundingDINO as its authors' package runs it, in the legacy environment.

For checkpoints that exist in the authors' format only, and to compare with; ``groundingdino`` is the same network of
transformers. Source: Liu et al. 2023, "Grounding DINO", arXiv 2303.05499; groundingdino-py 0.4.0 (Apache-2.0). Weights:
``groundingdino_swint_ogc.pth`` and ``groundingdino_swinb_cogcoor.pth`` of ShilongLiu/GroundingDINO (Apache-2.0); BERT's
vocabulary and configuration: google-bert/bert-base-uncased (Apache-2.0).
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scenewright.annotators.isolation.legacy import ENVIRONMENT, check_environment, legacy_worker
from scenewright.annotators.isolation.process import Worker
from scenewright.annotators.prompts import Prompt, assign, joined, packed, phrases
from scenewright.annotators.suppression import suppress_as
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout


class GroundingDINOPy:
    """Finds tags, each box with the one tag that it shows best, by the original code in another environment.

    Labels and scores are made as ``groundingdino`` makes them. Only images of one size with one caption are looked
    at together: padding changes what this network sees, and in a batch it mixes up the borders of different captions.

    Args:
        checkpoint: a file, a folder with ``filename``, or a hub id.
        filename: which of the checkpoint's files.
        text_encoder: a folder or hub id with BERT's vocabulary and configuration; its weights are in the checkpoint.
        config: of the package: "GroundingDINO_SwinT_OGC" or "GroundingDINO_SwinB_cfg".
        changes: fields of that configuration which are others in the checkpoint.
        box_threshold: a box is kept when its score is above this.
        text_threshold: with ``labels="tokens"``, a token belongs to the label when its score is above this.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.
        separator: between two tags of the caption; with a period they do not attend to each other.
        labels: ``tags`` or ``tokens``.
        side: the shorter side is resized to this, in pixels, unless the longer one would pass ``max_side``.
        batch_size: images that run together.
        environment: folder of the virtual environment with groundingdino-py.
        timeout: seconds for a batch.
        log: a file for what the package prints; None for one in the system's temporary folder.

    Raises:
        ValueError: ``labels`` is something else.
    """

    def __init__(
        self,
        checkpoint: str = "ShilongLiu/GroundingDINO",
        revision: str = "main",
        *,
        filename: str = "groundingdino_swint_ogc.pth",
        text_encoder: str = "google-bert/bert-base-uncased",
        text_revision: str = "main",
        config: str = "GroundingDINO_SwinT_OGC",
        changes: Mapping[str, Any] | None = None,
        box_threshold: float = 0.25,
        text_threshold: float = 0.2,
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        separator: str = " . ",
        labels: str = "tags",
        side: int = 800,
        max_side: int = 1333,
        batch_size: int = 4,
        environment: str = ENVIRONMENT,
        timeout: float = 600.0,
        log: str | None = None,
    ) -> None:
        if labels not in ("tags", "tokens"):
            raise ValueError(f"labels must be tags or tokens, got {labels!r}")
        self.checkpoint, self.revision, self.filename = checkpoint, revision, filename
        self.text_encoder, self.text_revision, self.config, self.changes = text_encoder, text_revision, config, changes
        self.box_threshold, self.text_threshold, self.nms_threshold = box_threshold, text_threshold, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.separator, self.labels = separator, labels
        self.side, self.max_side, self.batch_size = side, max_side, batch_size
        self.environment, self.timeout, self.log = environment, timeout, log

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The detector's file, and what of the text encoder is not in it."""
        return [
            Checkpoint(self.checkpoint, self.revision, (self.filename,)),
            Checkpoint(self.text_encoder, self.text_revision, ("config.json", "vocab.txt")),
        ]

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags, the surest boxes first; an image without tags has no regions.

        Raises:
            CheckpointError: the environment or the weights are not there, or not these.
            WorkerError: the package failed.
        """
        if not any(tags):
            return [Layout.empty() for _ in images]
        asked = [self._prompts(x) for x in tags]
        questions = [(image, x) for image, some in zip(images, asked, strict=True) for x in some]
        answers = iter(in_batches(self._answer, questions, self.batch_size, alike=_alike))
        found = [Layout.joined([next(answers) for _ in some]) for some in asked]
        return [suppress_as(self, x) for x in found]

    def _prompts(self, tags: Sequence[str]) -> list[Prompt]:
        if self.labels == "tags":
            return packed(tags, self._tokenizer, separator=self.separator)
        return [Prompt(tuple(self._tokenizer(joined(tags, self.separator))["input_ids"]))] if tags else []

    def _answer(self, questions: list[tuple[Image, Prompt]]) -> list[Layout]:
        images, prompts = [image for image, _ in questions], [prompt for _, prompt in questions]
        found = self._worker.ask(images, [list(prompt.tokens) for prompt in prompts])
        return [
            self._layout(torch.from_numpy(x["boxes"]), torch.from_numpy(x["probabilities"]), prompt).to(
                images[0].device
            )
            for x, prompt in zip(found, prompts, strict=True)
        ]

    def _layout(self, boxes: Tensor, probabilities: Tensor, prompt: Prompt) -> Layout:
        if self.labels == "tags":
            scores, owners = assign(probabilities, prompt)
            kept = scores > self.box_threshold
            labels = [prompt.tags[i] for i in owners[kept].tolist()]
            return Layout(boxes=boxes[kept], labels=labels, scores=scores[kept])
        rows = phrases(probabilities, prompt.tokens, self.text_threshold)
        labels = [self._tokenizer.decode(row) for row in rows]
        return Layout(boxes=boxes, labels=labels, scores=probabilities.amax(1))

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import BertTokenizer

        return self.checkpoints[1].load(BertTokenizer)

    def check(self) -> None:
        """Make sure that the environment is there.

        Raises:
            CheckpointError: it is not; it says how to get it.
        """
        check_environment(self.environment)

    @cached_property
    def _worker(self) -> Worker:
        detector, text_encoder = self.checkpoints
        folder = [text_encoder.path(name) for name in text_encoder.files][0].parent
        settings = {
            "checkpoint": str(detector.path().absolute()),
            "text_encoder": str(folder.absolute()),
            "config": self.config,
            "changes": dict(self.changes or {}),
            "side": self.side,
            "max_side": self.max_side,
            "box_threshold": self.box_threshold,
        }
        return legacy_worker(
            "groundingdino_py", "detect", self.environment, settings, timeout=self.timeout, log=self.log
        )


def _alike(question: tuple[Image, Prompt]) -> Hashable:
    image, prompt = question
    # its text encoder repeats the masks of a batch for each head in another order than attention reads them
    return tuple(image.shape), prompt.tokens
