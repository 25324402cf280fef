"""Records and the numbers that come of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.evaluation.scoring import Record, RecordingMetric, gathered, image_values, pack, unpack
from scenewright.layout import Layout, Sample
from scenewright.protocols import Metric

SCORES = st.lists(st.one_of(st.floats(-5, 5), st.just(math.nan)), max_size=5)


class Brightness(RecordingMetric):
    """The mean of what is in each box, and of the image."""

    def score(self, generated, samples):
        return [
            Record(x.key, {"inside": [float(image.float().mean())] * len(x.layout)}, {"whole": float(image[0, 0, 0])})
            for image, x in zip(generated, samples, strict=True)
        ]


def sample(key: str, regions: int = 1) -> Sample:
    return Sample(key, layout=Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * regions).reshape(-1, 4), ["x"] * regions))


def images(*values: int) -> list[torch.Tensor]:
    return [torch.full((3, 4, 4), x, dtype=torch.uint8) for x in values]


def test_a_number_is_the_mean_over_images_of_the_mean_over_regions():
    metric = Brightness()
    metric.update(images(10, 40), [sample("a", regions=1), sample("b", regions=3)])
    assert metric.compute() == {"inside": 25, "whole": 25}
    assert isinstance(metric, Metric)


def test_an_image_without_regions_says_nothing_about_regions():
    metric = Brightness()
    metric.update(images(10, 40), [sample("a"), sample("b", regions=0)])
    assert metric.compute() == {"inside": 10, "whole": 25}


def test_nothing_at_all_is_not_a_number():
    metric = Brightness()
    assert metric.compute() == {}
    metric.update(images(10), [sample("a", regions=0)])
    assert math.isnan(metric.compute()["inside"])
    metric.reset()
    assert metric.compute() == {}


def test_neither_order_nor_batches_change_a_number():
    samples, pictures = [sample(x) for x in "abcd"], images(3, 200, 77, 0)
    whole, parts = Brightness(), Brightness()
    whole.update(pictures, samples)
    for i in (2, 0, 3, 1):
        parts.update(pictures[i : i + 1], samples[i : i + 1])
    assert whole.compute() == parts.compute()
    assert [x.key for x in gathered(parts.records)] == list("abcd")


def test_as_many_samples_as_images_are_needed():
    with pytest.raises(ValueError, match="one sample per image"):
        Brightness().update(images(1, 2), [sample("a")])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=4), SCORES, SCORES), max_size=4))
def test_packed_records_come_back_as_they_were(found):
    records = [
        Record(key, {"a": a, "b": b}, {"c": math.nan}, {"x/y": np.array(a, np.float32)}, ["why"]) for key, a, b in found
    ]
    again = unpack(pack(records))
    assert [x.key for x in again] == [x.key for x in records]
    for one, other in zip(records, again, strict=True):
        np.testing.assert_array_equal(one.arrays["x/y"], other.arrays["x/y"])
        np.testing.assert_array_equal(one.objects["a"], other.objects["a"])
        assert other.arrays["x/y"].dtype == np.float32
        assert math.isnan(other.image["c"]) and list(other.problems) == ["why"]
        assert (one.expected, one.scored) == (other.expected, other.scored)


def test_a_half_written_file_of_records_is_refused():
    data = pack([Record("a", {"x": [1.0, 2.0]}, arrays={"features": np.arange(100.0)})])
    with pytest.raises(Exception, match=r".+"):
        unpack(data[: len(data) // 2])


def test_a_score_that_is_not_there_is_counted():
    record = Record("a", {"x": [1.0, math.nan]}, {"y": math.nan})
    assert (record.expected, record.scored) == (3, 1)
    names, values = image_values([record, Record("b", {"x": [3.0]})])
    assert names == ["x", "y"]
    np.testing.assert_array_equal(values, [[1, np.nan], [3, np.nan]])
