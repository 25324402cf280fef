"""Two detectors of retrieved images that do not show what they were found by: clusters, and a linear probe."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Clusters:
    """The clusters of one keyword's images.

    Attributes:
        labels: one per image, from 0.
        distances: one per cluster: ``1 - cos(centroid, mean of the originals)``, in [0, 2].
        threshold: clusters that are farther away are not of the class.
    """

    labels: list[int]
    distances: list[float]
    threshold: float


class ClusterDetector:
    """K-means of each keyword's images; clusters far from the keyword's originals are no images of it.

    A cluster's distance is ``1 - cos`` of its centroid and the originals' mean. The threshold is a percentile of what
    the same distance is for each original and the mean of the others; where a keyword has one original only, of those
    of all keywords.

    Args:
        images_per_cluster: so many images make a cluster: ``K = n / images_per_cluster``, rounded.
        least: clusters, as far as there are so many different images.
        most: clusters.
        percentile: in [0, 100].
        minibatch_from: so many images are clustered in mini-batches, which is faster and less exact.
        seed: of the clusters.

    Raises:
        ValueError: a setting is out of its range.

    Source: Ye and Liu 2024, arXiv 2410.01638; K, distance and threshold are ours. scikit-learn does the work.
    """

    def __init__(
        self,
        images_per_cluster: int = 50,
        least: int = 2,
        most: int = 20,
        percentile: float | int = 95.0,
        minibatch_from: int = 10_000,
        seed: int = 0,
    ) -> None:
        if images_per_cluster < 1 or not 1 <= least <= most or minibatch_from < 1 or not 0 <= seed < 2**32:
            raise ValueError(
                "images_per_cluster, least and minibatch_from must be at least 1, most at least least, seed in "
                f"[0, 2³²), got {images_per_cluster}, {least}, {minibatch_from}, {most}, {seed}"
            )
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be in [0, 100], got {percentile}")
        self.images_per_cluster, self.least, self.most = images_per_cluster, least, most
        self.percentile, self.minibatch_from, self.seed = percentile, minibatch_from, seed

    def threshold(self, distances: Float[Tensor, " m"]) -> float:
        """The percentile of the originals' distances.

        Raises:
            ValueError: there are none.
        """
        if not len(distances):
            raise ValueError("no keyword has two originals, so that nothing tells how far apart images of one are")
        return float(np.percentile(distances.numpy(), self.percentile))

    def cluster(self, images: Float[Tensor, "n d"], originals: Float[Tensor, "m d"], threshold: float) -> Clusters:
        """Cluster one keyword's images. Features are of length 1."""
        k = min(self.count(len(images)), len(np.unique(images.numpy(), axis=0)))
        labels, centroids = self._fit(images.numpy(), k)
        distances = 1 - _cosines(torch.from_numpy(centroids).float(), originals.mean(0))
        return Clusters(labels.tolist(), distances.tolist(), threshold)

    def count(self, n: int) -> int:
        """How many clusters so many images make."""
        return max(1, min(n, self.most, max(self.least, round(n / self.images_per_cluster))))

    def _fit(self, images: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.cluster import KMeans, MiniBatchKMeans

        kind: Any = MiniBatchKMeans if len(images) >= self.minibatch_from else KMeans
        fitted = kind(k, n_init=4, random_state=self.seed).fit(images.astype(np.float64))
        return fitted.labels_, fitted.cluster_centers_


def leave_one_out(originals: Float[Tensor, "m d"]) -> Float[Tensor, " _k"]:
    """``1 - cos`` of each original and the mean of the others; none where there is one only."""
    if len(originals) < 2:
        return originals.new_zeros(0)
    others = (originals.sum(0) - originals) / (len(originals) - 1)
    return 1 - torch.cosine_similarity(originals, others)


def _cosines(rows: Float[Tensor, "n d"], mean: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
    return torch.cosine_similarity(rows, mean[None])


class ClassAgreement:
    """A linear probe that learnt the originals' classes; an image stays if it is of the class that it was found by.

    Args:
        min_probability: of the class, in [0, 1], beyond being the most likely one.
        strength: inverse of the regularisation, ``C`` of scikit-learn.
        folds: of the cross-validation that says how much the probe can be trusted; fewer where a class has fewer
            originals.
        max_iterations: of the solver.
        seed: of the folds.

    Raises:
        ValueError: a setting is out of its range.

    Source: Ye and Liu 2024, arXiv 2410.01638, who do not say what classifies; a probe of frozen features is ours.
    """

    def __init__(
        self,
        min_probability: float | int = 0.0,
        strength: float | int = 1.0,
        folds: int = 5,
        max_iterations: int = 1000,
        seed: int = 0,
    ) -> None:
        if not 0 <= min_probability <= 1 or not strength > 0 or folds < 2 or max_iterations < 1 or seed < 0:
            raise ValueError(
                "min_probability must be in [0, 1], strength positive, folds at least 2, max_iterations at least 1 and "
                f"seed not negative, got {min_probability}, {strength}, {folds}, {max_iterations}, {seed}"
            )
        self.min_probability, self.strength, self.folds = min_probability, strength, folds
        self.max_iterations, self.seed = max_iterations, seed

    def fit(self, features: Float[Tensor, "m d"], keywords: Sequence[str]) -> Probe:
        """Learn the originals' classes.

        Raises:
            ValueError: there are fewer than two.
        """
        if len(set(keywords)) < 2:
            raise ValueError(
                f"class agreement needs originals of at least two keywords, got {sorted(set(keywords))}; "
                "dataset.agreement=null does without"
            )
        rows, labels = features.numpy().astype(np.float64), np.array(keywords)
        with warnings.catch_warnings():
            _ignore_convergence()
            probe = self._probe().fit(rows, labels)
            return Probe(probe, self._accuracy(rows, labels))

    def _accuracy(self, rows: np.ndarray, labels: np.ndarray) -> float | None:
        """Cross-validated, of the classes that have two originals; None where fewer than two have."""
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        times = Counter(labels.tolist())
        several = np.array([times[x] > 1 for x in labels.tolist()])
        if len(set(labels[several].tolist())) < 2:
            return None
        folds = min(self.folds, min(x for x in times.values() if x > 1))
        splits = StratifiedKFold(folds, shuffle=True, random_state=self.seed)
        return float(cross_val_score(self._probe(), rows[several], labels[several], cv=splits).mean())

    def _probe(self) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=self.max_iterations))


class Probe:
    """What ``ClassAgreement`` learnt.

    Attributes:
        accuracy: cross-validated, in [0, 1]; None where there are too few originals to tell.
    """

    def __init__(self, fitted: Any, accuracy: float | None) -> None:
        self._fitted, self.accuracy = fitted, accuracy

    def probabilities(self, features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n c"], list[str]]:
        """Of each image's classes, and what these are."""
        classes = [str(x) for x in self._fitted.classes_]
        if not len(features):
            return features.new_zeros(0, len(classes)), classes
        return torch.from_numpy(self._fitted.predict_proba(features.numpy().astype(np.float64))).float(), classes


def _ignore_convergence() -> None:
    """A probe that is almost done judges as well."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
