"""Things stand before a photo without fringes, in its light as far as that is wanted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewright.datasets.gen4gen.paster import Paster
from scenewright.datasets.gen4gen.records import Cutout, LayoutPlan, RepaintJob
from scenewright.datasets.gen4gen.repainter.blend import Blend
from scenewright.datasets.gen4gen.repainter.preparing import background_of, precomposite, psnr_inside


def blended(job, **settings):
    return Blend(**{"shadow": 0.0, "background_blur": 0.0, **settings}).repaint([job])[0]


def flat_job(thing, ground, boxes=((0.2, 0.2, 0.8, 0.8),), side=96):
    """Discs of one grey before a ground of another."""
    y, x = np.mgrid[-1:1:80j, -1:1:80j]
    alpha = torch.from_numpy(np.clip((1 - np.hypot(x, y)) * 8, 0, 1).astype(np.float32))
    disc = Cutout(torch.full((3, 80, 80), thing, dtype=torch.uint8), alpha, "disc")
    composition = Paster().compose(LayoutPlan(torch.tensor(boxes)), [disc] * len(boxes), side, side, 0)
    return RepaintJob(composition, torch.full((3, 50, 70), ground, dtype=torch.uint8), "")


@pytest.mark.parametrize("mode", ["alpha", "poisson"])
def test_colours_stay_untouched_without_harmonising(mode, job):
    one = job(1)
    found = blended(one, mode=mode, harmonise=0.0)
    assert torch.equal(found, precomposite(one.composition, background_of(one, 0.0)))
    assert psnr_inside(one.composition, found, 4) == float("inf")
    outside = one.composition.alpha == 0
    assert torch.equal(found[:, outside], background_of(one, 0.0)[:, outside])


@pytest.mark.parametrize("mode", ["alpha", "poisson"])
@pytest.mark.parametrize(("thing", "ground"), [(60, 200), (200, 60), (0, 255), (255, 0)])
def test_no_pixel_at_an_edge_is_darker_or_brighter_than_what_meets_there(mode, thing, ground):
    one = flat_job(thing, ground)
    found = blended(one, mode=mode, harmonise=0.5)[0].int()
    inside = found[one.composition.alpha > 0.9]
    edge = found[(one.composition.alpha > 0) & (one.composition.alpha < 1)]
    low, high = min(int(inside.min()), ground), max(int(inside.max()), ground)
    assert len(edge) > 100 and edge.min() >= low - 2 and edge.max() <= high + 2
    across = found[48, 48:].diff()
    assert (across >= -2).all() or (across <= 2).all()  # steadily from the one to the other


@pytest.mark.parametrize("mode", ["alpha", "poisson"])
def test_things_become_as_bright_as_their_surroundings_as_far_as_is_wanted(mode):
    one = flat_job(60, 200)
    centres = [int(blended(one, mode=mode, harmonise=x)[0, 48, 48]) for x in (0.0, 0.3, 1.0)]
    assert centres[0] == 60 and 70 < centres[1] < 130 and centres[2] > 170


def test_each_thing_follows_the_light_on_its_own_side():
    one = flat_job(120, 0, boxes=((0.05, 0.3, 0.45, 0.7), (0.55, 0.3, 0.95, 0.7)))
    photo = torch.full((3, 96, 96), 40, dtype=torch.uint8)
    photo[:, :, 48:] = 220
    found = blended(replace(one, background=photo), harmonise=0.5)[0]
    assert found[48, 24] < 115 and found[48, 72] > 130


def test_a_thing_before_a_tinted_photo_takes_on_some_of_its_tint_only():
    one = flat_job(128, 0)
    photo = torch.full((3, 50, 50), 128, dtype=torch.uint8)
    photo[2] = 60  # yellow
    found = blended(replace(one, background=photo), harmonise=0.5)[:, 48, 48].int()
    assert 5 < found[0] - found[2] < 50


def test_a_shadow_falls_below_a_thing_on_the_photo_alone():
    one = flat_job(120, 200)
    plain, shaded = (blended(one, harmonise=0.0, shadow=x).int()[0] for x in (0.0, 0.4))
    opaque = one.composition.alpha == 1
    assert torch.equal(plain[opaque], shaded[opaque])
    darker = plain - shaded
    rows = torch.nonzero(darker.sum(1) > 20)[:, 0]
    assert rows.min() > 60 and rows.max() > 78  # the disc ends at row 77
    below = darker[77:, 20:76]
    assert 10 < below.max() <= 0.4 * 200 + 1 and (darker >= 0).all()
    assert below[:, 28].max() > below[:, 2].max()  # darkest under the middle


@pytest.mark.parametrize("box", [(0.0, 0.5, 0.5, 1.0), (0.6, 0.0, 1.0, 0.4), (0.0, 0.0, 1.0, 1.0)])
@pytest.mark.parametrize("mode", ["alpha", "poisson"])
def test_things_at_the_canvases_sides_are_no_trouble(box, mode):
    one = flat_job(120, 200, boxes=(box,))
    found = Blend(mode=mode).repaint([one])[0]
    assert found.shape == (3, 96, 96) and 110 < float(found[:, one.composition.alpha == 1].float().mean()) < 180


@pytest.mark.parametrize("mode", ["alpha", "poisson"])
def test_a_thing_that_is_hidden_changes_nothing(mode):
    one = flat_job(100, 180, boxes=((0.4, 0.4, 0.6, 0.6), (0.1, 0.1, 0.9, 0.9)))
    small, large = one.composition.pasted
    gone = replace(small, visible=torch.zeros_like(small.visible))
    with_it, without = (
        blended(replace(one, composition=replace(one.composition, pasted=x)), mode=mode)
        for x in ([gone, large], [large])
    )
    assert torch.equal(with_it, without) and not torch.equal(with_it, blended(one, mode=mode, harmonise=0.0))


def test_each_job_is_blended_alone_and_without_a_photo_over_noise(job):
    jobs = [job(1), job(2, background=False), job(3, height=40, width=72)]
    together = Blend().repaint(jobs)
    assert all(torch.equal(x, Blend().repaint([y])[0]) for x, y in zip(together, jobs, strict=True))
    assert [tuple(x.shape) for x in together] == [(3, 64, 64), (3, 64, 64), (3, 40, 72)]
    outside = jobs[1].composition.alpha == 0
    assert together[1][:, outside].float().std() > 20 and Blend().repaint([]) == []


@pytest.mark.parametrize("settings", [{"mode": "add"}, {"harmonise": 1.5}, {"shadow": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Blend(**settings)
