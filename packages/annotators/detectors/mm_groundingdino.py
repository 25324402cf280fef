"""MM Grounding DINO: OpenMMLab's open retraining of Grounding DINO, with a better class head.

Source: Zhao et al. 2024, "An Open and Comprehensive Pipeline for Unified Object Grounding
and Detection", arXiv 2401.02361. Network of ``transformers``; weights
openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det, _base_all and _large_all,
Apache-2.0; iSEE-Laboratory/llmdet_tiny, _base and _large (Fu et al. 2025, arXiv 2501.18954,
Apache-2.0) are of the same architecture.
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.grounding import Grounding
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image, Layout
from scenewright.networks import load_network


class MMGroundingDINO:
    """Finds tags, each box with the one tag that it shows best.

    A box's label is a tag as it was given, never a piece of one or two of them together, and its
    score the probability of that tag's surest token. However many tags there are, all are asked for.
    With ``labels="tokens"``, labels are whatever tokens of one caption, cut after 256, the box scores high.

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
        checkpoint: str = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
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
        from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

        checkpoint = Checkpoint(self.checkpoint, self.revision)
        return Grounding(
            network=load_network(MMGroundingDinoForObjectDetection, checkpoint, dtype=self.dtype, compile=self.compile),
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
