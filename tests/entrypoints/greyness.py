"""Metrics that take no time: one that keeps records, and one that is any class with the right methods."""

import os
from collections.abc import Sequence
from pathlib import Path

from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample


class Greyness(RecordingMetric):
    """The mean of the green channel in each box, and how often it was asked.

    Args:
        log: a file that gets a line per judged image.
        blind: regions with this label cannot be scored.

    With ``KILL_AFTER`` in the environment, the process kills itself before the image of this number.
    """

    def __init__(self, log: str | None = None, blind: str = "") -> None:
        super().__init__()
        self.log, self.blind = log, blind

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        records = []
        for image, sample in zip(generated, samples, strict=True):
            if self.log:
                with open(self.log, "a") as file:
                    file.write(f"{sample.key}\n")
                if len(Path(self.log).read_text().splitlines()) > int(os.environ.get("KILL_AFTER", 10**9)):
                    os.kill(os.getpid(), 9)
            seen = [label != self.blind for label in sample.layout.labels]
            scores = [float(image[1].float().mean()) if x else float("nan") for x in seen]
            problems = [f"region {i} is a {self.blind}" for i, x in enumerate(seen) if not x]
            records.append(Record(sample.key, {"greyness": scores}, {"red": float(image[0, 0, 0])}, problems=problems))
        return records


class Count:
    """How many images there were, in this process."""

    higher_is_better = False

    def __init__(self) -> None:
        self.images = 0

    def update(self, generated: Sequence[Image], samples: Sequence[Sample]) -> None:
        self.images += len(generated)

    def compute(self) -> dict[str, float]:
        return {"count": self.images}

    def reset(self) -> None:
        self.images = 0
