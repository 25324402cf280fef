"""Blur: drops images without fine detail.

Source: the variance of the Laplacian as a measure of focus, Pech-Pacheco et al. 2000, "Diatom autofocusing in
brightfield microscopy: a comparative study". OpenCV does the work. No weights.
"""

from collections.abc import Sequence

import cv2

from scenewright.annotators.limits import check, outside, require
from scenewright.layout import Image, Sample, Verdict


class Blur:
    """Drops images by the variance of the Laplacian of their grey values, 0..255.

    The number depends on the size of the image, so it is taken on a copy whose longer side has ``side`` pixels; a
    smaller image is enlarged and counts as the blurred one that it would be there. Calm pictures of sky or walls have
    little detail too and score low: look at what goes (it keeps its reason) before you raise the minimum.

    Args:
        minimum: sharp photographs score some hundreds and more, plainly blurred ones below about 10; None for no
            limit.
        maximum: noise scores thousands; None for no limit.
        side: of the copy, in pixels.
    """

    after = "source"

    def __init__(self, minimum: float | int | None = 10.0, maximum: float | int | None = None, side: int = 512) -> None:
        check("blur", minimum, maximum)
        require("blur", minimum, maximum)
        self.minimum, self.maximum, self.side = minimum, maximum, side

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image that is too smooth or too noisy."""
        return [
            Verdict(image=outside("sharpness", sharpness(s.image, self.side), self.minimum, self.maximum))
            for s in samples
        ]


def sharpness(image: Image, side: int = 512) -> float:
    """The variance of the Laplacian of an image whose longer side is brought to ``side`` pixels; 0 or more."""
    height, width = image.shape[1:]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(image.permute(1, 2, 0).cpu().numpy(), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())
