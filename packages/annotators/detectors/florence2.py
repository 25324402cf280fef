"""Florence2: a small model of many tasks lists what it sees, or finds what it is told to.

Source: Xiao et al. 2024, "Florence-2", arXiv 2311.06242. Weights: ``florence-community/Florence-2-large-ft`` and
``-base-ft``, 0.77 and 0.23 billion parameters (MIT).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from more_itertools import chunked

from scenewright.annotators.florence import BINS, Answer, Florence, geometric_mean
from scenewright.annotators.suppression import suppress_as
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout

_ALONE = ("OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL")
_OF_TAGS = ("CAPTION_TO_PHRASE_GROUNDING", "OPEN_VOCABULARY_DETECTION")

#: A box with its name, its corners as bins, and how sure the network was.
_Found = tuple[str, list[int], float]


class Florence2:
    """Finds boxes by one of Florence-2's own tasks.

    ``OD`` names COCO-like objects, ``DENSE_REGION_CAPTION`` finds regions with a phrase each (which is their caption
    too), ``REGION_PROPOSAL`` boxes without names ("object"); these ignore the tags. ``CAPTION_TO_PHRASE_GROUNDING``
    finds the tags, several in one question; ``OPEN_VOCABULARY_DETECTION`` asks for one after the other.

    The network says no scores. A box's score is the geometric mean of the probabilities of what it was written
    with: the tokens of its name and of its four corners. Scores of different tasks cannot be compared.

    Args:
        tags_per_question: for ``CAPTION_TO_PHRASE_GROUNDING``; a longer list is asked in parts.
        threshold: boxes of a lower score go.
        nms_threshold: a box goes when its IoU with a surer one is above this; null keeps all.
        class_agnostic: whatever their labels.
        max_boxes: at most so many per image.
        max_new_tokens: of an answer; a box needs four, and some for its name.
        batch_size: questions that are answered together, of any images.
        compile: the image encoder.

    Raises:
        ValueError: there is no such task.
    """

    def __init__(
        self,
        checkpoint: str = "florence-community/Florence-2-large-ft",
        revision: str = "main",
        task: str = "OD",
        tags_per_question: int = 20,
        threshold: float = 0.0,
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        max_new_tokens: int = 1024,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if task not in _ALONE + _OF_TAGS:
            raise ValueError(f"task must be one of {', '.join(_ALONE + _OF_TAGS)}, got {task!r}")
        if tags_per_question < 1:
            raise ValueError(f"tags_per_question must be at least 1, got {tags_per_question}")
        self.checkpoint, self.revision = checkpoint, revision
        self.task, self.tags_per_question = task, tags_per_question
        self.threshold, self.nms_threshold, self.class_agnostic = threshold, nms_threshold, class_agnostic
        self.max_boxes, self.max_area = max_boxes, max_area
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.dtype, self.compile = dtype, compile

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """The boxes of each image, surest first; none where a task needs tags and there are none.

        Raises:
            CheckpointError: the weights are not there, or not Florence-2's.
        """
        groups = [self._groups(names) for _, names in zip(images, tags, strict=True)]
        questions = [(image, group) for image, of_image in zip(images, groups, strict=True) for group in of_image]
        answers = iter(in_batches(self._ask, questions, self.batch_size))
        return [
            self._layout([box for group in of_image for box in self._boxes(next(answers), group)], image)
            for image, of_image in zip(images, groups, strict=True)
        ]

    def _groups(self, tags: Sequence[str]) -> list[list[str]]:
        """The tags of each question about one image."""
        if self.task in _ALONE:
            return [[]]
        names = list(dict.fromkeys(tag for tag in tags if tag.strip()))
        return list(chunked(names, 1 if self.task == "OPEN_VOCABULARY_DETECTION" else self.tags_per_question))

    def _ask(self, questions: list[tuple[Image, list[str]]]) -> list[Answer]:
        return self._florence.answer(
            [image for image, _ in questions],
            [f"<{self.task}>{'. '.join(tags)}" for _, tags in questions],
            max_new_tokens=self.max_new_tokens,
            chances=True,
        )

    def _boxes(self, answer: Answer, tags: Sequence[str]) -> list[_Found]:
        found = read_boxes(answer, named=self.task != "REGION_PROPOSAL")
        if self.task == "OPEN_VOCABULARY_DETECTION":
            return [(tags[0], corners, score) for _, corners, score in found]
        names = {tag.casefold(): tag for tag in tags}
        return [(names.get(name.casefold(), name), corners, score) for name, corners, score in found]

    def _layout(self, found: list[_Found], image: Image) -> Layout:
        found = [box for box in found if box[2] >= self.threshold]
        if not found:
            return Layout.empty().to(image.device)
        # the middle of a bin, as the authors read it
        boxes = (torch.tensor([corners for _, corners, _ in found], dtype=torch.float32) + 0.5) / BINS
        scores = torch.tensor([score for _, _, score in found])
        layout = suppress_as(self, Layout(boxes, [name for name, _, _ in found], scores=scores))
        if self.task == "DENSE_REGION_CAPTION":
            layout = replace(layout, captions=list(layout.labels))
        return layout.to(image.device)

    @cached_property
    def _florence(self) -> Florence:
        return Florence(Checkpoint(self.checkpoint, self.revision), self.dtype, self.compile)


def read_boxes(answer: Answer, *, named: bool = True) -> list[_Found]:
    """The boxes of an answer: after each name, four locations for every box of it.

    Args:
        named: boxes that no name stands before are left out; else all are, and are each an "object".

    Returns:
        name, bins ``x_min y_min x_max y_max`` and score. What ends before it begins is no box and is left out.
    """
    found: list[_Found] = []
    name, words = "" if named else "object", []
    corners: list[tuple[int, float]] = []
    for piece, chance in zip(answer.pieces, answer.chances, strict=True):
        if isinstance(piece, str):
            corners = []
            if named:
                name, words = piece, [chance]
            continue
        corners.append((piece, chance))
        if len(corners) == 4:
            x0, y0, x1, y1 = (place for place, _ in corners)
            if name and x0 < x1 and y0 < y1:
                found.append((name, [x0, y0, x1, y1], geometric_mean([*words, *(sure for _, sure in corners)])))
            corners = []
    return found
