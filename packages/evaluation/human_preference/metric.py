"""HumanPreference: how often people preferred a run's images to others of the same layouts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from scenewright.checkpoints import Checkpoint
from scenewright.evaluation.human_preference.votes import Place, comparisons, read_votes, vote_files, win_shares
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class HumanPreference(RecordingMetric):
    """The share of an image's comparisons that it won, in [0, 1]; no difference counts one half.

    Each judge counts once in a comparison, with the mean of all answers given to it. An image is found by its key and
    its number among the images of its layout, so the images must be those that were judged: their pixels are not
    looked at, and where one of a layout's images is missing the others are not told apart. One without votes is not
    scored. Boxes, labels and captions play no part.

    Args:
        votes: CSV files that the judging page gave, or patterns; all judges' files are taken together.
        run: the name that the votes have for the run whose images these are.

    Source: the user study of Cheng et al. 2024, arXiv 2409.04847, which reports that its metrics agree with people.
    """

    def __init__(self, votes: str | Path | Sequence[str | Path], run: str) -> None:
        super().__init__()
        self.votes, self.run = votes, run

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The votes decide the numbers just as weights do."""
        return [Checkpoint(str(x)) for x in vote_files(self.votes)]

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        seen: Counter[str] = Counter()
        records = []
        for sample in samples:
            records.append(self._record(sample.key, seen[sample.key]))
            seen[sample.key] += 1
        return records

    def _record(self, key: str, image: int) -> Record:
        share = self._shares.get(Place(key, image))
        if share is not None:
            return Record(key, image={"human_preference": share})
        why = f"nobody voted on image {image} of this layout and run {self.run!r}"
        return Record(key, image={"human_preference": math.nan}, problems=[why])

    @cached_property
    def _shares(self) -> Mapping[Place, float]:
        """Read on first use."""
        every = win_shares(comparisons(read_votes(self.votes)))
        if self.run not in every:
            names = ", ".join(map(repr, sorted(every))) or "none"
            raise ValueError(f"no vote names the run {self.run!r}; the runs in {self.votes} are: {names}")
        return every[self.run]
