"""What captioners and judges are shown of a region."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from scenewright.crops import areas, corners, cut, cut_truncated, truncated
from scenewright.layout import Layout, RunLengths


def image_of(height, width):
    """Every pixel tells where it is."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y % 256, x % 256, (y + x) % 256]).to(torch.uint8)


def layout_of(image, *pixel_boxes):
    height, width = image.shape[1:]
    boxes = torch.tensor(pixel_boxes, dtype=torch.float64).reshape(-1, 4) / torch.tensor([width, height] * 2)
    return Layout(boxes.float(), ["thing"] * len(boxes))


def test_no_regions_have_no_crops():
    image = image_of(9, 7)
    assert cut(image, Layout.empty()) == cut_truncated(image, Layout.empty()) == areas(image, Layout.empty()) == []


@pytest.mark.parametrize(
    ("box", "padding", "expected"),
    [
        ((10, 20, 30, 60), 0.0, (10, 20, 30, 60)),
        ((10, 20, 30, 60), 0.1, (8, 16, 32, 64)),
        ((10.5, 20.5, 30.5, 60.5), 0.0, (10, 20, 31, 61)),  # no pixel of it is lost
        ((0, 0, 30, 60), 0.5, (0, 0, 45, 90)),  # not beyond the image
        ((50, 50, 50, 50), 0.0, (50, 50, 51, 51)),  # at least one pixel
        ((100, 100, 100, 100), 0.0, (99, 99, 100, 100)),
    ],
)
def test_corners_are_whole_pixels_within_the_image(box, padding, expected):
    image = image_of(100, 100)
    assert corners(image, layout_of(image, box), padding) == [expected]


@given(st.integers(1, 4000), st.data())
def test_whole_pixels_survive_being_fractions(side, data):
    start = data.draw(st.integers(0, side - 1))
    stop = data.draw(st.integers(start + 1, side))
    image = torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, side, side)
    layout = layout_of(image, (start, start, stop, stop))
    assert corners(image, layout) == truncated(image, layout) == [(start, start, stop, stop)]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-1.7, 3.9, 10.2, 8.0), (-1, 3, 10, 8)),
        ((0.99, 0.01, 31.99, 32.0), (0, 0, 31, 32)),
        ((-0.5, -0.5, 5, 5), (0, 0, 5, 5)),
    ],
)
def test_the_references_truncate_toward_zero(box, expected):
    image = image_of(50, 60)
    assert truncated(image, layout_of(image, box)) == [expected]


@pytest.mark.parametrize(
    ("box", "area"),
    [((0, 0, 32, 32), 1024), ((0, 0, 31, 33), 1023), ((-1.7, 3.9, 10.2, 8.0), 55), ((5, 5, 3, 9), 0)],
)
def test_areas_are_counted_on_truncated_corners(box, area):
    image = image_of(50, 60)
    assert areas(image, layout_of(image, box)) == [area]


@pytest.mark.parametrize("box", [(3, 4, 20, 30), (-5.5, -2.9, 10.7, 12.2), (40, 30, 75.5, 66.1), (-80, -80, -70, -70)])
def test_truncated_crops_are_pillows(box):
    image = image_of(50, 60)
    (crop,) = cut_truncated(image, layout_of(image, box))
    pillow = PILImage.fromarray(image.permute(1, 2, 0).numpy()).crop(tuple(int(v) for v in box))
    assert np.array_equal(crop.permute(1, 2, 0).numpy(), np.asarray(pillow))


def test_a_crop_shows_the_box_and_its_surroundings():
    image = image_of(100, 100)
    (crop,) = cut(image, layout_of(image, (10, 20, 30, 60)), padding=0.1)
    assert torch.equal(crop, image[:, 16:64, 8:32])


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1024, 1024), (500, 0, 508, 1024)),  # 8 x 1024, which broke the reference
        ((1024, 1024), (1016, 0, 1024, 1024)),
        ((1024, 1024), (0, 700, 1024, 701)),
        ((1, 20000), (0, 0, 20000, 1)),
        ((20000, 3), (0, 0, 3, 20000)),
        ((5, 5), (2, 2, 3, 3)),
    ],
)
def test_no_crop_is_longer_than_allowed(size, box):
    image = image_of(*size)
    for crop in (
        *cut(image, layout_of(image, box), max_aspect=8.0, max_side=2048),
        *cut_truncated(image, layout_of(image, box), max_aspect=8.0),
    ):
        height, width = crop.shape[1:]
        assert max(height, width) <= 8 * min(height, width)
    (crop,) = cut(image, layout_of(image, box), max_aspect=8.0, max_side=2048)
    assert max(crop.shape[1:]) <= 2048


def test_a_long_crop_is_widened_by_what_is_beside_it():
    image = image_of(200, 200)
    (crop,) = cut(image, layout_of(image, (50, 0, 54, 160)), max_aspect=8.0)
    assert torch.equal(crop, image[:, :160, 42:62])
    (crop,) = cut(image, layout_of(image, (196, 0, 200, 160)), max_aspect=8.0)  # at the border: to the other side
    assert torch.equal(crop, image[:, :160, 180:200])


def test_where_the_image_ends_its_outermost_pixels_go_on():
    image = image_of(2, 80)
    (crop,) = cut(image, Layout.whole(), max_aspect=8.0)
    assert crop.shape == (3, 10, 80)
    assert torch.equal(crop, image[:, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]])


def test_a_short_crop_is_left_as_it_is():
    image = image_of(40, 50)
    (crop,) = cut(image, layout_of(image, (0, 0, 40, 5)), max_aspect=8.0, max_side=40)
    assert torch.equal(crop, image[:, :5, :40])


def test_blur_spares_the_region():
    image = torch.randint(0, 256, (3, 60, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inside = torch.zeros(60, 60, dtype=torch.bool)
    inside[20:30, 20:40] = True
    boxed = layout_of(image, (20, 20, 40, 40))
    masked = Layout(boxed.boxes, boxed.labels, masks=RunLengths.encode(inside[None]))
    for layout, kept in ((boxed, torch.ones(20, 20, dtype=torch.bool)), (masked, inside[20:40, 20:40])):
        (sharp,), (blurred,) = cut(image, layout, padding=0.5), cut(image, layout, padding=0.5, blur=0.1)
        around = torch.ones(40, 40, dtype=torch.bool)
        around[10:30, 10:30] = ~kept
        assert torch.equal(blurred[:, ~around], sharp[:, ~around])
        assert blurred[:, around].float().std() < 0.5 * sharp[:, around].float().std()
