"""CLIPScore: does the whole image show what its caption says?"""

from collections.abc import Sequence

from scenewright.evaluation.image_text import ImageText, image_records
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class CLIPScore(RecordingMetric):
    """CLIP's logit of each image and its caption: about 15 (unrelated) to 35 with ViT-B/32. Regions play no part.

    With OpenAI's checkpoints, whose scale is 100, that is 100 × cosine; what is below zero is left as it is. An image
    without caption is not scored. The caption is cut to what CLIP reads, 77 tokens.

    Args:
        image_text: a CLIP.
        compat: of an image that is no square only the middle square is looked at, as published scores do. Else all
            of it, in a square of the colour that CLIP sees as zero.

    Source: Hessel et al. 2021, arXiv 2104.08718, with 100 in place of their 2.5, and unclipped.
    """

    def __init__(self, image_text: ImageText, compat: bool = False) -> None:
        super().__init__()
        self.image_text, self.compat = image_text, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        texts, missing = [x.caption for x in samples], "it has no caption"
        return image_records(
            "clip_score", self.image_text, generated, samples, texts, missing=missing, compat=self.compat
        )
