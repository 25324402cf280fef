"""FDDINO: how far the drawn images are from real ones, as DINOv2 sees them."""

from collections.abc import Sequence

from scenewright.evaluation.feature_sets import ComparingMetric
from scenewright.evaluation.scoring import Record


class FDDINO(ComparingMetric):
    """Frechet distance of DINOv2's features, 0 or more, lower is better.

    It goes with people's judgement where FID does not, but is biased as FID is: compare only numbers of equally many
    images with the same reference. NaN of fewer than two images. torch-fidelity computes it.

    Source: Stein et al. 2023, arXiv 2306.04675, section 4.
    """

    biased_by_count = True

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        return {"fd_dino": self.frechet_distance(records)}
