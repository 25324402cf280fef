"""One sample as the report shows it."""

import math

import pytest
import torch

from scenewright.evaluation.report import Statistics
from scenewright.evaluation.report.pictures import card, fit, overlay, regions
from scenewright.layout import Layout, Sample


@pytest.mark.parametrize(
    ("height", "width", "longer", "expected"),
    [(1, 1, 640, (640, 640)), (300, 600, 100, (50, 100)), (5000, 1, 640, (640, 1)), (3, 4, 4, (3, 4))],
)
def test_fit_keeps_the_proportions_and_never_loses_a_side(height, width, longer, expected):
    assert fit(height, width, longer) == expected


def test_an_overlay_is_transparent_but_for_its_regions_and_has_their_colours(layout):
    nothing = overlay(Layout.empty(), 30, 40)
    assert nothing.shape == (30, 40, 4) and not nothing[..., 3].any()
    both = layout(["one", "two"])
    drawn, listed = overlay(both, 240, 320), regions(both)
    for number, region in enumerate(listed):
        left, top, width, height = region.box
        y, x = round((top + height) / 100 * 240) - 1, round((left + 0.4 * width) / 100 * 320)
        pixel = drawn[y - 3 : y + 4, x].astype(int)  # across the lower edge of the box
        wanted = [int(region.colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert abs(pixel[pixel[:, 3] > 250][:, :3] - wanted).max(axis=1).min() <= 2, number
    assert not drawn[-4:, :4, 3].any()
    assert 0 < drawn[60, 40, 3] < 250  # inside the first mask: a veil, not a wall


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (3, 500), (16, 16)])
def test_a_picture_of_any_size_can_be_shown(size, pixels, layout):
    shown = card(Sample.from_image("a", pixels(0, *size), layout=layout(["dot", "ß"], True, size)), 96)
    assert shown.picture.startswith("data:image/webp;base64,") and shown.overlay.startswith("data:image/webp;base64,")
    assert (shown.height, shown.width) == size


def test_boxes_that_are_no_boxes_do_not_stop_the_report(pixels):
    boxes = torch.tensor([[math.nan, 0.1, 0.5, 0.5], [0.8, 0.8, 0.2, 0.2], [-3.0, 0.0, 9.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    sample = Sample.from_image("a", pixels(), layout=Layout(boxes, ["a", "b", "c", ""]))
    assert [region.box for region in card(sample, 96).regions][2] == (0.0, 0.0, 100.0, 100.0)
    Statistics().add(sample)


def test_an_image_that_cannot_be_decoded_leaves_a_place_with_the_reason(some_samples):
    broken, missing = (card(sample, 96) for sample in list(some_samples())[3:])
    assert (broken.picture, broken.note) == ("", "the file is not an image")
    assert (missing.picture, missing.note) == ("", "the shards hold annotations only")
    assert missing.overlay  # the masks know the size
