"""Area: drops regions that are too small to show anything, or so large that they are the image itself."""

from collections.abc import Sequence

from scenewright.annotators.limits import check, first, outside, require
from scenewright.layout import Sample, Verdict


class Area:
    """Drops regions by the area of their boxes.

    Args:
        minimum: as a fraction of the image; None for no limit.
        maximum: as a fraction of the image; below 1, boxes of the whole image go.
        minimum_side: of the box, in the image's own pixels.
        minimum_pixels: of the box, in the image's own pixels: 1024 is below what the reference systems caption.
    """

    after = "detector"

    def __init__(
        self,
        minimum: float | int | None = 0.0005,
        maximum: float | int | None = 1.0,
        minimum_side: float | int | None = None,
        minimum_pixels: float | int | None = None,
    ) -> None:
        check("area", minimum, maximum)
        require("area", minimum, maximum, minimum_side, minimum_pixels)
        self.minimum, self.maximum = minimum, maximum
        self.minimum_side, self.minimum_pixels = minimum_side, minimum_pixels

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region that is too small or too large."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        # in float64 and rounded, so that a box of exactly the limit does not fail by float32's last digit
        boxes = sample.layout.boxes.double()
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
        reasons = [outside("area", round(x, 7), self.minimum, self.maximum) for x in sides.prod(1).tolist()]
        if len(reasons) and (self.minimum_side is not None or self.minimum_pixels is not None):
            height, width = sample.image.shape[1:]
            sizes = [(round(x * width, 3), round(y * height, 3)) for x, y in sides.tolist()]
            reasons = [first([why, self._too_small(*size)]) for why, size in zip(reasons, sizes, strict=True)]
        return Verdict(regions=reasons)

    def _too_small(self, width: float, height: float) -> str:
        side = outside("side", min(width, height), self.minimum_side, None, unit=" px")
        return first([side, outside("area", width * height, self.minimum_pixels, None, unit=" px")])
