"""Score: drops regions that their detector was not sure of."""

from collections.abc import Mapping, Sequence

from scenewright.annotators.limits import check, outside, require
from scenewright.layout import Sample, Verdict


class Score:
    """Drops regions by their scores. Regions without scores, as people draw them, are kept.

    Args:
        minimum: in [0, 1]; None for no limit.
        maximum: in [0, 1]; to look at what a detector was not sure of. None for no limit.
        minimum_of: minima of single labels, in place of ``minimum``: ``{person: 0.5}``.
    """

    after = "detector"

    def __init__(
        self,
        minimum: float | int | None = 0.3,
        maximum: float | int | None = None,
        minimum_of: Mapping[str, float | int] | None = None,
    ) -> None:
        check("score", minimum, maximum)
        require("score", minimum, maximum, minimum_of)
        self.minimum, self.maximum, self.minimum_of = minimum, maximum, minimum_of

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each region whose score is too low."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        if sample.layout.scores is None:
            return Verdict()
        minima = self.minimum_of or {}
        pairs = zip(sample.layout.labels, sample.layout.scores.tolist(), strict=True)
        return Verdict(
            regions=[outside("score", round(x, 7), minima.get(label, self.minimum), self.maximum) for label, x in pairs]
        )
