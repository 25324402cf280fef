"""KID: how far the drawn images are from real ones, as Inception-v3 sees them, without FID's bias."""

from collections.abc import Sequence

import torch

from scenewright.evaluation.feature_sets import ComparingMetric, FeatureNetwork, Reference, stacked, unknown
from scenewright.evaluation.scoring import Record


class KID(ComparingMetric):
    """Kernel Inception distance: the mean over subsets of the unbiased squared MMD with a cubic kernel.

    Around 0 for sets of the same kind, where it may be below 0; lower is better. ``std`` is the standard deviation over
    the subsets. NaN of fewer than two images. torch-fidelity computes it.

    Args:
        network: makes the features.
        reference: a file that ``Reference.save`` wrote, with features; None: the dataset's images.
        subsets: how many are drawn.
        subset_size: images in each, of either set; all of the smaller set if it has fewer.
        seed: of drawing them.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4.
    """

    needs_features = True
    undirected = frozenset({"std"})

    def __init__(
        self,
        network: FeatureNetwork,
        reference: str | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
    ) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"kid: there must be subsets of at least 2 images, got {subsets} of {subset_size}")
        super().__init__(network, reference)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

        drawn, other = stacked(records, "features"), self.compared_with(records)
        if isinstance(other, Reference):
            other = torch.as_tensor(other.features).double()
        size = min(self.subset_size, len(drawn), len(other))
        if size < 2:
            why = f"a kernel distance needs at least 2 images, got {len(drawn)} and {len(other)} to compare them with"
            return dict.fromkeys(("kid", "std"), unknown(self, why, self._said))
        settings = {"kid_subsets": self.subsets, "kid_subset_size": size, "rng_seed": self.seed, "verbose": False}
        numbers = kid_features_to_metric(drawn, other, **settings)
        return {"kid": numbers[KEY_METRIC_KID_MEAN], "std": numbers[KEY_METRIC_KID_STD]}
