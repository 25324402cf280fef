"""Grounding DINO: boxes for whatever a text names.

Source: Liu et al. 2023, "Grounding DINO: Marrying DINO with Grounded Pre-Training for
Open-Set Object Detection", arXiv 2303.05499. Network of ``transformers``; weights
IDEA-Research/grounding-dino-tiny (Swin-T) and -base (Swin-B), Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.grounding import Grounding
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import load_network


class GroundingDINO:
    """Finds tags, each box with the one tag that it shows best.

    A box's label is a tag as it was given, never a piece of one or two of them together, and its
    score the probability of that tag's surest token. However many tags there are, all are asked for.
    With ``separator=", "`` and ``labels="tokens"`` it does as the data generation of InstanceDiffusion
    does: one caption whose tags attend to each other, cut after 256 tokens, and labels that are
    whatever tokens the box scores high.

    Args:
        checkpoint: a folder or hub id.
        box_threshold: a box is kept when its score is above this.
        text_threshold: with ``labels="tokens"``, a token belongs to the label when its score is above this.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.
        separator: between two tags of the caption; with a period they do not attend to each other.
        labels: ``tags`` or ``tokens``.
        pad_to: images are padded to multiples of so many pixels, and those of one size run together; 1 pads none.
        batch_size: images that run together.
        dtype: the network's precision.
        compile: with ``torch.compile``.

    Raises:
        ValueError: ``labels`` is something else.
    """

    def __init__(
        self,
        checkpoint: str = "IDEA-Research/grounding-dino-tiny",
        revision: str = "main",
        *,
        box_threshold: float = 0.25,
        text_threshold: float = 0.2,
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
        separator: str = " . ",
        labels: str = "tags",
        pad_to: int = 128,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        if labels not in ("tags", "tokens"):
            raise ValueError(f"labels must be tags or tokens, got {labels!r}")
        self.checkpoint, self.revision = checkpoint, revision
        self.box_threshold, self.text_threshold, self.nms_threshold = box_threshold, text_threshold, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area
        self.separator, self.labels, self.pad_to = separator, labels, pad_to
        self.batch_size, self.dtype, self.compile = batch_size, dtype, compile

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find the tags, the surest boxes first; an image without tags has no regions."""
        if not any(tags):
            return [Layout.empty() for _ in images]
        return self._grounding.detect(images, tags)

    @property
    def token_limit(self) -> int:
        """The most tokens of one caption."""
        return self._grounding.token_limit

    def count_tokens(self, tags: Sequence[str]) -> int:
        """The tokens of one caption of these tags."""
        return len(self._grounding.caption(tags).tokens)

    @cached_property
    def _grounding(self) -> Grounding:
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        checkpoint = Checkpoint(self.checkpoint, self.revision)
        return Grounding(
            network=load_network(GroundingDinoForObjectDetection, checkpoint, dtype=self.dtype, compile=self.compile),
            processor=checkpoint.load(GroundingDinoProcessor),
            box_threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            separator=self.separator,
            labels=self.labels,
            pad_to=self.pad_to,
            batch_size=self.batch_size,
            suppression={
                "nms_threshold": self.nms_threshold,
                "class_agnostic": self.class_agnostic,
                "max_boxes": self.max_boxes,
                "max_area": self.max_area,
            },
        )
