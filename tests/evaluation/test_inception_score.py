"""InceptionScore: torch-fidelity's number, for any order, batch and number of processes."""

import math

import pytest
import torch

from scenewright.evaluation.inception_score import InceptionScore


def judged(metric, drawn):
    metric.update([x.image for x in drawn], drawn)
    return metric.records


def test_it_is_what_torch_fidelity_says(small_network, scenes, fidelity):
    drawn = scenes(57)
    expected = fidelity([x.image for x in drawn], isc=True, isc_splits=5, rng_seed=3)
    metric = InceptionScore(small_network(), splits=5, seed=3)
    numbers = metric.summarize(judged(metric, drawn))
    assert numbers["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert numbers["std"] == pytest.approx(expected["inception_score_std"], rel=1e-5)
    assert numbers["inception_score"] > 1.2 and numbers["std"] > 0.01


def test_sure_and_various_classes_score_the_number_of_classes():
    class Sure:
        def logits(self, images):
            return 100 * torch.eye(4)[[int(x[0, 0, 0]) for x in images]]

    metric = InceptionScore(Sure(), splits=1)
    from scenewright.layout import Sample

    images = [torch.full((3, 2, 2), i % 4, dtype=torch.uint8) for i in range(8)]
    metric.update(images, [Sample(str(i)) for i in range(8)])  # it needs none of the dataset's images
    assert metric.compute()["inception_score"] == pytest.approx(4) and metric.higher_is_better
    metric.reset()
    metric.update(images[:1] * 8, [Sample(str(i)) for i in range(8)])
    assert metric.compute()["inception_score"] == pytest.approx(1)


def test_order_and_processes_change_nothing(small_network, scenes):
    drawn = scenes(30)
    whole, first, second = (InceptionScore(small_network(), splits=4) for _ in range(3))
    expected = whole.summarize(judged(whole, drawn))
    assert whole.summarize(judged(second, drawn[11:]) + judged(first, drawn[:11])) == expected
    other = InceptionScore(small_network(), splits=4, seed=1).summarize(whole.records)
    assert other["inception_score"] != pytest.approx(expected["inception_score"], rel=1e-4)


def test_fewer_images_than_splits_are_said_and_have_no_number(small_network, scenes, caplog):
    metric = InceptionScore(small_network())
    judged(metric, scenes(9))
    assert math.isnan(metric.compute()["inception_score"]) and math.isnan(metric.compute()["std"])
    assert caplog.messages == [
        "InceptionScore: 10 splits need at least as many images, got 9; set inception_score.splits"
    ]
    metric.update([scenes(1, seed=1)[0].image], scenes(1, seed=1))
    assert metric.compute()["inception_score"] == pytest.approx(1)  # every split has one image


def test_no_splits_are_refused(small_network):
    with pytest.raises(ValueError, match="splits must be at least 1"):
        InceptionScore(small_network(), splits=0)
