"""Verified: any detector, and a second opinion on each box: CLIP's, or that of a model that answers questions.

Source: zero-shot classification, Radford et al. 2021, arXiv 2103.00020. Weights:
https://huggingface.co/openai/clip-vit-base-patch32, MIT.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, islice

import torch
from torch import Tensor

from scenewright.annotators.seeds import seeded
from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import Checkpoint
from scenewright.crops import cut
from scenewright.layout import Image, Layout
from scenewright.protocols import Captioner, Detector

_YES = re.compile(r"[\W_]*yes\b", re.IGNORECASE)


class Verified:
    """Keeps the boxes whose crop a judge takes for what their label says.

    Without ``captioner`` CLIP judges: the crop must look more like its label than like any of the negatives. With one,
    it is shown every box and must answer yes; set its own prompt to "Is there a {label} in this picture? Answer yes
    or no.", and its ``min_area`` to 0: below that it looks at nothing and answers with the label. Any other answer
    than yes drops the box.

    Args:
        detector: any.
        captioner: that answers questions; None for CLIP.
        negatives: names that must not win. A box that is called so goes.
        prompt: what CLIP reads of a label or negative; ``{label}`` stands for it.
        minimum: of the label's probability among the label and the negatives, in [0, 1]; 0 asks only that it wins.
        padding: context around a crop, as a fraction of its box.
        checkpoint: a CLIP of transformers, a folder or a hub id.
        batch_size: crops or texts in one forward pass.
        dtype: of the weights: "float32", "bfloat16", "float16".
        compile: compile the network on first use.
    """

    def __init__(
        self,
        detector: Detector,
        captioner: Captioner | None = None,
        *,
        negatives: Sequence[str] = ("background", "blurry picture", "plain surface"),
        prompt: str = "a photo of a {label}",
        minimum: float = 0.0,
        padding: float = 0.1,
        checkpoint: str = "openai/clip-vit-base-patch32",
        revision: str = "main",
        batch_size: int = 64,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if captioner is None and not negatives:
            raise ValueError("negatives must name at least one thing that a box can be instead; got none")
        self.detector, self.captioner, self.negatives = detector, captioner, negatives
        self.prompt, self.minimum, self.padding = prompt, minimum, padding
        self.checkpoint, self.revision = checkpoint, revision
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """CLIP's, if it judges; the injected plugins have their own."""
        return [] if self.captioner is not None else [Checkpoint(self.checkpoint, self.revision)]

    def detect(
        self, images: Sequence[Image], tags: Sequence[Sequence[str]], *, seeds: Sequence[int] | None = None
    ) -> list[Layout]:
        """The detector's regions that are confirmed, in its order; the crops of all images go to the judge together.

        Raises:
            ValueError: the captioner does not answer once per box.
            CheckpointError: the checkpoint is not here, or no CLIP.
        """
        layouts = seeded(self.detector.detect, images, tags, seeds=seeds)
        full = [i for i, layout in enumerate(layouts) if len(layout)]
        if not full:
            return list(layouts)
        some, found = [images[i] for i in full], [layouts[i] for i in full]
        chosen = None if seeds is None else [seeds[i] for i in full]
        confirmed = self._by_sight(some, found) if self.captioner is None else self._by_answer(some, found, chosen)
        kept = dict(zip(full, confirmed, strict=True))
        return [x.keep(torch.tensor(kept[i])) if i in kept else x for i, x in enumerate(layouts)]

    def _by_answer(
        self, images: Sequence[Image], layouts: Sequence[Layout], seeds: Sequence[int] | None
    ) -> list[list[bool]]:
        assert self.captioner is not None
        answers = seeded(self.captioner.caption, images, layouts, seeds=seeds)
        for given, layout in zip(answers, layouts, strict=True):
            if len(given) != len(layout):
                raise ValueError(f"there must be one answer per box ({len(layout)}), got {len(given)}")
        return [[bool(_YES.match(answer)) for answer in given] for given in answers]

    def _by_sight(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[bool]]:
        crops = [cut(image, layout, padding=self.padding) for image, layout in zip(images, layouts, strict=True)]
        labels = [label for layout in layouts for label in layout.labels]
        pictures = self._clip.of_pictures(list(chain(*crops)))
        confirmed = iter(self._confirmed(pictures, labels).tolist())
        return [list(islice(confirmed, len(layout))) for layout in layouts]

    def _confirmed(self, pictures: Tensor, labels: Sequence[str]) -> Tensor:
        """(n,) bool: which pictures look more like their label than like any negative."""
        read = self._clip.of_texts([self._text(x) for x in labels], pictures.device)
        negatives = self._clip.of_texts([self._text(x) for x in self.negatives], pictures.device)
        own = (pictures * read).sum(1, keepdim=True)  # (n, 1)
        others = pictures @ negatives.T  # (n, m)
        share = (self._clip.scale * torch.cat([own, others], 1)).softmax(1)[:, 0]
        denied = {x.casefold() for x in self.negatives}
        named = torch.tensor([x.casefold() in denied for x in labels], device=pictures.device)
        return (own[:, 0] > others.amax(1)) & (share >= self.minimum) & ~named

    def _text(self, label: str) -> str:
        return self.prompt.replace("{label}", label)

    @cached_property
    def _clip(self) -> CLIP:
        return CLIP(self.checkpoint, self.revision, self.batch_size, self.dtype, self.compile)
