"""Plates and sheets: what is on them, and how large they are."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.evaluation.contact_sheet import boxed, contact_sheet, picture, plate
from scenewright.layout import Layout


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def row(count: int, captions: list[str] | None = None) -> Layout:
    """Boxes side by side."""
    edges = torch.linspace(0, 1, count + 1)
    boxes = torch.stack([edges[:-1], torch.full((count,), 0.2), edges[1:], torch.full((count,), 0.8)], 1)
    return Layout(boxes, [f"thing {i}" for i in range(count)], captions or [])


def pixels(image: PILImage.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (256, 256)),
        ((64, 64), (256, 256)),
        ((32, 48), (192, 288)),
        ((300, 200), (300, 200)),
        ((1024, 512), (384, 192)),
    ],
)
def test_a_picture_is_large_enough_to_look_at_and_not_larger(size, expected):
    assert picture(grey(*size)).size == expected[::-1]


def test_a_small_picture_is_enlarged_in_whole_pixels():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = pixels(picture(image))
    assert (large[::9, ::9] == image.permute(1, 2, 0).numpy()).all() and (large[8::9, 8::9] == large[::9, ::9]).all()


def test_boxes_are_drawn_where_they_are_and_an_empty_layout_changes_nothing():
    plain = picture(grey(64, 64))
    assert (pixels(boxed(plain, Layout.empty())) == pixels(plain)).all()
    changed = (pixels(boxed(plain, Layout(torch.tensor([[0.25, 0.5, 0.75, 1.0]]), ["dog"]))) != pixels(plain)).any(2)
    assert changed[140:250, 63:66].any(1).all() and changed[140:250, 190:193].any(1).all()  # both sides
    assert not changed[:100].any() and not changed[:, :60].any() and not changed[:, 200:].any()
    assert not changed[150:240, 70:180].any()
    assert not (pixels(plain) != 90).any()  # the picture itself stays as it was


@pytest.mark.parametrize("size", [(8, 8), (16, 2000), (2000, 16), (64, 64), (1024, 1024)])
@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_any_layout_on_any_size_makes_a_plate(size, count):
    shown = picture(grey(*size), least=256, most=512)
    layout = row(count, ["a long description of this thing, with a place, a colour and a material"] * count)
    made = plate([shown, boxed(shown, layout)], layout, "A caption that goes on. " * 20, most_regions=12)
    assert made.width >= 2 * shown.width and made.height > shown.height
    assert made.height < shown.height + (1200 if count else 120)


def test_words_are_below_the_pictures_and_never_over_them():
    shown = picture(grey(64, 64))
    made = pixels(plate([shown], row(3), "Three things", titles=["drawn"]))
    top = made.shape[0] - pixels(plate([shown], row(3), "Three things")).shape[0]
    assert top > 0 and (made[top : top + 256, :256] == 90).all()
    assert (made[:top] != 255).any() and (made[top + 256 :] != 255).any()


def test_a_longer_list_ends_with_how_many_more_there_are():
    shown = picture(grey(64, 64))
    heights = [plate([shown], row(count), most_regions=4).height for count in (4, 5, 50)]
    assert heights[0] < heights[1] == heights[2]
    assert plate([shown], row(50)).height > heights[2]


@pytest.mark.parametrize("text", ["", "word" * 500, "日本語の説明", "two\nlines\tand a tab", "\u0000 control"])
def test_any_text_can_be_written(text):
    layout = Layout(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), [text], [text])
    shown = picture(grey(512, 512), most=512)
    assert plate([boxed(shown, layout)], layout, text).width == 512


def test_plates_lie_in_rows_in_order_and_do_not_touch():
    plates = [PILImage.new("RGB", (40, 30 + 10 * i), (i, 0, 0)) for i in range(5)]
    sheet = pixels(contact_sheet(plates, columns=2))
    assert sheet.shape[1] == 2 * (40 + 24) and sheet.shape[0] == (40 + 24) + (60 + 24) + (70 + 24)
    for i, one in enumerate(plates):
        found = np.argwhere((sheet == [i, 0, 0]).all(2))
        assert len(found) == one.width * one.height
    seen = [tuple(np.argwhere((sheet == [i, 0, 0]).all(2))[0]) for i in range(5)]
    assert seen == sorted(seen)


@pytest.mark.parametrize("count", [1, 2, 7, 48])
def test_a_sheet_is_about_as_wide_as_it_is_high(count):
    sheet = contact_sheet([PILImage.new("RGB", (512, 400))] * count)
    assert 0.3 < sheet.width / sheet.height < 3


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one plate"):
        contact_sheet([])
