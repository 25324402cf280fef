"""Count: drops images with too few regions, and the least sure regions of those with too many."""

from collections.abc import Sequence

from scenewright.annotators.limits import check, outside, require
from scenewright.layout import Layout, Sample, Verdict


class Count:
    """Keeps the number of regions of an image between two limits.

    Args:
        minimum: images with fewer regions are dropped; None for no limit.
        maximum: of more regions, those with the lowest scores are dropped (without scores, the last ones); None
            for no limit. InstanceDiffusion takes 30.
        whole: drop the image that has too many, and not its surplus.
        after: the stage behind which regions are counted; filters that come first have dropped theirs by then.
    """

    def __init__(
        self, minimum: int | None = 1, maximum: int | None = 30, whole: bool = False, after: str = "detector"
    ) -> None:
        check("count", minimum, maximum)
        require("count", minimum, maximum)
        self.minimum, self.maximum, self.whole, self.after = minimum, maximum, whole, after

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image with too few regions, and for each region that is too many."""
        most = self.maximum if self.whole else None
        return [
            Verdict(image=outside("count", len(s.layout), self.minimum, most), regions=self._surplus(s.layout))
            for s in samples
        ]

    def _surplus(self, layout: Layout) -> list[str]:
        if self.maximum is None or len(layout) <= self.maximum:
            return []
        reasons = [""] * len(layout)
        what = "place" if layout.scores is None else "place by score"
        for place, i in enumerate(_surest_first(layout), 1):
            if place > self.maximum:
                reasons[i] = f"{what} {place} of {len(layout)} is above {self.maximum}"
        return reasons


def _surest_first(layout: Layout) -> list[int]:
    if layout.scores is None:
        return list(range(len(layout)))
    return layout.scores.argsort(descending=True, stable=True).tolist()
