"""Cut-outs come onto the canvas whole, in their own colours, one over the other as planned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.datasets.gen4gen.paster import Paster
from scenewright.datasets.gen4gen.records import Cutout, LayoutPlan

HEIGHT, WIDTH = 96, 128


def cutout(width=40, height=30, colour=None, alpha=None, seed=0, name="cat"):
    random = np.random.default_rng(seed)
    if alpha is None:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        alpha = np.clip((1.3 - np.hypot(x, y)) * 3, 0, 1)
    image = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    if colour is not None:
        image[:] = np.array(colour)[:, None, None]
    alpha = np.broadcast_to(np.asarray(alpha, np.float32), (height, width))
    return Cutout(torch.from_numpy(image), torch.from_numpy(alpha.copy()), name)


def plan(*boxes, **rest):
    """Boxes in pixels."""
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=torch.float32)
    return LayoutPlan(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / scale, **rest)


def composed(plan, cutouts, seed=0, **settings):
    return Paster(**settings).compose(plan, cutouts, HEIGHT, WIDTH, seed)


def test_a_cutout_at_its_own_size_keeps_every_value():
    one = cutout(40, 32)
    found = composed(plan([10, 20, 50, 52]), [one])
    opaque = one.alpha == 1
    assert opaque.sum() > 500
    assert torch.equal(found.image[:, 20:52, 10:50][:, opaque], one.image[:, opaque])
    assert torch.equal(found.alpha[20:52, 10:50], one.alpha) and torch.equal(found.pasted[0].alpha, found.alpha)
    assert found.pasted[0].corner == (10, 20) and found.pasted[0].size == (32, 40)
    assert not found.image[:, found.alpha == 0].any()


@pytest.mark.parametrize("box", [[10, 10, 50, 40], [10, 10, 35, 30], [4, 4, 124, 94]])
@pytest.mark.parametrize("angle", [0.0, 20.0])
def test_no_fringe_of_the_old_background_appears_at_any_size(box, angle):
    one = cutout(40, 30, colour=(200, 120, 40))
    hidden = one.alpha < 0.05
    hidden_image = one.image.clone()
    hidden_image[:, hidden] = torch.tensor([0, 255, 255], dtype=torch.uint8)[:, None]
    one = Cutout(hidden_image, (one.alpha * ~hidden), "cat")
    found = composed(plan(box), [one], rotate=angle, seed=3)
    seen = found.alpha > 0.1
    straight = found.image[:, seen] / found.alpha[seen]
    colour = torch.tensor([200.0, 120, 40])[:, None]
    assert ((straight - colour).abs() < 0.7 / found.alpha[seen] + 0.1).all()


def test_two_half_transparent_things_hide_three_quarters():
    half = cutout(40, 40, alpha=0.5)
    boxes = plan([10, 10, 50, 50], [30, 30, 70, 70])
    found = composed(boxes, [half, half])
    assert found.alpha[40, 40] == pytest.approx(0.75) and found.alpha[20, 20] == found.alpha[60, 60] == 0.5
    below = next(x for x in found.pasted if x.order == 0)
    assert below.visible[40, 40] == pytest.approx(0.25) and below.alpha[40, 40] == 0.5
    torch.testing.assert_close(sum(x.visible for x in found.pasted), found.alpha)


def test_compat_pastes_masks_through_themselves():
    discs = [cutout(61, 61), cutout(61, 61)]
    found = composed(plan([0, 0, 60, 60], [64, 30, 124, 90]), discs, compat=True)
    where = found.pasted[0]
    (left, top), (height, width) = where.corner, where.size
    straight = composed(plan([left, top, left + width, top + height]), discs[:1]).alpha
    soft = (straight > 0.3) & (straight < 0.7)
    assert soft.sum() > 20
    assert ((where.alpha - straight**2)[soft].abs() < 0.25).all() and (where.alpha < straight - 0.1)[soft].any()
    grey = torch.unique((found.alpha * 255).round())
    mine = cutout(61, 61, alpha=0.5)
    assert composed(plan([0, 0, 60, 60]), [mine], compat=True).alpha[30, 30] == pytest.approx((128 / 255) ** 2)
    assert len(grey) > 2


def test_compat_anchors_at_the_top_left_and_the_default_in_the_middle_of_the_box():
    tall = cutout(31, 61)
    assert composed(plan([20, 10, 100, 60]), [tall], compat=True).pasted[0].corner == (20, 10)
    assert composed(plan([20, 10, 100, 70]), [cutout(30, 60)]).pasted[0].corner == (45, 10)
    assert composed(plan([20, 10, 50, 90]), [cutout(30, 30)], anchor="bottom").pasted[0].corner == (20, 60)


@pytest.mark.parametrize(
    ("settings", "orders"),
    [({}, [1, 0, 2]), ({"order": "bottom"}, [0, 2, 1]), ({"compat": True}, [0, 2, 1])],
)
def test_the_larger_or_the_farther_is_below_and_in_compat_what_overlaps_most(settings, orders):
    square = cutout(41, 41)
    boxes = plan([40, 0, 82, 42], [60, 30, 124, 94], [40, 30, 80, 70])
    found = composed(boxes, [square] * 3, **settings)
    if settings.get("compat"):
        assert sorted(x.order for x in found.pasted) == [0, 1, 2]
        overlaps = [_overlap(x, found.pasted) for x in found.pasted]
        assert overlaps[[x.order for x in found.pasted].index(0)] == max(overlaps)
    else:
        assert [x.order for x in found.pasted] == orders


def _overlap(one, others):
    def iou(a, b):
        x = min(a.corner[0] + a.size[1], b.corner[0] + b.size[1]) - max(a.corner[0], b.corner[0])
        y = min(a.corner[1] + a.size[0], b.corner[1] + b.size[0]) - max(a.corner[1], b.corner[1])
        both = max(x, 0) * max(y, 0)
        return both / (a.size[0] * a.size[1] + b.size[0] * b.size[1] - both)

    return sum(iou(one, x) for x in others if x is not one)


def test_what_is_above_hides_what_is_below():
    red, blue = cutout(40, 40, (255, 0, 0), alpha=1.0), cutout(20, 20, (0, 0, 255), alpha=1.0)
    found = composed(plan([40, 40, 65, 65], [30, 30, 80, 80]), [blue, red])
    assert found.image[:, 50, 50].tolist() == [0, 0, 255] and found.image[:, 35, 35].tolist() == [255, 0, 0]
    assert [x.order for x in found.pasted] == [1, 0] and found.pasted[1].visible[50, 50] == 0


def test_what_was_done_to_each_thing_is_recorded_for_each_and_done_to_half_of_them():
    one = cutout(24, 16)
    boxes = plan(*([20, 20, 60, 60] for _ in range(6)))
    found = [composed(boxes, [one] * 6, seed, hflip=True, rotate=10.0, shift=True) for seed in range(20)]
    pasted = [x for scene in found for x in scene.pasted]
    for chosen in ([x.flipped for x in pasted], [x.angle != 0 for x in pasted]):
        assert 40 <= sum(chosen) <= 80  # of 120
    assert all(abs(x.angle) <= 10 for x in pasted) and len({x.angle for x in found[0].pasted}) > 1
    assert 0 < sum(x.shift != (0, 0) for x in pasted) < 80 and all(max(map(abs, x.shift)) <= 2 for x in pasted)
    plain = composed(boxes, [one] * 6, 0)
    assert all((x.flipped, x.angle, x.shift) == (False, 0.0, (0, 0)) for x in plain.pasted)


def test_a_flipped_thing_is_its_mirror_image_and_a_moved_one_lies_elsewhere():
    one = cutout(40, 32)
    boxes = plan([10, 20, 50, 52])
    flipped = next(x for x in (composed(boxes, [one], s, hflip=True) for s in range(20)) if x.pasted[0].flipped)
    assert torch.equal(flipped.alpha[20:52, 10:50], one.alpha.flip(1))
    opaque = (one.alpha == 1).flip(1)
    assert torch.equal(flipped.image[:, 20:52, 10:50][:, opaque], one.image.flip(2)[:, opaque])
    moved = next(x for x in (composed(boxes, [one], s, shift=True) for s in range(20)) if any(x.pasted[0].shift))
    x, y = moved.pasted[0].shift
    assert moved.pasted[0].corner == (10 + x, 20 + y)
    assert torch.equal(moved.alpha[20 + y : 52 + y, 10 + x : 50 + x], one.alpha)


def test_a_turned_thing_turns_counter_clockwise_and_stays_in_its_box():
    bar = cutout(60, 12, alpha=1.0)
    scenes = (composed(plan([30, 10, 100, 80]), [bar], s, rotate=40.0) for s in range(30))
    found = next(x for x in scenes if x.pasted[0].angle > 25)
    rows, columns = np.nonzero(found.alpha.numpy() > 0.5)
    assert 30 <= columns.min() and columns.max() < 100 and 10 <= rows.min() and rows.max() < 80
    assert np.corrcoef(rows, columns)[0, 1] < -0.8  # right end up


def test_compat_turns_and_flips_as_well():
    scenes = [
        composed(plan([10, 10, 80, 80]), [cutout(41, 41)], s, compat=True, rotate=5.0, hflip=True) for s in range(12)
    ]
    assert {x.pasted[0].flipped for x in scenes} == {True, False}
    assert any(x.pasted[0].angle for x in scenes) and all(x.pasted[0].angle == int(x.pasted[0].angle) for x in scenes)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(
    ("boxes", "cutouts", "reason"),
    [
        (LayoutPlan(None, error="no reply"), [cutout()], "no boxes: no reply"),
        (plan([10, 10, 20, 20]), [cutout(), cutout()], "one cut-out per box"),
        (plan(), [], "one cut-out per box"),
        (plan([10, 10, 10, 20]), [cutout()], "area"),
        (plan([10, 10, 20, 20]), [cutout(alpha=0.0)], r"cut-out 0 \(cat\) shows nothing"),
        (plan([10, 10, 20, 20]), [cutout(alpha=0.2)], "shows nothing"),
        (plan([10, 10, 20, 20]), [cutout(alpha=1.5)], "from 0 to 1"),
        (plan([10, 10, 20, 20], ratios=(0.0,)), [cutout()], "positive"),
    ],
)
def test_what_cannot_be_pasted_is_refused_with_a_reason(boxes, cutouts, reason, compat):
    with pytest.raises(ValueError, match=reason):
        composed(boxes, cutouts, compat=compat)


@pytest.mark.parametrize("settings", [{"anchor": "left"}, {"order": "size"}, {"rotate": -1.0}, {"rotate": 100.0}])
def test_settings_that_do_not_exist_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Paster(**settings)


scenes = st.lists(
    st.tuples(
        st.tuples(st.floats(-0.2, 0.95), st.floats(-0.2, 0.95), st.floats(0.05, 0.8), st.floats(0.05, 0.8)),
        st.tuples(st.integers(2, 90), st.integers(2, 90)),
    ),
    min_size=1,
    max_size=4,
)


@given(scenes, st.integers(0, 1000), st.booleans())
@settings(max_examples=40)
def test_nothing_is_cut_off_and_alphas_add_up(scene, seed, augmented):
    boxes = torch.tensor([(x, y, x + w, y + h) for (x, y, w, h), _ in scene], dtype=torch.float32)
    cutouts = [cutout(w, h, alpha=1.0, seed=i) for i, (_, (w, h)) in enumerate(scene)]
    changes = {"hflip": True, "rotate": 15.0, "shift": True} if augmented else {}
    found = composed(LayoutPlan(boxes), cutouts, seed, **changes)
    union = torch.ones(HEIGHT, WIDTH)
    for thing, (_, (w, h)) in zip(found.pasted, scene, strict=True):
        (left, top), (height, width) = thing.corner, thing.size
        assert left >= 0 and top >= 0 and left + width <= WIDTH and top + height <= HEIGHT
        outside = thing.alpha.clone()
        outside[top : top + height, left : left + width] = 0
        assert not outside.any() and (thing.visible <= thing.alpha).all()
        if not thing.angle:
            assert thing.alpha.sum() == pytest.approx(height * width)  # the whole of it is there
            assert abs(height - width * h / w if w >= h else width - height * w / h) < 1
        union *= 1 - thing.alpha
    torch.testing.assert_close(found.alpha, 1 - union, rtol=0, atol=1e-5)
    torch.testing.assert_close(sum(x.visible for x in found.pasted), found.alpha, rtol=0, atol=1e-5)
    again = composed(LayoutPlan(boxes), cutouts, seed, **changes)
    assert torch.equal(found.image, again.image) and torch.equal(found.alpha, again.alpha)
