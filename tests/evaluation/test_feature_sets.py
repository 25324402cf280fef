"""Two sets of features: each of the dataset's images counts once, and saved sets are those of the same network."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError, MissingWeights, check
from scenewright.evaluation.feature_sets import Reference
from scenewright.evaluation.fid import FID
from scenewright.evaluation.kid import KID
from scenewright.evaluation.scoring import pack, unpack
from scenewright.layout import EncodedImage, Sample


def judged(metric, drawn, samples, step=100):
    """Records of drawn images, some at a time."""
    metric.reset()
    for start in range(0, len(drawn), step):
        metric.update([x.image for x in drawn[start : start + step]], samples[start : start + step])
    return metric.records


@pytest.fixture
def saved(small_network, scenes, tmp_path):
    path = tmp_path / "reference.npz"
    Reference.of_images(small_network(), (x.image for x in scenes(40, seed=1))).save(path)
    return str(path)


def test_of_several_images_of_a_layout_the_first_carries_the_datasets_image(small_network, scenes):
    drawn, samples = scenes(4), scenes(2, seed=1)
    records = judged(FID(small_network()), drawn, [samples[0], samples[0], samples[1], samples[1]])
    assert [sorted(x.arrays) for x in records] == [["features", "reference"], ["features"]] * 2
    network = small_network()
    np.testing.assert_array_equal(records[2].arrays["reference"], network.features([samples[1].image])[0])
    assert {x.dtype for record in records for x in record.arrays.values()} == {np.dtype("float32")}


def test_records_that_were_kept_on_disk_give_the_same_number(small_network, scenes):
    metric = FID(small_network())
    records = judged(metric, scenes(8), scenes(8, seed=1))
    assert metric.summarize(unpack(pack(records))) == metric.summarize(records)


@pytest.mark.parametrize("kind", [FID, KID])
def test_a_saved_set_gives_the_number_that_its_images_give(kind, small_network, scenes, saved):
    drawn, samples = scenes(40), scenes(40, seed=1)
    against_images, against_file = kind(small_network()), kind(small_network(), saved)
    expected = against_images.summarize(judged(against_images, drawn, samples))
    network = against_file.network
    records = judged(against_file, drawn, samples)
    assert network.seen == 40 and not any("reference" in x.arrays for x in records)
    assert against_file.summarize(records) == pytest.approx(expected, rel=1e-6)


def test_merged_sets_are_the_set_of_all_their_images(small_network, scenes, tmp_path):
    images = [x.image for x in scenes(30)]
    whole = Reference.of_images(small_network(), images)
    for keep in (True, False):
        parts = [Reference.of_images(small_network(), x, keep) for x in (images[:11], images[11:13], images[13:])]
        merged = Reference.merged(parts)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-9)
        np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-9)
        assert merged.n == 30 and (merged.features is not None) == keep


def test_a_saved_set_is_read_as_it_was_written(small_network, scenes, tmp_path):
    for keep in (True, False):
        reference = Reference.of_images(small_network(), (x.image for x in scenes(5)), keep)
        reference.save(tmp_path / "some.npz")
        read = Reference.load(tmp_path / "some.npz")
        assert (read.network, read.n) == (reference.network, 5)
        for name in ("mean", "covariance", "features"):
            np.testing.assert_array_equal(getattr(read, name), getattr(reference, name))
    assert [x.name for x in tmp_path.iterdir()] == ["some.npz"]


def test_a_set_of_another_network_is_refused_by_the_field_that_differs(small_network, scenes, saved):
    class Other(small_network):
        settings = {"network": "SmallNetwork", "resize": "mean 8"}

    with pytest.raises(CheckpointError, match="resize must be mean 8, got mean 4$"):
        check({"metric.fid": FID(Other(), saved)})
    metric = FID(small_network(seed=1), saved)
    check({"metric.fid": metric})  # weights are looked into when they are loaded
    with pytest.raises(CheckpointError, match="weights must be seed 1, got seed 0$"):
        metric.update([scenes(1)[0].image], scenes(1))
    with pytest.raises(CheckpointError, match="weights must be"):
        Reference.merged([Reference.load(saved), replace(Reference.load(saved), network={"weights": "x"})])


def test_moments_alone_do_for_fid_and_not_for_kid(small_network, scenes, tmp_path):
    path = tmp_path / "moments.npz"
    Reference.of_images(small_network(), (x.image for x in scenes(9)), keep_features=False).save(path)
    check({"metric.fid": FID(small_network(), str(path))})
    with pytest.raises(CheckpointError, match="keep_features=True"):
        check({"metric.kid": KID(small_network(), str(path))})


def test_a_missing_or_broken_set_is_named_before_work_begins(small_network, tmp_path):
    with pytest.raises(MissingWeights, match=r"no reference .*gone.npz; make it with"):
        check({"metric.fid": FID(small_network(), str(tmp_path / "gone.npz"))})
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="broken.npz is no reference"):
        check({"metric.fid": FID(small_network(), str(path))})
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="broken.npz is no reference"):
        check({"metric.fid": FID(small_network(), str(path))})


def test_a_set_of_one_image_is_none(small_network, scenes):
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        Reference.of_images(small_network(), [scenes(1)[0].image])
    with pytest.raises(ValueError, match="at least 2 images, got 0"):
        Reference.of_images(small_network(), [])


def test_the_description_says_which_set_was_compared_with(small_network, saved):
    known = describe(FID(small_network(), saved))
    assert known["settings"]["reference"] == saved and len(known["checkpoints"][0]["sha256"]) == 64
    assert known["settings"]["network"]["settings"] == {"seed": 0}
    assert "checkpoints" not in describe(FID(small_network()))


def test_an_image_of_the_dataset_that_cannot_be_read_is_told_of(small_network, scenes):
    drawn, samples = scenes(3), scenes(3, seed=1)
    samples[0] = Sample("gone")
    samples[1] = Sample("broken", EncodedImage(b"no image", "png"))
    records = judged(FID(small_network()), drawn, samples)
    assert [x.scored for x in records] == [0, 0, 1] and {x.expected for x in records} == {1}
    assert "cannot be read" in records[0].problems[0] and "not an image" in records[1].problems[0]
    assert all("features" in x.arrays for x in records)


def test_features_that_are_no_numbers_are_left_out_and_told_of(small_network, scenes):
    class Overflowing(small_network):
        def features(self, images):
            found = super().features(images)
            found[0] = math.inf
            return found

    records = judged(FID(Overflowing()), scenes(3), scenes(3, seed=1))
    assert [x.scored for x in records] == [0, 1, 1] and "no numbers for its features" in records[0].problems[0]
    assert sorted(records[0].arrays) == ["reference"]


def test_no_images_are_no_records(small_network):
    metric = FID(small_network())
    metric.update([], [])
    assert metric.records == []


def test_images_of_any_size_are_taken(small_network, scenes):
    drawn = [scenes(1, size=16)[0], scenes(1, seed=2, size=33)[0]]
    wide = [Sample.from_image("wide", torch.zeros(3, 1, 50, dtype=torch.uint8)), scenes(1, seed=1)[0]]
    assert all(x.scored for x in judged(FID(small_network()), drawn, wide))
