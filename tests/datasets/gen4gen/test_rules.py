"""Layouts by rules: always there, always sound, and sensible."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from scenewright.datasets.gen4gen.backgrounds import PHRASES
from scenewright.datasets.gen4gen.planner.rules import GROUNDS, RulesPlanner
from scenewright.datasets.gen4gen.planner.sizes import MEDIUM, metres
from scenewright.datasets.gen4gen.records import LayoutRequest

THINGS = st.tuples(
    st.sampled_from(["cat", "dog", "elephant", "apple", "house plant", "car", "gizmo"]), st.floats(0.2, 5)
)


CANVASES = st.sampled_from([(1024, 1024), (1024, 768), (768, 1344), (512, 2048)])


def request(*names, aspects=None, seed=0, height=1024, width=1024, **more):
    return LayoutRequest(names, tuple(aspects or [1.0] * len(names)), height, width, seed=seed, **more)


@settings(max_examples=60)
@given(st.lists(THINGS, min_size=1, max_size=8), CANVASES, st.integers(0, 2**40), st.sampled_from([0.0, 0.1, 0.3]))
def test_every_layout_is_sound(things, size, seed, max_overlap):
    names, aspects = zip(*things, strict=True)
    one = LayoutRequest(names, aspects, *size, seed=seed)
    plan = RulesPlanner(max_overlap).plan([one])[0]
    assert not plan.error and plan.boxes.shape == (len(one.names), 4)
    assert plan.boxes.min() >= 0 and plan.boxes.max() <= 1
    sides = (plan.boxes[:, 2:] - plan.boxes[:, :2]) * torch.tensor([one.width, one.height])
    assert (sides > 1).all()
    aspects = torch.tensor(one.aspects)
    assert ((sides[:, 0] - sides[:, 1] * aspects).abs() < 1).all()
    longer = sides.max(1).values
    assert longer.min() >= 0.4 * longer.max() * (1 - 1e-4)
    overlaps = box_iou(plan.boxes, plan.boxes).fill_diagonal_(0)
    assert overlaps.max() <= max_overlap
    assert torch.equal(plan.boxes, RulesPlanner(max_overlap).plan([one])[0].boxes)


def test_a_plan_depends_on_its_own_request_alone():
    asked = [request("cat", "dog", "vase", seed=i) for i in range(4)]
    planner = RulesPlanner()
    together, alone = planner.plan(asked), [planner.plan([x])[0] for x in asked]
    assert all(
        torch.equal(a.boxes, b.boxes) and a.background == b.background for a, b in zip(together, alone, strict=True)
    )
    assert len({tuple(x.boxes.flatten().tolist()) for x in together}) == 4
    assert planner.plan([]) == []


def test_what_is_large_is_larger_in_the_picture_too():
    planner = RulesPlanner()
    plans = [planner.plan([request("cat", "elephant", "apple", seed=i)])[0] for i in range(20)]
    cat, elephant, apple = torch.stack([x.boxes[:, 2] - x.boxes[:, 0] for x in plans]).mean(0).tolist()
    assert elephant > 1.5 * cat and cat > apple


def test_things_stand_on_the_ground_and_not_behind_each_other():
    planner = RulesPlanner()
    for seed in range(20):
        boxes = planner.plan([request("cat", "dog", "chair", "vase", "person", seed=seed)])[0].boxes
        assert (boxes[:, 3] > 0.6).all() and (boxes[:, 3] < 1).all()
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        shared = (
            torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2])
        ).clamp(0)
        hidden = shared.prod(-1) / torch.minimum(areas[:, None], areas)
        assert hidden.fill_diagonal_(0).max() < 0.31
        assert 0.1 < areas.sum() < 0.6


def test_far_things_are_smaller():
    far, near = [], []
    for seed in range(60):
        boxes = RulesPlanner().plan([request(*["cat"] * 6, seed=seed)])[0].boxes
        order = boxes[:, 3].argsort()
        widths = boxes[:, 2] - boxes[:, 0]
        far.append(widths[order[0]])
        near.append(widths[order[-1]])
    assert torch.stack(far).mean() < 0.95 * torch.stack(near).mean()


def test_the_background_is_one_of_the_given_or_one_with_a_ground():
    planner = RulesPlanner()
    given_ = {
        planner.plan([request("cat", seed=i, backgrounds=("in a box", "on a hill"))])[0].background for i in range(20)
    }
    assert given_ == {"in a box", "on a hill"}
    own = {planner.plan([request("cat", seed=i)])[0].background for i in range(40)}
    assert len(own) > 5 and own <= {PHRASES[x] for x in GROUNDS}


def test_no_sizes_are_handed_on_since_the_boxes_have_them():
    plan = RulesPlanner().plan([request("cat", "elephant")])[0]
    assert plan.ratios == () and plan.log[0]["metres"] == [0.5, 5.5]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *[("cat", 0.5), ("Cats", 0.5), ("persian cat", 0.5), ("golden retriever dog", 0.8), ("house plant", 0.6)],
        *[
            ("houseplants", 0.6),
            ("hot dog", 0.17),
            ("teddy bear", 0.35),
            ("cat statue", 1.8),
            ("dog shaped thing", 0.8),
        ],
        *[("gizmo", MEDIUM), ("", MEDIUM), ("猫", MEDIUM)],
    ],
)
def test_names_have_usual_sizes(name, size):
    assert metres(name) == size


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_overlap": 1.5}, r"max_overlap must be in \[0, 1\], got 1.5"),
        ({"fill": [0.5, 0.2]}, r"fill must be a range in \(0, 1\].*got \[0.5, 0.2\]"),
        ({"fill": [0.5]}, "fill must be a range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        RulesPlanner(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"names": (), "aspects": ()}, "needs an aspect"),
        ({"aspects": (1.0,)}, "needs an aspect"),
        ({"aspects": (1.0, 0.0)}, "aspects must be positive"),
        ({"aspects": (1.0, float("nan"))}, "aspects must be positive"),
        ({"height": 0}, "needs pixels"),
        ({"seed": -1}, "seed that is not negative"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        LayoutRequest(**{"names": ("cat", "dog"), "aspects": (1.0, 1.0), "height": 8, "width": 8, **options})
