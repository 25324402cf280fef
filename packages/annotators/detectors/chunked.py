"""Many tags, a few at a time: for any detector whose prompt is short.

No weights of its own.
"""

from collections.abc import Sequence

from scenewright.annotators.prompts import chunks, distinct
from scenewright.annotators.seeds import seeded
from scenewright.annotators.suppression import suppress_as
from scenewright.layout import Image, Layout
from scenewright.protocols import Detector


class Chunked:
    """Asks a detector for some tags at a time, and suppresses over all that it found.

    A detector that has ``token_limit`` and ``count_tokens(tags)`` is never asked for more tags than its
    prompt holds.

    Args:
        detector: any; each of its regions needs a score.
        max_tags: the most tags of one call.
        nms_threshold: a box goes when its IoU with a surer one is above this; None keeps all.
        class_agnostic: whatever their labels; else only boxes of one label rule each other out.
        max_boxes: the most of one image.
        max_area: larger boxes go, as a fraction of the image; 1 keeps a box of the whole image.

    Raises:
        ValueError: ``max_tags`` is below 1.
    """

    def __init__(
        self,
        detector: Detector,
        max_tags: int = 32,
        *,
        nms_threshold: float | None = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
        max_area: float = 1.0,
    ) -> None:
        if max_tags < 1:
            raise ValueError(f"max_tags must be at least 1, got {max_tags}")
        self.detector, self.max_tags, self.nms_threshold = detector, max_tags, nms_threshold
        self.class_agnostic, self.max_boxes, self.max_area = class_agnostic, max_boxes, max_area

    def detect(
        self, images: Sequence[Image], tags: Sequence[Sequence[str]], seeds: Sequence[int] | None = None
    ) -> list[Layout]:
        """Find the tags, the surest boxes first.

        Args:
            tags: an image without any is shown to the detector once, for it may not need them.
            seeds: one per image, for a detector that takes them.
        """
        # the image of every call is the same tensor, and the detector sees all calls at once
        parts = [self._parts(x) for x in tags]
        places = [i for i, some in enumerate(parts) for _ in some]
        asked = [images[i] for i in places], [x for some in parts for x in some]
        answers = iter(
            seeded(self.detector.detect, *asked, seeds=None if seeds is None else [seeds[i] for i in places])
        )
        # some may be on the CPU and others, remembered ones say, where their image is
        found = [
            Layout.joined([next(answers).to(image.device) for _ in some])
            for image, some in zip(images, parts, strict=True)
        ]
        return [suppress_as(self, x) for x in found]

    def _parts(self, tags: Sequence[str]) -> list[list[str]]:
        limit, count = getattr(self.detector, "token_limit", None), getattr(self.detector, "count_tokens", None)

        def fits(some: list[str]) -> bool:
            return limit is None or count is None or count(some) <= limit

        return chunks(distinct(tags), max_tags=self.max_tags, fits=fits) or [[]]
