"""Boxes are taken only if they are of what was asked for, and where they can be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from scenewright.datasets.gen4gen.planner.validation import Limits, check

LEFT, RIGHT, TOP = (0, 256, 256, 256), (256, 256, 256, 256), (128, 0, 256, 250)


def fractions(*boxes):
    return torch.tensor([[x / 512, y / 512, (x + w) / 512, (y + h) / 512] for x, y, w, h in boxes])


def test_boxes_come_in_the_order_of_the_request_whatever_the_answers():
    for names, expected in [(["dog", "cat"], (RIGHT, LEFT)), (["cat", "dog"], (LEFT, RIGHT))]:
        for said in ([("cat", LEFT), ("dog", RIGHT)], [("dog", RIGHT), ("cat", LEFT)]):
            assert torch.equal(check(said, names), fractions(*expected))


def test_names_are_matched_however_they_are_spelt():
    said = [("Cats", TOP), ("The house-plant", LEFT), ("one dog 1", RIGHT)]
    assert torch.equal(check(said, ["dog", "house plant", "cat"]), fractions(RIGHT, LEFT, TOP))


def test_things_of_one_name_take_their_boxes_in_turn():
    said = [("cat 1", LEFT), ("dog", TOP), ("cat 2", RIGHT)]
    assert torch.equal(check(said, ["cat", "cat", "dog"]), fractions(LEFT, RIGHT, TOP))


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ([], "none"),
        ([("cat", LEFT)], "1 x 'cat'"),
        ([("cat", LEFT), ("cat", RIGHT)], "2 x 'cat'"),
        ([("cat", LEFT), ("dog", RIGHT), ("cow", TOP)], "1 x 'cat', 1 x 'cow', 1 x 'dog'"),
        ([("cat", LEFT), ("cow", RIGHT)], "1 x 'cat', 1 x 'cow'"),
        ([("gato", LEFT), ("perro", RIGHT)], "1 x 'gato', 1 x 'perro'"),
    ],
)
def test_other_things_than_were_asked_for_are_refused(said, got):
    with pytest.raises(ValueError, match=f"exactly these boxes: 1 x 'cat', 1 x 'dog'; got {got}$"):
        check(said, ["dog", "cat"])


def test_names_that_are_all_unknown_stand_for_the_prompts_order_if_that_is_allowed():
    said = [("gato", LEFT), ("perro", RIGHT)]  # the prompt says "one cat and one dog"
    assert torch.equal(check(said, ["dog", "cat"], by_order=True), fractions(RIGHT, LEFT))
    for wrong in ([("cat", LEFT), ("perro", RIGHT)], [*said, ("vaca", TOP)], said[:1]):
        with pytest.raises(ValueError, match="exactly these boxes"):
            check(wrong, ["dog", "cat"], by_order=True)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((-1, 0, 100, 100), "'dog' begins outside the canvas, at x = -1, y = 0"),
        ((0, -20, 100, 100), "'dog' begins outside the canvas, at x = 0, y = -20"),
        ((413, 0, 100, 100), r"'dog' goes beyond the canvas: x \+ width = 513, .* above 512"),
        ((0, 400, 100, 125), r"'dog' goes beyond the canvas: .* y \+ height = 525"),
        ((0, 0, 31, 100), "'dog' is 31 x 100, but its sides must be at least 32"),
        ((0, 0, 100, 0), "'dog' is 100 x 0, but"),
        ((0, 0, 100, -5), "'dog' is 100 x -5, but"),
        ((0, 0, 320, 33), "'dog' .* is too long"),
        ((0, 0, 33, 320), "'dog' .* is too tall"),
        ((0, 0, 500, 500), "'dog' covers 95.4% of the canvas, but 0.4% to 90% are allowed"),
        ((20, 256, 256, 256), r"'cat' and 'dog' overlap \(intersection over union 0.86, at most 0.1"),
    ],
)
def test_a_box_that_cannot_be_used_is_named_with_what_is_wrong(box, reason):
    with pytest.raises(ValueError, match=reason):
        check([("dog", box), ("cat", LEFT)], ["cat", "dog"])


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match="'cat' goes beyond.*; the box of 'dog' goes beyond.*; the boxes .* overlap"):
        check([("dog", (300, 0, 300, 300)), ("cat", (290, 0, 300, 300))], ["cat", "dog"])
    with pytest.raises(ValueError, match="; and 39 more$"):
        check([("cat", (-10, 0, 100, 100))] * 9, ["cat"] * 9)


def test_limits_can_be_set():
    said = [("cat", LEFT), ("dog", (192, 256, 256, 256))]  # a quarter of each: 1/7
    with pytest.raises(ValueError, match="overlap"):
        check(said, ["cat", "dog"])
    assert len(check(said, ["cat", "dog"], limits=Limits(max_overlap=0.15))) == 2
    with pytest.raises(ValueError, match="at least 300"):
        check(said[:1], ["cat"], limits=Limits(min_side=300.0))


def test_how_long_a_box_is_depends_on_the_canvas():
    flat = [("train", (0, 200, 512, 80))]  # 6.4 : 1 on a square
    assert len(check(flat, ["train"], (1024, 1024))) == 1
    with pytest.raises(ValueError, match="too long"):
        check(flat, ["train"], (512, 1024))


numbers = st.integers(-40, 560) | st.floats(-40, 560)


@given(st.lists(st.tuples(st.sampled_from(["cat", "dog", "cow"]), st.tuples(*[numbers] * 4)), min_size=1, max_size=3))
def test_what_is_taken_keeps_to_all_limits(said):
    names = [name for name, _ in said]
    try:
        boxes = check(said, names)
    except ValueError as refusal:
        assert str(refusal)
        return
    assert boxes.shape == (len(names), 4) and boxes.min() >= 0 and boxes.max() <= 1
    assert ((boxes[:, 2:] - boxes[:, :2]) * 512 >= 32 - 1e-3).all()
    overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
    assert (overlaps <= 0.1 + 1e-5).all()
