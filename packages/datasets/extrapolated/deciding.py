"""Which retrieved images stay, why the others do not, and what text features they have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector, leave_one_out
from scenewright.datasets.extrapolated.duplicates import NearDuplicates
from scenewright.datasets.extrapolated.extrapolation import LinearExtrapolation
from scenewright.datasets.extrapolated.keywords import same
from scenewright.datasets.extrapolated.originals import Originals
from scenewright.datasets.extrapolated.records import STAGES, Decision, Measured, Pool


@dataclass(frozen=True, eq=False)
class Decided:
    """What became of a pool.

    Attributes:
        decisions: one per image, in the order of the pool.
        texts: ``(kept, c)``, the text features of those that are kept, in their order.
        summary: counts, thresholds and clusters, for people and for the page.
    """

    decisions: list[Decision]
    texts: Float[Tensor, "kept c"]
    summary: dict[str, Any]


@dataclass(eq=False)
class Deciding:
    """One pass over a pool, stage by stage; a stage sees what those before it left.

    Args:
        pool: the images and what they were found by.
        measured: what is known of them.
        originals: what they are compared with.
        evaluation: what is known of the images that nothing may be like, if there are any.
        duplicates: finds those; None does not look.
        clusters: the cluster detector, or None.
        agreement: the class-agreement detector, or None.
        extrapolation: gives those that are left their text features.
    """

    pool: Pool
    measured: Measured
    originals: Originals
    evaluation: Measured | None
    duplicates: NearDuplicates | None
    clusters: ClusterDetector | None
    agreement: ClassAgreement | None
    extrapolation: LinearExtrapolation
    decisions: list[Decision] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Decided:
        """Decide.

        Raises:
            ValueError: the pool is empty, none of its keywords has an original, or features are not equally wide.
        """
        self._begin()
        self._reject_copies(within_keywords=True)
        self._reject_evaluation()
        self._reject_clusters()
        self._reject_strangers()
        self._reject_copies(within_keywords=False)
        texts, about = self.extrapolation.apply(self.decisions, self.measured.features, self.originals)
        self.summary["extrapolation"] = about
        return Decided(self.decisions, texts, self._summary())

    def _begin(self) -> None:
        if not self.pool.places:
            raise ValueError(f"the pool is empty: nothing was retrieved ({self.pool.notes})")
        widths = self.measured.features.shape[1], self.originals.features.shape[1]
        if any(not x for x in self.measured.problems) and widths[0] != widths[1]:
            raise ValueError(f"features of the pool have {widths[0]} values, those of the originals {widths[1]}")
        spelled = {same(x): x for x in self.originals.keywords}
        if not any(same(x) in spelled for x in self.pool.keywords):
            theirs, ours = sorted(set(self.pool.keywords))[:5], sorted(spelled.values())[:5]
            raise ValueError(f"no keyword of the pool ({theirs}, ...) is one of the originals' ({ours}, ...)")
        for i, (place, word) in enumerate(zip(self.pool.places, self.pool.keywords, strict=True)):
            decision = Decision(place, self.measured.keys[i], spelled.get(same(word), word))
            self.decisions.append(decision)
            if self.measured.problems[i]:
                decision.reject("unreadable", f"cannot be read: {self.measured.problems[i]}")
            elif not self.measured.features[i].any():
                decision.reject("unreadable", "its feature is zero")
            elif same(word) not in spelled:
                decision.reject("keyword", f"no original is of {word!r}" if word else "it has no keyword")

    def _alive(self) -> list[int]:
        return [i for i, x in enumerate(self.decisions) if x.stage == "kept"]

    def _by_keyword(self) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i in self._alive():
            groups[self.decisions[i].keyword].append(i)
        return dict(sorted(groups.items()))

    def _reject_copies(self, within_keywords: bool) -> None:
        """Of files that are equal, keep the first; across keywords only after a wrong keyword had its chance to go."""
        originals = dict(zip(self.originals.digests, self.originals.keys, strict=True))
        first: dict[tuple[str, str], str] = {}
        for i in self._alive():
            decision, digest = self.decisions[i], self.measured.digests[i]
            twin = first.setdefault((digest, decision.keyword if within_keywords else ""), decision.key)
            if digest in originals:
                decision.reject("copy", f"the same file as the original {originals[digest]!r}")
            elif twin != decision.key:
                decision.reject("copy", f"the same file as {twin!r}")

    def _reject_evaluation(self) -> None:
        if self.duplicates is None or self.evaluation is None:
            return
        alive = self._alive()
        verdicts = self.duplicates.judge(self.measured.features[alive], self.measured.hashes[alive], self.evaluation)
        for i, verdict in zip(alive, verdicts, strict=True):
            if verdict is not None:
                self.decisions[i].reject("evaluation", *verdict)

    def _reject_clusters(self) -> None:
        if self.clusters is None:
            return
        groups = self._by_keyword()
        left_out = {x: leave_one_out(self.originals.of(x)) for x in sorted(set(self.originals.keywords))}
        overall = self.clusters.threshold(torch.cat(list(left_out.values())))
        about = self.summary.setdefault("clusters", {})
        for keyword, places in groups.items():
            own = left_out[keyword]
            threshold = self.clusters.threshold(own) if len(own) else overall
            found = self.clusters.cluster(self.measured.features[places], self.originals.of(keyword), threshold)
            about[keyword] = {"threshold": found.threshold, "distances": found.distances}
            for i, label in zip(places, found.labels, strict=True):
                self.decisions[i].cluster = label
                distance = found.distances[label]
                if distance > threshold:
                    reason = f"its cluster is {distance:.3f} from the originals, more than {threshold:.3f}"
                    self.decisions[i].reject("cluster", reason, distance)

    def _reject_strangers(self) -> None:
        if self.agreement is None:
            return
        probe = self.agreement.fit(self.originals.features, self.originals.keywords)
        self.summary["agreement"] = {"accuracy": probe.accuracy, "min_probability": self.agreement.min_probability}
        alive = self._alive()
        rows, classes = probe.probabilities(self.measured.features[alive])
        for i, row in zip(alive, rows, strict=True):
            decision, best = self.decisions[i], int(row.argmax())
            decision.predicted = classes[best]
            decision.probability = probability = round(float(row[classes.index(decision.keyword)]), 6)
            if decision.predicted != decision.keyword:
                reason = f"looks like {decision.predicted!r} ({float(row[best]):.2f}), not {decision.keyword!r}"
                decision.reject("class", f"{reason} ({probability:.2f})", probability)
            elif probability < self.agreement.min_probability:
                reason = f"looks like {decision.keyword!r} with a probability of {probability:.2f} only"
                decision.reject("class", reason, probability)

    def _summary(self) -> dict[str, Any]:
        keywords = {}
        for keyword in sorted({x.keyword for x in self.decisions}):
            own = [x for x in self.decisions if x.keyword == keyword]
            clusters = self.summary.get("clusters", {}).get(keyword)
            keywords[keyword] = {
                "originals": self.originals.keywords.count(keyword),
                "stages": counts(own),
                "threshold": clusters and clusters["threshold"],
                "clusters": _clusters(own, clusters),
            }
        return {
            "retrieved": len(self.decisions),
            "stages": counts(self.decisions),
            "pool": self.pool.notes,
            "originals": self.originals.counts,
            "evaluation": None if self.evaluation is None else len(self.evaluation.keys),
            "agreement": self.summary.get("agreement"),
            "extrapolation": self.summary["extrapolation"],
            "keywords": keywords,
        }


def counts(decisions: Iterable[Decision]) -> dict[str, int]:
    """How many images ended in each stage, in the order of the stages; "kept" is last."""
    times = Counter(x.stage for x in decisions)
    return {stage: times[stage] for stage in (*STAGES, "kept") if times[stage]}


def _clusters(decisions: Sequence[Decision], about: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A keyword's clusters, nearest first."""
    if about is None:
        return []
    sizes = Counter(x.cluster for x in decisions)
    found = [
        {"cluster": i, "size": sizes[i], "distance": distance, "kept": distance <= about["threshold"]}
        for i, distance in enumerate(about["distances"])
    ]
    return sorted(found, key=lambda x: x["distance"])
