"""InceptionScore: are the drawn images clear and various, as Inception-v3 sees them?"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from scenewright.evaluation.feature_sets import seen, stacked, unknown
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


@runtime_checkable
class Classifier(Protocol):
    """Tells an image's classes, one row of logits per image."""

    def logits(self, images: Sequence[Image]) -> Float[Tensor, "n c"]: ...


class InceptionScore(RecordingMetric):
    """exp of the mean KL divergence between an image's classes and those of all images, at least 1.

    The mean over splits of the images, and as ``std`` the standard deviation over them. It looks at the drawn images
    only, never at the dataset. The fewer images in a split, the lower: compare only numbers of equally many. NaN if
    there are fewer images than splits. torch-fidelity computes it.

    Args:
        network: tells the classes.
        splits: 10 by convention.
        seed: of the order in which images go to the splits.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 4.
    """

    #: What they are for, a standard deviation, needs no more.
    rounds = 50
    undirected = frozenset({"std"})

    #: Numbers of other counts of images cannot be compared.
    biased_by_count = True

    def __init__(self, network: Classifier, splits: int = 10, seed: int = 0) -> None:
        if splits < 1:
            raise ValueError(f"inception_score: splits must be at least 1, got {splits}")
        super().__init__()
        self.network, self.splits, self.seed = network, splits, seed
        self._said: set[str] = set()

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        rows = self.network.logits(generated).float().cpu().numpy()
        return [seen(sample.key, {"logits": row}) for sample, row in zip(samples, rows, strict=True)]

    def summarize(self, records: Sequence[Record]) -> dict[str, float]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

        logits = stacked(records, "logits")
        if len(logits) < self.splits:
            why = f"{self.splits} splits need at least as many images, got {len(logits)}; set inception_score.splits"
            return dict.fromkeys(("inception_score", "std"), unknown(self, why, self._said))
        numbers = isc_features_to_metric(logits, self.splits, rng_seed=self.seed)
        return {"inception_score": numbers[KEY_METRIC_ISC_MEAN], "std": numbers[KEY_METRIC_ISC_STD]}
