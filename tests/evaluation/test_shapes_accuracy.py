"""Shapes accuracy: nearly all is right in the scenes themselves, nearly nothing in each other's."""

import math
from dataclasses import replace

import pytest
import torch

from scenewright.annotators.appearance import describe
from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.datasets.shapes import Shapes
from scenewright.evaluation.shapes_accuracy import ShapesAccuracy


@pytest.fixture(scope="module")
def scenes():
    return list(Shapes(length=12, height=64, width=64, split="test", difficulty="easy"))


@pytest.fixture
def metric():
    return ShapesAccuracy(GrabCut(), describe)


def test_the_scenes_themselves_are_right(metric, scenes):
    metric.update([x.image for x in scenes], scenes)
    numbers = metric.compute()
    assert numbers["colour"] > 0.9 and numbers["shape"] > 0.8 and numbers["shapes_accuracy"] > 0.8


def test_images_of_other_layouts_are_wrong(metric, scenes):
    metric.update([x.image for x in scenes[1:] + scenes[:1]], scenes)
    assert metric.compute()["shapes_accuracy"] < 0.1


def test_the_true_masks_tell_it_nothing(metric, scenes):
    black = torch.zeros_like(scenes[0].image)
    metric.update([black], [scenes[0]])
    assert metric.compute()["shape"] == 0


def test_a_sample_that_does_not_say_what_was_drawn_is_not_scored(metric, scenes):
    sample = replace(scenes[0], metadata={})
    metric.update([sample.image], [sample])
    (record,) = metric.records
    assert record.scored == 0 and record.expected == 3 * len(sample.layout)
    assert "metadata.objects" in record.problems[0] and math.isnan(metric.compute()["colour"])
