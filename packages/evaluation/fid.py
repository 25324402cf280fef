"""FID: how far the drawn images are from real ones, as Inception-v3 sees them."""

from collections.abc import Sequence

from scenewright.evaluation.feature_sets import ComparingMetric
from scenewright.evaluation.scoring import Record


class FID(ComparingMetric):
    """Frechet Inception distance, 0 or more, lower is better.

    It is biased: the fewer images, the higher. Compare only numbers of equally many images with the same reference.
    Below 2048 images the covariances have not full rank; the number then is about little more than the mean.
    NaN of fewer than two images. torch-fidelity computes it.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """

    #: Numbers of other counts of images cannot be compared.
    biased_by_count = True

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        return {"fid": self.frechet_distance(records)}
