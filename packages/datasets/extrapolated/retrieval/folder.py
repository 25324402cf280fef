"""Images that were retrieved before: ``<keyword>/<images>``, or any dataset whose samples know their keyword."""

from __future__ import annotations

from collections.abc import Sequence

from scenewright.datasets.extrapolated.keywords import keyword_of
from scenewright.datasets.extrapolated.records import Gauge, Pool, Query
from scenewright.datasets.files import fingerprint_of
from scenewright.protocols import RangedDataset


class Folder:
    """All images of a dataset, each with the keyword that it says.

    Args:
        dataset: that has them.
        keyword: "folder": the first folder of a file's path; "tag": the first tag; else a field of the metadata.
    """

    def __init__(self, dataset: RangedDataset, keyword: str = "folder") -> None:
        self.dataset, self.keyword = dataset, keyword

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(["folder", self.dataset.fingerprint, self.keyword])

    def retrieve(self, queries: Sequence[Query], gauge: Gauge) -> Pool:
        """The whole dataset, whatever the queries are; images without a keyword too, so that they are counted."""
        keywords = [keyword_of(sample, self.keyword) for sample in self.dataset]
        return Pool(list(range(len(keywords))), keywords, {"images": len(keywords)})
