"""CropPick: would people pick each box's content for its caption?"""

from collections.abc import Sequence

from scenewright.evaluation.image_text import ImageText, region_records
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class CropPick(RecordingMetric):
    """PickScore's logit of each region's crop and its caption, else its label: around 20.

    What is cropped, read and left out is as in ``CropCLIP``; only the network is another.

    Args:
        image_text: PickScore: a CLIP with the processor of the one it was made from.
        compat: see ``CropCLIP``.

    Source: Kirstain et al. 2023, "Pick-a-Pic", arXiv 2305.01569; on crops, Cheng et al. 2024, arXiv 2409.04847.
    """

    def __init__(self, image_text: ImageText, compat: bool = False) -> None:
        super().__init__()
        self.image_text, self.compat = image_text, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        """The crops of all images go through the network together."""
        return region_records("crop_pick", self.image_text, generated, samples, self.compat)
