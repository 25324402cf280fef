"""Scores are put into bins of equal weight, with intervals that know that scores of one layout go together."""

import numpy as np
import pytest
from scipy import stats

from scenewright.evaluation.trends import TRAITS, Points, binned, draw, interval_of_mean, points

AREA, COUNT, OVERLAP, WORDS = TRAITS


def made(values, scores, owners=None, trait="area") -> Points:
    values, scores = np.array(values, float), np.array(scores, float)
    every = {t.column: np.full(len(scores), np.nan) for t in TRAITS} | {trait: values}
    return Points(scores, every, np.arange(len(scores)) if owners is None else np.array(owners), True)


def test_no_score_has_no_bin():
    assert binned(made([], []), AREA) == [] and draw(0, made([], [])) == {}


def test_every_known_value_is_in_one_bin_and_bins_hold_about_as_many():
    values = np.random.default_rng(0).random(400)
    values[:5] = np.nan
    bins = binned(made(values, values), AREA)
    assert len(bins) == 8 and sum(x.count for x in bins) == 395 and all(45 <= x.count <= 55 for x in bins)
    assert all(a.high < b.low for a, b in zip(bins, bins[1:], strict=False))
    assert all(x.low <= x.mean <= x.high for x in bins)


def test_equal_values_are_never_in_two_bins():
    values = [0.0] * 150 + list(np.linspace(0.1, 0.9, 90))
    bins = binned(made(values, values), AREA)
    assert (bins[0].low, bins[0].high, bins[0].count) == (0.0, 0.0, 150)
    assert 3 <= len(bins) <= 8 and bins[1].low == 0.1


def test_a_few_whole_numbers_have_a_bin_each_and_many_are_joined():
    few = binned(made([1, 1, 2, 5], [0, 1, 1, 1], trait="count"), COUNT)
    assert [(x.low, x.high, x.mean, x.count) for x in few] == [(1, 1, 0.5, 2), (2, 2, 1, 1), (5, 5, 1, 1)]
    many = binned(made(np.arange(200) % 40, np.ones(200), trait="words"), WORDS)
    assert 5 <= len(many) <= 8 and sum(x.count for x in many) == 200


def test_an_interval_of_independent_scores_is_that_of_the_t_distribution():
    scores = np.random.default_rng(0).normal(3, 2, 40)
    expected = stats.ttest_1samp(scores, 0).confidence_interval()
    assert interval_of_mean(scores, np.arange(40), False) == pytest.approx((expected.low, expected.high))


def test_scores_that_repeat_within_a_layout_are_worth_one():
    scores = np.random.default_rng(0).normal(3, 2, 40)
    alone = interval_of_mean(scores, np.arange(40), False)
    assert interval_of_mean(np.repeat(scores, 5), np.repeat(np.arange(40), 5), False) == pytest.approx(alone)
    shares = (scores > 3).astype(float)
    alone = interval_of_mean(shares, np.arange(40), True)
    assert interval_of_mean(np.repeat(shares, 5), np.repeat(np.arange(40), 5), True) == pytest.approx(alone, abs=0.01)


@pytest.mark.parametrize("right", [0, 3, 20, 40])
def test_an_interval_of_independent_shares_is_wilsons(right):
    scores = np.array([1.0] * right + [0.0] * (40 - right))
    low, high = stats.binomtest(right, 40).proportion_ci(method="wilson")
    assert interval_of_mean(scores, np.arange(40), True) == pytest.approx((low, high), abs=0.008)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_shares_of_all_or_nothing_stay_uncertain_and_between_0_and_1(value):
    low, high = interval_of_mean(np.full(30, value), np.repeat(np.arange(6), 5), True) or (9, 9)
    assert 0 <= low <= value <= high <= 1 and high - low > 0.3  # six layouts, not thirty


def test_one_layout_tells_nothing_about_others():
    assert interval_of_mean(np.array([1.0, 2.0, 3.0]), np.zeros(3), False) is None


def test_of_many_draws_95_percent_of_the_intervals_hold_the_truth():
    generator, held = np.random.default_rng(0), 0
    owners = np.repeat(np.arange(25), 4)
    for _ in range(400):
        chances = np.repeat(generator.beta(2, 2, 25), 4)  # regions of one layout are alike
        low, high = interval_of_mean((generator.random(100) < chances).astype(float), owners, True) or (9, 9)
        held += low <= 0.5 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_scores_of_regions_are_taken_with_their_traits(small_run):
    run = small_run()
    found = points("right", run.images, run.objects)
    assert found.of_regions and found.is_binary and len(found.scores) == len(run.objects)
    assert found.values["words"].tolist() == [x["words"] for x in run.objects]
    assert len(set(found.owners.tolist())) == 7


def test_scores_of_images_are_taken_with_the_means_over_their_regions(small_run):
    run = small_run()
    found = points("overall", run.images, run.objects)
    assert not found.of_regions and not found.is_binary and found.scores.tolist() == [20.0 + i for i in range(9)]
    assert found.values["count"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert np.isnan(found.values["area"][0]) and found.values["area"][2] == pytest.approx(0.06)


def test_a_plot_has_its_bins_and_their_counts_and_equal_scores_give_equal_bytes(small_run):
    run = small_run()
    drawn = draw(0, points("right", run.images, run.objects))
    assert list(drawn) == ["area", "count", "overlap", "words"]
    facts, svg = drawn["count"]
    assert facts == "16 regions" and svg.startswith("<svg") and ">regions in the layout<" in svg
    assert [f">{n}</text>" in svg for n in (2, 4, 6)] == [True] * 3
    assert draw(0, points("right", run.images, run.objects)) == drawn
