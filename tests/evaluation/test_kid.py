"""KID: torch-fidelity's number, for any order, batch and number of processes."""

import math

import pytest
import torch

from scenewright.evaluation.kid import KID
from scenewright.evaluation.scoring import gathered


def judged(metric, drawn, samples):
    metric.update([x.image for x in drawn], samples)
    return metric.records


def test_it_is_what_torch_fidelity_says_of_two_sets(small_network, scenes, fidelity):
    drawn, samples = scenes(60, shift=30), scenes(60, seed=1)
    settings = {"kid_subsets": 10, "kid_subset_size": 20, "rng_seed": 5}
    expected = fidelity([x.image for x in drawn], [x.image for x in samples], kid=True, **settings)
    metric = KID(small_network(), subsets=10, subset_size=20, seed=5)
    numbers = metric.summarize(judged(metric, drawn, samples))
    assert numbers["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert numbers["std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3) and numbers["std"] > 0


def test_of_one_subset_it_is_the_unbiased_mmd(small_network, scenes):
    drawn, samples = scenes(12, shift=30), scenes(12, seed=1)
    metric = KID(small_network(), subsets=1)
    x, y = (small_network().features([s.image for s in some]).double() for some in (drawn, samples))

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    apart = ~torch.eye(12, dtype=torch.bool)
    expected = kernel(x, x)[apart].mean() + kernel(y, y)[apart].mean() - 2 * kernel(x, y).mean()
    assert metric.summarize(judged(metric, drawn, samples))["kid"] == pytest.approx(float(expected), rel=1e-6)


def test_it_is_about_nothing_for_sets_of_one_kind_and_more_for_others(small_network, scenes):
    samples, found = scenes(60, seed=1), []
    for drawn in (scenes(60), scenes(60, shift=25), scenes(60, shift=50)):
        metric = KID(small_network())
        found.append(metric.summarize(judged(metric, drawn, samples))["kid"])
    assert abs(found[0]) < 0.1 * found[1] and found == sorted(found) and not KID.higher_is_better


def test_neither_order_nor_processes_nor_the_last_bits_change_the_number(small_network, scenes):
    """Subsets are drawn by a seed, so the order of images must not come from that of the records."""

    class Noisy(small_network):
        def features(self, images):
            generator = torch.Generator().manual_seed(len(images))
            return super().features(images) + 1e-6 * torch.rand(len(images), 12, generator=generator)

    drawn, layouts = scenes(40, shift=30), [x for x in scenes(20, seed=1) for _ in range(2)]
    whole = KID(small_network(), subset_size=8)
    records = judged(whole, drawn, layouts)
    expected = whole.summarize(records)
    assert whole.summarize(records[::-1]) == expected
    first, second = KID(small_network(), subset_size=8), KID(Noisy(), subset_size=8)
    halves = judged(second, drawn[14:], layouts[14:]) + judged(first, drawn[:14], layouts[:14])
    assert whole.summarize(gathered(halves)) == pytest.approx(expected, rel=1e-4)
    other = KID(small_network(), subset_size=8, seed=1).summarize(records)
    assert other["kid"] != pytest.approx(expected["kid"], rel=1e-3)  # so it can be seen when subsets change


def test_fewer_than_two_images_have_no_distance_and_it_is_said(small_network, scenes, caplog):
    metric = KID(small_network())
    judged(metric, scenes(1), scenes(1, seed=1))
    assert all(math.isnan(x) for x in metric.compute().values())
    assert "at least 2 images, got 1 and 1" in caplog.text


def test_subsets_of_one_image_are_refused(small_network):
    with pytest.raises(ValueError, match="at least 2 images"):
        KID(small_network(), subset_size=1)
