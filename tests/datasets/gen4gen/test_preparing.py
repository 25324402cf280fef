"""What repainting starts from: masks, backgrounds, first composites, prompts; and how it is judged."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenewright.datasets.gen4gen.records import Composition, RepaintJob
from scenewright.datasets.gen4gen.repainter.preparing import (
    background_of,
    cover_crop,
    noise,
    pasted_back,
    precomposite,
    precomposite_compat,
    psnr_inside,
    repaint_mask,
    repaint_prompt,
    soft_mask,
    squash,
)


def half(height=64, width=256, edge=128):
    alpha = torch.zeros(height, width)
    alpha[:, :edge] = 1
    image = torch.full((3, height, width), 100, dtype=torch.uint8) * alpha.byte()
    return Composition(image, alpha, [])


def test_what_is_kept_ends_three_pixels_within_the_edge_after_a_blur_of_five():
    paint = repaint_mask(half().alpha, 5)[32] / 255 >= 0.5
    assert not paint[:125].any() and paint[125:].all()


def test_a_soft_mask_is_sure_inside_nothing_outside_and_falls_steadily():
    row = soft_mask(half().alpha, 5)[32]
    assert (row[:120] == 255).all() and (row[129:] == 0).all() and (np.diff(row.astype(int)) <= 0).all()
    assert len(np.unique(row)) > 4
    assert np.array_equal(repaint_mask(half().alpha, 5), 255 - soft_mask(half().alpha, 5))


@given(st.integers(1, 80), st.integers(1, 80))
def test_a_background_covers_the_canvas_and_keeps_its_proportions(height, width):
    y, x = np.mgrid[0:60, 0:90]
    photo = torch.from_numpy(np.stack([2 * x, 3 * y, 0 * x]).astype(np.uint8))
    found = cover_crop(photo, height, width).float()
    assert found.shape == (3, height, width)
    if min(height, width) > 20:  # red and green grow as fast as in the photo
        scale = max(height / 60, width / 90)
        middle = found[:, height // 4 : -height // 4, width // 4 : -width // 4]
        assert middle[0].diff(dim=1).mean() == pytest.approx(2 / scale, rel=0.1)
        assert middle[1].diff(dim=0).mean() == pytest.approx(3 / scale, rel=0.1)


def test_compat_squashes_the_background_and_the_default_cuts_off_what_is_too_much():
    photo = torch.zeros(3, 32, 64, dtype=torch.uint8)
    photo[:, :, :16] = 200
    assert squash(photo, 32, 32)[0, 16].gt(100).sum() == 8
    job = RepaintJob(half(32, 32, 8), photo, "")
    squashed, cut = (background_of(job, 1.0, compat=x)[0, 16] > 100 for x in (True, False))
    assert squashed.sum() == 8 and not cut.any()


def test_the_background_is_blurred_a_little():
    photo = torch.zeros(3, 32, 32, dtype=torch.uint8)
    photo[:, :, 16:] = 200
    job = RepaintJob(half(32, 32, 8), photo, "")
    assert len(background_of(job, 1.0)[0, 16].unique()) > 4 and len(background_of(job, 0.0)[0, 16].unique()) == 2


def test_without_a_photo_the_background_is_noise_from_the_jobs_seed():
    job = RepaintJob(half(), None, "", seed=5)
    found = background_of(job)
    assert torch.equal(found, noise(64, 256, 5)) and not torch.equal(found, noise(64, 256, 6))
    assert found.min() == 0 and found.max() == 254 and abs(found.float().mean() - 127) < 2


def test_things_lie_over_the_background_with_their_alpha():
    alpha = torch.tensor([[0.0, 0.5, 1.0]])
    image = torch.tensor([[[0, 50, 100]]] * 3, dtype=torch.uint8)
    background = torch.full((3, 1, 3), 200, dtype=torch.uint8)
    assert precomposite(Composition(image, alpha, []), background)[0].tolist() == [[200, 150, 100]]


def test_compat_takes_the_larger_value_so_that_bright_backgrounds_shine_through_dark_things():
    composition = half(8, 64, 32)
    background = torch.full((3, 8, 64), 200, dtype=torch.uint8)
    mask = repaint_mask(composition.alpha, 5)
    found = precomposite_compat(composition, background, mask)[0, 4]
    assert found[:20].eq(100).all() and found[40:].eq(200).all() and found[28:32].gt(100).any()
    assert precomposite(composition, background)[0, 4, :32].eq(100).all()


def test_prompts_name_the_objects_but_not_in_compat():
    assert repaint_prompt("one cat", "in a garden") == "a realistic photo of one cat in a garden"
    assert repaint_prompt("one cat", "in a garden", compat=True) == "a realistic photo of in a garden"
    assert repaint_prompt("one cat", "") == "a realistic photo of one cat"


def test_the_noise_inside_of_things_is_measured_in_decibels():
    composition = half()
    assert psnr_inside(composition, composition.image) == math.inf
    changed = composition.image.clone()
    changed[:, :, 116:] = 255  # the outside, and the margin of 12 pixels
    assert psnr_inside(composition, changed) == math.inf
    assert psnr_inside(composition, composition.image + 10) == pytest.approx(20 * math.log10(25.5))
    assert psnr_inside(composition, changed, margin=4) < 40
    assert math.isnan(psnr_inside(half(edge=8), changed))


def test_things_come_back_whole_within_the_feather_and_softly_at_their_edge():
    composition = half()
    painted = torch.full((3, 64, 256), 20, dtype=torch.uint8)
    found = pasted_back(composition, painted, 6.0)[0, 32].int()
    assert found[:122].eq(100).all() and found[128:].eq(20).all()
    assert (found.diff() <= 0).all() and len(found[122:128].unique()) >= 5
    hard = pasted_back(composition, painted, 0.0)[0, 32]
    assert hard[:128].eq(100).all() and hard[128:].eq(20).all()
