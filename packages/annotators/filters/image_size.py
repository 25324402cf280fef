"""ImageSize: drops images that are too small, too large or too long."""

from collections.abc import Sequence

from scenewright.annotators.limits import check, first, outside, require
from scenewright.layout import Sample, Verdict


class ImageSize:
    """Drops images by their size, before anything is spent on them.

    Args:
        minimum: of the shorter side, in pixels; None for no limit.
        maximum: of the longer side, in pixels; None for no limit.
        maximum_aspect: of the longer side over the shorter one; None for no limit.
    """

    after = "source"

    def __init__(
        self, minimum: int | None = 256, maximum: int | None = None, maximum_aspect: float | int | None = 3.0
    ) -> None:
        check("image_size", minimum, maximum)
        require("image_size", minimum, maximum, maximum_aspect)
        self.minimum, self.maximum, self.maximum_aspect = minimum, maximum, maximum_aspect

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image of a wrong size."""
        return [Verdict(image=self._reason(*s.image.shape[1:])) for s in samples]

    def _reason(self, height: int, width: int) -> str:
        short, long = sorted((height, width))
        return first(
            [
                outside("shorter side", short, self.minimum, None, unit=" px"),
                outside("longer side", long, None, self.maximum, unit=" px"),
                outside("aspect", long / short, None, self.maximum_aspect),
            ]
        )
