"""The two detectors, and near-duplicates of evaluation images."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector, leave_one_out
from scenewright.datasets.extrapolated.duplicates import NearDuplicates
from scenewright.datasets.extrapolated.records import Measured


def around(direction, n, seed, spread=0.1):
    noise = torch.randn(n, len(direction), generator=torch.Generator().manual_seed(seed))
    return normalize(torch.tensor(direction).float() + spread * noise, dim=1)


@pytest.mark.parametrize(
    ("n", "clusters"), [(1, 1), (2, 2), (40, 2), (124, 2), (126, 3), (500, 10), (1000, 20), (90_000, 20)]
)
def test_fifty_images_make_a_cluster_from_two_to_twenty(n, clusters):
    assert ClusterDetector().count(n) == clusters


def test_each_original_is_measured_against_the_mean_of_the_others():
    originals = around([1, 0, 0], 5, 0, 0.3)
    found = leave_one_out(originals)
    others = originals[1:].mean(0)
    assert found[0].item() == pytest.approx(1 - (originals[0] @ others / others.norm()).item(), abs=1e-5)
    assert len(leave_one_out(originals[:1])) == 0


def test_a_cluster_away_from_the_originals_is_farther_than_the_threshold_and_one_of_them_is_not():
    originals = around([1, 0, 0, 0], 20, 0)
    images = torch.cat([around([1, 0, 0, 0], 30, 1), around([0, 1, 0, 0], 20, 2)])
    detector = ClusterDetector()
    found = detector.cluster(images, originals, detector.threshold(leave_one_out(originals)))
    mean = originals.mean(0)
    for label in (0, 1):
        own = images[[i for i, x in enumerate(found.labels) if x == label]].mean(0)
        assert found.distances[label] == pytest.approx(1 - torch.cosine_similarity(own, mean, dim=0).item(), abs=1e-5)
    near, far = found.labels[0], found.labels[-1]
    assert found.labels == [near] * 30 + [far] * 20
    assert found.distances[near] < found.threshold < found.distances[far]
    assert detector.cluster(images, originals, 0.1).labels == found.labels


def test_many_images_are_clustered_in_mini_batches_to_the_same_end():
    images = torch.cat([around([1, 0, 0, 0], 30, 1), around([0, 1, 0, 0], 20, 2)])
    found = ClusterDetector(minibatch_from=10).cluster(images, images[:10], 0.1)
    assert found.labels == [found.labels[0]] * 30 + [found.labels[-1]] * 20 and len(set(found.labels)) == 2


def test_images_that_are_all_alike_are_one_cluster():
    found = ClusterDetector().cluster(torch.tensor([[1.0, 0.0]]).repeat(7, 1), torch.tensor([[1.0, 0.0]]), 0.1)
    assert found.labels == [0] * 7 and found.distances == pytest.approx([0.0], abs=1e-6)


def test_the_threshold_is_a_percentile_and_needs_two_originals_of_something():
    assert ClusterDetector(percentile=50).threshold(torch.tensor([0.1, 0.2, 0.6])) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no keyword has two originals"):
        ClusterDetector().threshold(torch.zeros(0))


def test_the_probe_tells_classes_apart_and_how_well_it_does():
    features = torch.cat([around([1, 0, 0], 12, 0), around([0, 1, 0], 12, 1)])
    probe = ClassAgreement().fit(features, ["a"] * 12 + ["b"] * 12)
    assert probe.accuracy == 1.0
    rows, classes = probe.probabilities(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert [classes[i] for i in rows.argmax(1)] == ["a", "b"]
    torch.testing.assert_close(rows.sum(1), torch.ones(2))
    assert probe.probabilities(features[:0])[0].shape == (0, 2)


def test_a_probe_of_random_features_is_known_to_guess():
    features = normalize(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert ClassAgreement().fit(features, ["a", "b"] * 100).accuracy < 0.65


def test_classes_of_one_original_have_no_accuracy():
    probe = ClassAgreement().fit(torch.eye(3), ["a", "b", "c"])
    assert probe.accuracy is None


def test_one_class_is_nothing_to_tell_apart():
    with pytest.raises(ValueError, match=r"at least two keywords, got \['a'\]; dataset.agreement=null"):
        ClassAgreement().fit(torch.eye(3), ["a"] * 3)


def measured(features, hashes, problems=None):
    n = len(hashes)
    keys = [f"test{i}" for i in range(n)]
    return Measured(keys, [""] * n, features, np.array(hashes, np.uint64), problems or [""] * n)


def test_images_like_an_evaluation_image_are_found_by_hash_or_by_feature():
    others = measured(torch.eye(3), [0, 2**60 - 1, 0xFF00], ["", "", "broken"])
    features = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    hashes = np.array([0b111, 2**40 - 1, 2**50 - 1, 0xFF00], np.uint64)
    found = NearDuplicates(distance=4, cosine=0.97).judge(features, hashes, others)
    assert found[0] == ("near-duplicate of evaluation image 'test0' (distance 3)", 3.0)
    assert found[1] == ("near-duplicate of evaluation image 'test0' (cosine 1.000)", 1.0)
    assert found[2] is None
    assert found[3] is None, "an evaluation image that cannot be read is like nothing"
    assert NearDuplicates(distance=4, cosine=None).judge(features, hashes, others)[1] is None
    assert NearDuplicates().judge(features, hashes, measured(torch.zeros(0, 3), [])) == [None] * 4


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="features have 2 values, those of evaluation images 3"):
        NearDuplicates().judge(torch.eye(2), np.zeros(2, np.uint64), measured(torch.eye(3), [1, 2, 3]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClusterDetector(least=3, most=2),
        lambda: ClusterDetector(percentile=101),
        lambda: ClassAgreement(min_probability=2),
        lambda: ClassAgreement(folds=1),
        lambda: NearDuplicates(distance=65),
        lambda: NearDuplicates(cosine=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
