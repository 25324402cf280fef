"""CropCLIP: does each box show what its caption says?"""

from collections.abc import Sequence

from scenewright.evaluation.image_text import ImageText, region_records
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class CropCLIP(RecordingMetric):
    """CLIP's logit of each region's crop and its caption, else its label: about 15 (unrelated) to 35 with ViT-B/32.

    The mean over an image's regions, then over images. A region with neither caption nor label is not scored; an
    image without regions counts for nothing; a box of less than a pixel is a crop of one; regions of one label or
    caption are scored each by its own crop. Texts are cut to what CLIP reads, 77 tokens.

    Args:
        image_text: a CLIP.
        compat: as the reference: corners cut off to whole pixels toward zero, of the crop only the middle square is
            looked at, and a box without any whole pixel is not scored. Else corners are rounded outward and all of
            the crop is seen, in a square of the colour that CLIP sees as zero.

    Source: Cheng et al. 2024, arXiv 2409.04847 (Rich-Context), whose evaluation scores crop by crop.
    """

    def __init__(self, image_text: ImageText, compat: bool = False) -> None:
        super().__init__()
        self.image_text, self.compat = image_text, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        """The crops of all images go through the network together."""
        return region_records("crop_clip", self.image_text, generated, samples, self.compat)
