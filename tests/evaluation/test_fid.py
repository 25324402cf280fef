"""FID: torch-fidelity's number, for any order, batch and number of processes."""

import math

import pytest

from scenewright.evaluation.fid import FID
from scenewright.evaluation.intervals import intervals


def judged(metric, drawn, samples):
    metric.update([x.image for x in drawn], samples)
    return metric.records


def test_it_is_what_torch_fidelity_says_of_two_sets(small_network, scenes, fidelity):
    drawn, samples = scenes(60, shift=30), scenes(60, seed=1)
    expected = fidelity([x.image for x in drawn], [x.image for x in samples], fid=True)["frechet_inception_distance"]
    metric = FID(small_network())
    judged(metric, drawn, samples)
    assert metric.compute() == pytest.approx({"fid": expected}, rel=1e-4) and expected > 1


def test_a_set_has_no_distance_from_itself_and_more_from_what_is_less_like_it(small_network, scenes):
    samples, found = scenes(60, seed=1), []
    for drawn in (samples, scenes(60), scenes(60, shift=25), scenes(60, shift=50)):
        metric = FID(small_network())
        found.append(metric.summarize(judged(metric, drawn, samples))["fid"])
    assert abs(found[0]) < 1e-4 and found[1] > 0.05 and found == sorted(found) and not FID.higher_is_better


def test_two_processes_halves_in_any_order_give_the_same_number(small_network, scenes):
    drawn, samples = scenes(20, shift=30), scenes(20, seed=1)
    whole, first, second = FID(small_network()), FID(small_network()), FID(small_network())
    expected = whole.summarize(judged(whole, drawn, samples))["fid"]
    halves = judged(second, drawn[7:], samples[7:]) + judged(first, drawn[:7], samples[:7])
    assert whole.summarize(halves)["fid"] == pytest.approx(expected, rel=1e-12)


def test_fewer_than_two_images_have_no_distance_and_it_is_said_once(small_network, scenes, caplog):
    metric = FID(small_network())
    assert math.isnan(metric.compute()["fid"])
    judged(metric, scenes(1), scenes(1, seed=1))
    assert math.isnan(metric.compute()["fid"]) and math.isnan(metric.compute()["fid"])
    assert caplog.messages[1:] == ["FID: a covariance needs at least 2 images, got 1 and 1 to compare them with"]


def test_an_interval_holds_the_number(small_network, scenes):
    metric = FID(small_network())
    records = judged(metric, scenes(30, shift=30), scenes(30, seed=1))
    low, high = intervals(metric, records)["fid"]
    assert low < metric.summarize(records)["fid"] < high
