"""Bootstrap intervals: as scipy has them, by layout, wider of less."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from scenewright.evaluation.intervals import intervals
from scenewright.evaluation.scoring import Record, RecordingMetric


class Mean(RecordingMetric):
    """A mean over images."""

    def score(self, generated, samples):
        raise NotImplementedError


class Median(Mean):
    """A number that is no mean."""

    rounds = 400

    def summarize(self, records):
        return {"median": float(np.median([x.image["x"] for x in records]))}


def records(values, per_layout: int = 1) -> list[Record]:
    return [Record(f"{i // per_layout:06}", image={"x": float(x)}) for i, x in enumerate(values)]


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).normal(size=80)
    (low, high) = intervals(Mean(), records(values), rounds=20000)["x"]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1))
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_it_covers_the_true_mean_about_nineteen_times_of_twenty():
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        low, high = intervals(Mean(), records(generator.normal(size=60)), rounds=400)["x"]
        inside += low <= 0 <= high
    assert 180 <= inside <= 199


def test_images_of_one_layout_are_no_more_than_one_draw():
    values = np.random.default_rng(3).normal(size=50)
    alone, thrice = records(values), records(np.repeat(values, 3), per_layout=3)
    assert intervals(Mean(), alone)["x"] == pytest.approx(intervals(Mean(), thrice)["x"])


def test_a_statistic_of_the_whole_set_gets_an_interval_around_itself():
    values = np.random.default_rng(4).normal(size=200)
    low, high = intervals(Median(), records(values))["median"]
    middle = float(np.median(values))
    assert (low + high) / 2 == pytest.approx(middle)
    # the standard error of a median of a normal distribution
    assert (high - low) / 2 == pytest.approx(1.96 * 1.2533 / 200**0.5, rel=0.35)


def test_the_same_records_have_the_same_interval_and_another_seed_another():
    some = records(np.random.default_rng(5).normal(size=30))
    assert intervals(Mean(), some) == intervals(Mean(), some)
    assert intervals(Mean(), some) != intervals(Mean(), some, seed=1)


def test_one_layout_has_no_interval():
    found = intervals(Mean(), records([1.0, 2.0], per_layout=2))
    assert np.isnan(found["x"]).all()
    assert np.isnan(intervals(Mean(), records([1.0, 2.0]), rounds=0)["x"]).all()


def test_an_image_that_was_not_scored_is_left_out():
    some = records([1.0, np.nan, 3.0, np.nan])
    low, high = intervals(Mean(), some)["x"]
    assert 1 <= low <= high <= 3


def test_a_number_that_cannot_be_computed_of_any_resampled_set_has_no_interval():
    class Never(Median):
        """Not a number of any set."""

        def summarize(self, records):
            return {"never": float("nan")}

    assert np.isnan(intervals(Never(), records([1.0, 2.0, 3.0]))["never"]).all()
