"""Points that stand for a mask lie in it and on its border, and are those of the reference where it is right."""

import random as python_random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scenewright.layout_models.instance_diffusion.mask_points import in_fractions, polygon, resampled, scribble

MASKS = [
    "disc", "ring", "two_parts", "touching_border", "full", "blob", "line", "tiny", "pixel", "empty",
]  # fmt: skip


@pytest.fixture
def published(golden):
    about, tensors = golden("instance_diffusion/mask_points")
    config = about["config"]
    assert set(config["masks"]) == set(MASKS)

    def mask(name: str) -> np.ndarray:
        bits = np.unpackbits(tensors[f"mask_{name}"].numpy())
        return bits.reshape(config["height"], config["width"]).astype(bool)

    return config, {name: x.numpy() for name, x in tensors.items()}, mask


@pytest.mark.golden
@pytest.mark.parametrize("name", MASKS)
def test_points_are_those_of_the_reference(published, name):
    config, tensors, mask = published
    found = scribble(mask(name), np.random.RandomState(config["random_seed"]), config["scribble_points"])
    assert np.array_equal(found.ravel(), tensors[f"scribble_{name}"])
    seeded = python_random.Random(config["random_seed"])
    points = polygon(mask(name), seeded, config["polygon_points"], compat=True)
    assert config["masks"][name]["polygon"] == (f"polygon_{name}" in tensors)
    assert np.array_equal(points.ravel(), tensors.get(f"polygon_{name}", np.zeros(512)))


@pytest.mark.golden
@pytest.mark.parametrize("name", MASKS[:6])
def test_the_border_of_the_reference_is_one_pixel_off(published, name):
    _, _, mask = published
    ours, theirs = (polygon(mask(name), np.random.default_rng(0), compat=compat) for compat in (False, True))
    moved = {tuple(x) for x in theirs} - {tuple(x) for x in ours}
    assert moved, "some of the border is outside the mask"
    rows, columns = mask(name).nonzero()
    for points, offset in ((ours, 1), (theirs, 2)):  # the contour at level 0 runs through the pixels around a mask
        assert points[:, 0].max() == columns.max() + offset and points[:, 1].max() == rows.max() + offset


@pytest.mark.golden
@pytest.mark.parametrize("count", [7, 37])
def test_a_drawn_scribble_is_resampled_as_in_the_reference(published, count):
    _, tensors, _ = published
    assert np.array_equal(resampled(tensors[f"user_points_{count}"]), tensors[f"user_scribble_{count}"])


mask_arrays = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(mask_arrays, st.integers(0, 99))
@settings(max_examples=40)
def test_points_lie_in_the_mask_or_on_the_pixels_around_it(mask, seed):
    drawn, points = (f(mask, np.random.default_rng(seed)) for f in (scribble, polygon))
    assert drawn.shape == (20, 2) and points.shape == (256, 2)
    if not mask.any():
        assert not drawn.any() and not points.any()
        return
    columns, rows = drawn.astype(int).T
    assert mask[rows, columns].all()
    pixels = np.argwhere(mask)[:, ::-1]
    near = np.abs(points[:, None] - pixels[None]).max(2).min(1)
    assert near.max() <= 1 and (near == 0).sum() >= 128
    for found in (drawn, points):
        assert (np.diff(np.hypot(*found.T)) >= -1e-9).all(), "nearest to the corner first"


def test_a_seed_draws_the_same_again_and_another_does_not():
    mask = np.ones((30, 40), dtype=bool)
    first, again, other = (scribble(mask, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len({tuple(x) for x in first}) == 20, "without replacement"


def test_points_in_fractions_are_those_of_the_image():
    points = in_fractions(np.array([[64.0, 48.0], [128.0, 0.0]]), height=96, width=128)
    assert points.tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_scribble_without_points_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        resampled(np.zeros((0, 2)))
