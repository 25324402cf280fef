"""The source: retrieved images that stayed, each with a text feature in place of a caption."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scenewright.datasets.extrapolated.deciding import Decided, Deciding
from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector
from scenewright.datasets.extrapolated.duplicates import NearDuplicates
from scenewright.datasets.extrapolated.extrapolation import LinearExtrapolation
from scenewright.datasets.extrapolated.ledger import Ledger, Row
from scenewright.datasets.extrapolated.measuring import FileGauge, read_places
from scenewright.datasets.extrapolated.originals import read_originals
from scenewright.datasets.extrapolated.records import Decision, ImageEncoder, Retrieval, TextEncoder
from scenewright.datasets.files import fingerprint_of
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset

#: Raised whenever the same settings choose or say something else than before.
VERSION = 1


class Extrapolated:
    """Images retrieved by keyword, cleared of those that do not belong, with text features extrapolated for them.

    The first use decides about all images, and writes what it decided to ``work``: see ``Ledger``. Later uses read it.
    A run that was stopped goes on from the features that it had. Of several processes that begin together each
    decides for itself, and the same; let one go first.

    A sample that is kept has ``metadata["keyword"]``, and ``metadata["extrapolation"]`` with the residual
    ``|F w - f| / |f|``, the originals that it was extrapolated from and their weights. Keys begin with ``retrieved-``,
    those of originals with ``original-``.

    Args:
        originals: labelled and captioned samples.
        retrieval: finds images by keyword.
        encoder: of images.
        text_encoder: the one of the model that is to learn from this.
        work: the folder of features, decisions and examples.
        extrapolation: gives images their text features.
        clusters: the cluster detector, or None to do without.
        agreement: the class-agreement detector, or None to do without.
        duplicates: finds images of ``evaluation``, or None to do without.
        evaluation: images that must not be learnt from.
        keyword: where an original's class is: "folder", "tag", or a field of its metadata.
        original_captions: "mean": an original's text feature is the mean of its captions'; "first": the first one's.
        captions: "drop": every retrieved image has a text feature and no caption; "keep": one that has a caption of its
            own has that instead.
        include_originals: they come first, with their captions.
        keep_rejected: images that were left out are samples too, rejected for their reason, in the order of the pool.
        examples: pictures that are kept for the page of each cluster, and four times as many of each reason.
        batch_size: images that are encoded together.
        workers: threads that read and decode.
        device: that encoders run on; None: a GPU where there is one.

    Raises:
        ValueError: a setting is none of these; on first use, the pool is empty, none of its keywords is an original's,
            features are not equally wide, or ``work`` was made with other settings.

    Source: Ye and Liu 2024, "Data Extrapolation for Text-to-image Generation on Small Datasets", arXiv 2410.01638.
    """

    def __init__(
        self,
        originals: RangedDataset,
        retrieval: Retrieval,
        encoder: ImageEncoder,
        text_encoder: TextEncoder,
        work: str,
        extrapolation: LinearExtrapolation,
        clusters: ClusterDetector | None = None,
        agreement: ClassAgreement | None = None,
        duplicates: NearDuplicates | None = None,
        evaluation: RangedDataset | None = None,
        keyword: str = "folder",
        original_captions: str = "mean",
        captions: str = "drop",
        include_originals: bool = False,
        keep_rejected: bool = False,
        examples: int = 6,
        batch_size: int = 64,
        workers: int = 4,
        device: str | None = None,
    ) -> None:
        for name, value, allowed in (
            ("original_captions", original_captions, ("mean", "first")),
            ("captions", captions, ("drop", "keep")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {value!r}")
        if examples < 0 or batch_size < 1 or workers < 1:
            raise ValueError(
                "examples must not be negative, batch_size and workers at least 1, "
                f"got {examples}, {batch_size}, {workers}"
            )
        self.originals, self.retrieval, self.encoder, self.text_encoder = originals, retrieval, encoder, text_encoder
        self.work, self.extrapolation, self.clusters, self.agreement = work, extrapolation, clusters, agreement
        self.duplicates, self.evaluation = duplicates, evaluation
        self.keyword, self.original_captions, self.captions = keyword, original_captions, captions
        self.include_originals, self.keep_rejected, self.examples = include_originals, keep_rejected, examples
        self.batch_size, self.workers, self.device = batch_size, workers, device

    @cached_property
    def fingerprint(self) -> str:
        shown = {x: getattr(self, x) for x in ("captions", "include_originals", "keep_rejected")}
        return fingerprint_of([json.dumps([self._settings, shown], sort_keys=True)])

    def __len__(self) -> int:
        return self._first + len(self._rows)

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        first = self._first
        if start < first:
            for sample in self.originals.read(start, min(stop, first)):
                yield replace(sample, key=f"original-{sample.key}")
        rows = self._rows[max(start - first, 0) : max(stop - first, 0)]
        for row, sample in zip(
            rows, read_places(self.retrieval.dataset, [x.decision.place for x in rows]), strict=True
        ):
            yield self._sample(row, sample)

    @property
    def summary(self) -> dict[str, Any]:
        """How many images each stage left out, of each keyword too; thresholds, clusters and the probe's accuracy."""
        return self._ledger.summary

    @property
    def account(self) -> str:
        """How many images were retrieved, and what became of them."""
        stages = ", ".join(f"{number} {stage}" for stage, number in self.summary["stages"].items())
        return f"{self.summary['retrieved']} retrieved images: {stages} · {self.work}/ledger.jsonl"

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """All that decisions depend on."""
        stages = ("extrapolation", "clusters", "agreement", "duplicates")
        datasets = ("originals", "retrieval", "evaluation")
        return {
            "version": VERSION,
            **{name: _described(getattr(self, name)) for name in stages},
            **{name: None if (x := getattr(self, name)) is None else x.fingerprint for name in datasets},
            "encoder": self.encoder.fingerprint(),
            "text_encoder": self.text_encoder.fingerprint(),
            "keyword": self.keyword,
            "original_captions": self.original_captions,
        }

    @cached_property
    def _ledger(self) -> Ledger:
        """The ledger, written if it is not there."""
        ledger = Ledger(Path(self.work).expanduser(), self._settings)
        if not ledger.exists():
            decided = self._decide()
            self._show(ledger, decided.decisions)
            ledger.write(decided.decisions, decided.texts, decided.summary)
        return ledger

    @cached_property
    def _rows(self) -> list[Row]:
        return [x for x in self._ledger.rows if x.text >= 0 or self.keep_rejected]

    @cached_property
    def _first(self) -> int:
        return len(self.originals) if self.include_originals else 0

    def _decide(self) -> Decided:
        gauge = FileGauge(
            self.encoder, Path(self.work).expanduser() / "features", self.batch_size, self.workers, self.device
        )
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        originals = read_originals(
            self.originals, gauge, self.text_encoder, self.keyword, self.original_captions, device
        )
        pool = self.retrieval.retrieve(originals.queries(), gauge)
        judged = self.evaluation if self.duplicates is not None else None
        return Deciding(
            pool=pool,
            measured=gauge.measure(self.retrieval.dataset, pool.places),
            originals=originals,
            evaluation=None if judged is None else gauge.measure(judged),
            duplicates=self.duplicates,
            clusters=self.clusters,
            agreement=self.agreement,
            extrapolation=self.extrapolation,
        ).run()

    def _show(self, ledger: Ledger, decisions: Sequence[Decision]) -> None:
        """Keep pictures of some images of each cluster and of each reason."""
        groups: dict[tuple[str, int] | str, list[int]] = defaultdict(list)
        for decision in decisions:
            if decision.stage != "unreadable":
                groups[decision.keyword, decision.cluster].append(decision.place)
                groups[decision.stage].append(decision.place)
        limits = {x: self.examples * (4 if isinstance(x, str) else 1) for x in groups}
        chosen = sorted({place for x, places in groups.items() for place in places[: limits[x]]})
        for place, sample in zip(chosen, read_places(self.retrieval.dataset, chosen), strict=True):
            ledger.picture(place, sample.image)

    def _sample(self, row: Row, sample: Sample) -> Sample:
        decision = row.decision
        about: dict[str, Any] = {"keyword": decision.keyword}
        key = f"retrieved-{sample.key}"
        if row.text < 0:
            about["extrapolation"] = {"stage": decision.stage, "number": decision.number}
            metadata = {**sample.metadata, **about}
            return replace(
                sample, key=key, rejected=f"{decision.stage}: {decision.reason}", metadata=metadata, error=""
            )
        about["extrapolation"] = {x: getattr(decision, x) for x in ("residual", "neighbours", "weights", "probability")}
        caption = sample.caption if self.captions == "keep" else ""
        feature = None if caption else self._ledger.texts([row.text])[0]
        return replace(sample, key=key, caption=caption, text_feature=feature, metadata={**sample.metadata, **about})


def _described(stage: Any) -> dict[str, Any] | None:
    return None if stage is None else dict(vars(stage))
