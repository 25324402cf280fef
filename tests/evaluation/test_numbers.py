"""What a run says of a number: n, coverage, and nothing silent."""

import math

import pytest

from scenewright.evaluation.numbers import entries, table
from scenewright.evaluation.scoring import Record, RecordingMetric


class Given(RecordingMetric):
    """Records that were given."""

    def __init__(self, *records: Record) -> None:
        super().__init__()
        self.records = list(records)

    def score(self, generated, samples):
        raise NotImplementedError


class Largest(Given):
    """A number of the whole set."""

    rounds = 5

    def summarize(self, records):
        return {"largest": max(float(x.arrays["f"][0]) for x in records)}


def test_what_is_scored_is_covered():
    found, problems = entries(Given(Record("a", {"x": [0.0, 1.0]}), Record("b", {"x": [1.0]})))
    x = found["x"]
    assert x["value"] == 0.75 and (x["n"], x["objects"], x["expected"], x["scored"], x["coverage"]) == (2, 3, 3, 3, 1)
    assert x["interval"][0] <= 0.75 <= x["interval"][1] and not problems


def test_a_region_without_a_score_lowers_the_coverage_and_is_named():
    metric = Given(Record("a", {"x": [math.nan, 1.0]}, problems=["region 0 is empty"]), Record("b", {"x": [1.0]}))
    found, problems = entries(metric)
    assert found["x"]["value"] == 1 and found["x"]["coverage"] == pytest.approx(2 / 3)
    assert problems == [("a", "region 0 is empty")]


def test_an_image_that_is_not_there_counts_as_all_its_regions():
    found, _ = entries(Given(Record("a", {"x": [1.0]}, {"y": 1.0})), lost=[4])
    assert (found["x"]["expected"], found["x"]["scored"]) == (5, 1)
    assert (found["y"]["expected"], found["y"]["scored"]) == (2, 1)


def test_an_image_without_regions_asks_for_nothing():
    found, _ = entries(Given(Record("a", {"x": []}), Record("b", {"x": []})))
    assert found["x"]["value"] is None and found["x"]["coverage"] == 1 and found["x"]["n"] == 0


def test_a_number_of_the_whole_set_is_covered_as_its_images_are():
    import numpy as np

    some = [Record(x, arrays={"f": np.array([float(i)])}) for i, x in enumerate("abc")]
    found, _ = entries(Largest(*some), lost=[7])
    assert found["largest"]["value"] == 2
    assert (found["largest"]["n"], found["largest"]["expected"], found["largest"]["scored"]) == (3, 4, 3)


def test_the_table_shows_value_interval_and_coverage():
    found, _ = entries(Given(Record("a", {"x": [math.nan, 1.0]}), Record("b", {"x": [0.0]})))
    lines = table({"x": {**found["x"], "higher_is_better": False}}).splitlines()
    assert lines[0].split() == ["metric", "value", "95", "%", "interval", "images", "regions", "coverage"]
    assert lines[1].split()[:3] == ["x", "↓", "0.5000"] and lines[1].endswith("0.6667")
