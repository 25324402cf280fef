"""Things are as large as a plan says, none too small, and all of each is on the canvas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.datasets.gen4gen.sizing import (
    by_ratios,
    clip,
    clip_compat,
    fit,
    growth,
    least_area,
    place,
    place_compat,
    scaled,
)

HEIGHT, WIDTH = 768, 1024
coordinates = st.tuples(
    st.floats(-0.3, 1.0), st.floats(-0.3, 1.0), st.floats(0.01, 1.4), st.floats(0.01, 1.4)
)  # corner and sides as fractions
sizes = st.tuples(st.integers(1, 900), st.integers(1, 900))
scenes = st.lists(st.tuples(coordinates, sizes, st.floats(0.1, 1.0)), min_size=1, max_size=6)


def boxes_of(scene):
    found = np.array([x for x, _, _ in scene]) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    found[:, 2:] += found[:, :2]
    return found


@pytest.mark.parametrize(
    ("low", "high", "moved"),
    [
        (-40, 300, (0, 340)),
        (-40, 30, (0, 70)),
        (900, 1100, (824, 1024)),
        (-100, 1200, (0, 1024)),
        (10, 1024, (10, 1024)),
    ],
)
def test_a_box_beyond_either_side_is_moved_and_shrinks_only_if_it_is_larger_than_the_canvas(low, high, moved):
    box = np.array([[low, 5, high, 9]], float)
    assert clip(box, 1024, 1024).tolist() == [[moved[0], 5, moved[1], 9]]
    assert clip(box[:, [1, 0, 3, 2]], 1024, 1024).tolist() == [[5, moved[0], 9, moved[1]]]


@pytest.mark.parametrize(
    ("low", "high", "clipped"),
    [
        (-40, 300, (0, 260)),
        (-40, 30, (0, -10)),
        (900, 1100, (823, 1023)),
        (-100, 1200, (0, 1023)),
        (10, 1024, (9, 1023)),
    ],
)
def test_compat_clips_as_the_reference_does(low, high, clipped):
    assert clip_compat(low, high, 1024) == clipped


def test_compat_gives_the_worked_example_of_the_reference():
    boxes = np.array([[20, 40, 420, 640], [600, 200, 800, 400]], float)
    dog, cat = place_compat(boxes, [(99, 299), (199, 99)], 1024, 1024)
    assert (dog.left, dog.top, dog.left + dog.width, dog.top + dog.height) == (20, 40, 158, 458)
    assert (cat.left, cat.top, cat.left + cat.width, cat.top + cat.height) == (600, 200, 808, 302)


def test_compat_multiplies_sides_by_a_ratio_of_areas_and_the_default_by_its_root():
    boxes = np.array([[50, 50, 170, 170], [300, 300, 700, 700]], float)
    assert growth(boxes, 1024, 1024) == pytest.approx((1024 / 5) / 120)
    places = place(boxes, [(1, 1), (1, 1)], 1024, 1024)
    assert [x.width for x in places] == [204, 682]
    squares = place_compat(boxes, [(100, 100), (100, 100)], 1024, 1024)
    assert [(x.width, x.height) for x in squares] == [(348, 348), (1023, 1023)]


def test_compat_gives_all_things_the_largest_ones_aspect_and_the_default_each_its_own():
    boxes = np.array([[0, 0, 400, 600], [500, 500, 700, 600]], float)
    wide, tall = place(boxes, [(2, 1), (1, 4)], 1024, 1024, ratios=(1.0, 0.5))
    longer = [max(x.width, x.height) for x in (wide, tall)]
    assert longer[1] / longer[0] == pytest.approx(0.5, abs=0.01)
    assert wide.width / wide.height == pytest.approx(2, abs=0.02) and tall.height / tall.width == pytest.approx(
        4, abs=0.1
    )
    same = place_compat(boxes, [(200, 300), (200, 300)], 1024, 1024, ratios=(1.0, 0.8))
    assert [(x.width, x.height) for x in same] == [(266, 400), (212, 320)]


@pytest.mark.parametrize(("count", "share"), [(1, 5), (3, 5), (4, 6), (5, 8), (9, 8)])
def test_the_least_area_depends_on_the_number_of_things(count, share):
    assert least_area(count, 512, 1024) == pytest.approx(512 * 1024 / share**2)


def test_all_boxes_stop_growing_when_the_largest_fills_the_canvas():
    boxes = np.array([[0, 0, 900, 600], [0, 0, 20, 20]], float)
    assert growth(boxes, HEIGHT, WIDTH) == pytest.approx(1024 / 900)


@pytest.mark.parametrize(
    ("anchor", "place_of_it"), [("center", (100, 150, 200, 100)), ("bottom", (100, 200, 200, 100))]
)
def test_a_picture_lies_in_the_middle_or_on_the_floor_of_its_box(anchor, place_of_it):
    assert fit(np.array([100.0, 100, 300, 300]), (2, 1), 512, 512, anchor) == place_of_it
    assert fit(np.array([100.0, 100, 300, 300]), (1, 2), 512, 512, anchor) == (150, 100, 100, 200)


def test_growing_keeps_the_middle_or_the_floor():
    box = np.array([[10.0, 10, 20, 20]])
    assert scaled(box, 2).tolist() == [[5, 5, 25, 25]]
    assert scaled(box, 2, "bottom").tolist() == [[5, 0, 25, 20]]


@given(scenes, st.sampled_from(["center", "bottom"]), st.booleans())
def test_pictures_are_inside_the_canvas_and_keep_their_aspects(scene, anchor, with_ratios):
    shapes = [x for _, x, _ in scene]
    ratios = [x for _, _, x in scene] if with_ratios else ()
    for where, (w, h) in zip(place(boxes_of(scene), shapes, HEIGHT, WIDTH, ratios, anchor), shapes, strict=True):
        assert where.left >= 0 and where.top >= 0 and where.width >= 1 and where.height >= 1
        assert where.left + where.width <= WIDTH and where.top + where.height <= HEIGHT
        off = where.height - where.width * h / w if w >= h else where.width - where.height * w / h
        assert abs(off) < 1


@given(scenes)
def test_pictures_fill_the_box_that_they_were_grown_to(scene):
    boxes = clip(boxes_of(scene), HEIGHT, WIDTH)
    grown = clip(scaled(boxes, growth(boxes, HEIGHT, WIDTH)), HEIGHT, WIDTH)
    for box, where in zip(grown, place(boxes_of(scene), [x for _, x, _ in scene], HEIGHT, WIDTH), strict=True):
        room = box[2:] - box[:2]
        assert where.width <= room[0] + 1 and where.height <= room[1] + 1
        assert min(room[0] - where.width, room[1] - where.height) < 2


@given(scenes)
def test_the_smallest_box_has_the_least_area_unless_another_fills_the_canvas(scene):
    boxes = clip(boxes_of(scene), HEIGHT, WIDTH)
    sides = (lambda x: x[:, 2:] - x[:, :2])(scaled(boxes, growth(boxes, HEIGHT, WIDTH)))
    least = least_area(len(scene), HEIGHT, WIDTH)
    filled = np.isclose(sides, (WIDTH, HEIGHT)).any()
    assert filled or sides.prod(1).min() >= least * (1 - 1e-9)
    if growth(boxes, HEIGHT, WIDTH) > 1 and not filled:
        assert sides.prod(1).min() == pytest.approx(least)


@given(scenes)
@settings(max_examples=50)
def test_longer_sides_are_to_each_other_as_the_ratios(scene):
    ratios = [x for _, _, x in scene]
    boxes = by_ratios(boxes_of(scene), [x for _, x, _ in scene], ratios, HEIGHT, WIDTH)
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    np.testing.assert_allclose(longer / longer.max(), np.array(ratios) / max(ratios), rtol=1e-9)


@pytest.mark.parametrize("find", [place, place_compat])
@pytest.mark.parametrize(
    ("box", "ratios", "reason"),
    [
        ([10, 10, 10, 50], (), "area"),
        ([10, 60, 40, 50], (), "area"),
        ([10, 10, np.nan, 50], (), "numbers"),
        ([10, 10, 20, 50], (0.0,), "positive"),
        ([10, 10, 20, 50], (1.0, 0.5), "as many ratios"),
    ],
)
def test_boxes_and_ratios_that_mean_nothing_are_refused(find, box, ratios, reason):
    with pytest.raises(ValueError, match=reason):
        find(np.array([box], float), [(5, 5)], 100, 100, ratios)


def test_compat_refuses_a_box_that_its_clipping_turns_inside_out():
    with pytest.raises(ValueError, match="after clipping"):
        place_compat(np.array([[-40.0, 10, 30, 50]]), [(5, 5)], 1024, 1024)
    assert place(np.array([[-40.0, 10, 30, 50]]), [(7, 4)], 1024, 1024)[0].left == 0
