"""What the tiny model's cells are told of the boxes over them."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, pixel_shuffle

from scenewright.layout import Layout, RunLengths
from scenewright.layout_models.rich_context.grounding import canvas
from scenewright.layout_models.tiny.plan import PLACE, Plan, outline_error, owners, place_in_box
from scenewright.layout_models.tiny.words import WordTokenizer

#: In sixteenths of the canvas: the second lies within the first.
BOXES = torch.tensor([[0, 0, 8, 16], [4, 4, 8, 8]]) / 16


def prepared(boxes, masks=None, side=32):
    layout = Layout(boxes=boxes, labels=["red circle"] * len(boxes), masks=masks)
    grids = [(side // 2, side // 2), (side // 4, side // 4)]
    return canvas(layout, side, side, grids, WordTokenizer(), cell=2), layout


def test_a_cell_belongs_to_the_smallest_box_over_it():
    owner, inside = owners(prepared(BOXES)[0])
    assert inside[:, :8].all() and not inside[:, 8:].any()
    small = torch.zeros(16, 16, dtype=torch.bool)
    small[4:8, 4:8] = True
    assert torch.equal((owner == 1) & inside, small)


def test_a_place_goes_from_minus_one_to_one_through_a_box():
    place = place_in_box(prepared(BOXES)[0])
    assert place.shape == (16, 16, PLACE) and not place[:, 8:].any()
    inner = place[4:8, 4:8]
    torch.testing.assert_close(inner[0, :, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(inner[:, 0, 2], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    assert (inner[..., 0] == 1).all() and (inner[..., 3:5] == 0.25).all()
    torch.testing.assert_close(inner[..., 9:11], (torch.pi * inner[..., 1:3]).sin())


def test_cells_without_a_box_are_told_nothing():
    plan = Plan(text=6, cell=2)
    told, logits = plan(torch.randn(1, 16, 16, 6), place_in_box(prepared(BOXES)[0])[None])
    assert told.shape == (1, plan.channels, 16, 16) and logits.shape == (1, 4, 16, 16)
    assert not told[..., 8:].any() and (told[:, PLACE:, :, :8] != 0).any()


def test_the_error_of_outlines_is_their_cross_entropy_in_the_boxes():
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 32, 32, generator=random) > 0.5
    prepared_canvas, layout = prepared(BOXES, RunLengths.encode(masks))
    logits = torch.randn(3, 4, 16, 16, generator=random)
    nothing = Layout(boxes=BOXES, labels=["red circle"] * 2)
    found = outline_error(
        logits, [prepared_canvas, None, prepared_canvas], [layout, layout, nothing], cell=2
    )  # the second was dropped, the third has no masks
    pixels = pixel_shuffle(logits[:1], 2).sigmoid()[0, 0]
    wanted = masks[0].float()
    wanted[8:16, 8:16] = masks[1, 8:16, 8:16].float()
    expected = binary_cross_entropy(pixels[:, :16], wanted[:, :16], reduction="sum") / logits.numel()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("count", [0, 1])
def test_a_layout_of_no_boxes_is_no_plan(count):
    plan = Plan(text=6, cell=2)
    told, _ = plan(torch.randn(count, 16, 16, 6), torch.zeros(count, 16, 16, PLACE))
    assert told.shape == (count, plan.channels, 16, 16) and not told.any()
