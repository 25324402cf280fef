"""PickScore: would people pick the image for its caption?"""

from collections.abc import Sequence

from scenewright.evaluation.image_text import ImageText, image_records
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class PickScore(RecordingMetric):
    """PickScore's logit of each image and its caption: around 20; half a point is much.

    An image without caption is not scored. The caption is cut to what the network reads, 77 tokens.

    Args:
        image_text: PickScore: a CLIP with the processor of the one it was made from.
        compat: see ``CLIPScore``.

    Source: Kirstain et al. 2023, "Pick-a-Pic", arXiv 2305.01569.
    """

    def __init__(self, image_text: ImageText, compat: bool = False) -> None:
        super().__init__()
        self.image_text, self.compat = image_text, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        texts, missing = [x.caption for x in samples], "it has no caption"
        return image_records(
            "pick_score", self.image_text, generated, samples, texts, missing=missing, compat=self.compat
        )
