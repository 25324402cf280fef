"""Layouts in which each region is asked for an attribute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from scenewright.datasets.attribute_phrases import ATTRIBUTES, AttributePhrases
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Layout, Sample
from scenewright.protocols import RangedDataset


class Cars:
    """Samples with 0, 1, 2, … cars each."""

    fingerprint = "cars"

    def __init__(self, length: int = 12, ids: bool = False) -> None:
        self.length, self.ids = length, ids

    def __len__(self):
        return self.length

    def __iter__(self):
        return self.read(0, self.length)

    def read(self, start, stop):
        for i in range(start, stop):
            layout = Layout(torch.rand(i, 4), ["car"] * i, points=torch.rand(i, 2))
            known = {"annotation_ids": [17 + 8 * k for k in range(i)]} if self.ids else {}
            yield Sample(f"s{i}", caption=f"{i} cars", layout=layout, metadata=known)


def phrases(dataset):
    return [x.layout.captions for x in dataset]


def test_a_dataset_without_samples_has_no_phrases():
    assert phrases(AttributePhrases(Cars(0))) == []


def test_the_attribute_is_that_of_the_annotations_number():
    found = phrases(AttributePhrases(Cars(4, ids=True)))
    assert found == [[], ["white car"], ["white car"] * 2, ["white car"] * 3]  # 17, 25 and 33 are 1 modulo 8
    assert phrases(AttributePhrases(Cars(2, ids=True), "texture", seed=8))[1] == ["fluffy car"]


def test_without_numbers_sample_and_region_are_counted():
    found = phrases(AttributePhrases(Cars(), ["a", "b", "c"]))
    assert found[:4] == [[], ["b car"], ["c car", "a car"], ["a car", "b car", "c car"]]
    assert {x.split()[0] for some in phrases(AttributePhrases(Cars())) for x in some} == set(ATTRIBUTES["colour"])


def test_reading_from_the_middle_gives_what_iterating_gives():
    dataset = AttributePhrases(Cars(), seed=3)
    assert isinstance(dataset, RangedDataset) and len(dataset) == 12
    assert phrases(dataset.read(5, 9)) == phrases(dataset)[5:9]


def test_all_else_of_a_sample_stays():
    scenes = Shapes(3, 32, 32)
    for before, after in zip(scenes, AttributePhrases(scenes), strict=True):
        assert after.layout.labels == before.layout.labels and after.layout.masks == before.layout.masks
        assert after.caption == before.caption and torch.equal(after.image, before.image)
        assert replace(after.layout, captions=[]).boxes is after.layout.boxes


def test_the_fingerprint_changes_with_all_that_phrases_depend_on():
    made = [AttributePhrases(Cars()), AttributePhrases(Cars(), "texture"), AttributePhrases(Cars(), seed=1)]
    assert len({x.fingerprint for x in made}) == 3
    assert AttributePhrases(Cars(), list(ATTRIBUTES["colour"])).fingerprint == made[0].fingerprint


def test_the_metric_asks_for_these_attributes():
    metric = OmegaConf.load(Path(__file__).parents[2] / "conf" / "metric" / "attribute_accuracy.yaml")
    assert {name: list(some) for name, some in ATTRIBUTES.items()} == metric.attribute_accuracy.attributes


@pytest.mark.parametrize(("given", "said"), [("smell", "colour or texture, .* got 'smell'"), ([], "at least one")])
def test_what_cannot_be_is_said(given, said):
    with pytest.raises(ValueError, match=said):
        AttributePhrases(Cars(), given)
