"""Aspect: drops regions that are slivers."""

from collections.abc import Sequence

from scenewright.annotators.limits import check, outside, require
from scenewright.layout import Sample, Verdict


class Aspect:
    """Drops regions by the aspect of their boxes: width over height, in pixels.

    Args:
        minimum: 0.1 drops what is more than ten times as high as wide; None for no limit.
        maximum: 10 drops what is more than ten times as wide as high; None for no limit.
    """

    after = "detector"

    def __init__(self, minimum: float | int | None = 0.1, maximum: float | int | None = 10.0) -> None:
        check("aspect", minimum, maximum)
        require("aspect", minimum, maximum)
        self.minimum, self.maximum = minimum, maximum

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region that is too narrow or too flat."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        if not len(sample.layout):
            return Verdict()
        height, width = sample.image.shape[1:]
        boxes = sample.layout.boxes.double()
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-9) * boxes.new_tensor([width, height])
        aspects = (sides[:, 0] / sides[:, 1]).tolist()
        return Verdict(regions=[outside("aspect", round(x, 5), self.minimum, self.maximum) for x in aspects])
