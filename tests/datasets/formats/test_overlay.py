"""What people corrected, laid over what was there."""

from dataclasses import replace

import pytest
import torch

from scenewright.datasets.formats.overlay import Region, Tally, assemble, overlay
from scenewright.layout import Layout, RunLengths

SIZE = (20, 40)


@pytest.fixture
def before() -> Layout:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 2:6, 4:12], masks[1, 10:18, 20:38] = True, True
    return Layout(
        boxes=torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.95, 0.9]]),
        labels=["dog", "cat"],
        captions=["a dog", "a cat"],
        scores=torch.tensor([0.25, 0.5]),
        masks=RunLengths.encode(masks),
    )


def test_an_unchanged_region_keeps_what_the_format_does_not_carry(before):
    regions = [Region((0.5, 0.5, 0.95, 0.9), "cat")]
    layout, warnings = assemble(regions, before, SIZE)
    assert (layout.labels, layout.captions, layout.masks) == (["cat"], ["a cat"], before.masks[1:])
    assert layout.scores.tolist() == [0.5] and not warnings


def test_a_new_region_has_its_label_for_a_caption_and_its_box_for_a_mask(before):
    layout, warnings = assemble([Region((0.0, 0.5, 0.25, 1.0), "bird")], before, SIZE)
    assert layout.captions == ["bird"] and layout.scores.tolist() == [1.0]
    assert layout.masks[0].area == 10 * 10 and layout.masks[0].box.tolist() == [0.0, 0.5, 0.25, 1.0]
    assert warnings == ["region 0 (bird) has no mask; its box was taken"]


def test_a_changed_label_or_box_is_another_region(before):
    for region in (Region((0.1, 0.1, 0.3, 0.3), "fox"), Region((0.1, 0.1, 0.3, 0.5), "dog")):
        layout, _ = assemble([region], before, SIZE)
        assert layout.captions == [region.label] and layout.boxes.tolist()[0] == pytest.approx(region.box)


def test_two_equal_regions_are_not_both_the_one_that_was(before):
    layout, _ = assemble([Region((0.1, 0.1, 0.3, 0.3), "dog")] * 2, before, SIZE)
    assert layout.captions == ["a dog", "dog"]


def test_what_the_file_says_wins(before):
    mask = RunLengths.encode(torch.ones(1, *SIZE, dtype=torch.bool))[0]
    layout, _ = assemble([Region((0.1, 0.1, 0.3, 0.3), "dog", "another", 0.75, mask)], before, SIZE)
    assert (layout.captions, layout.scores.tolist(), layout.masks) == (["another"], [0.75], [mask])


def test_nothing_is_invented_where_nothing_was():
    layout, warnings = assemble([Region((0.0, 0.0, 1.0, 1.0), "dog")], Layout.empty(), SIZE)
    assert layout.captions == [] and layout.scores is None and layout.masks is None and not warnings


@pytest.mark.parametrize(
    "box", [(0.5, 0.5, 0.5, 0.9), (1.5, 0.1, 1.9, 0.2), (float("nan"), 0.0, 1.0, 1.0), (0.9, 0.0, 0.1, 1.0)]
)
def test_boxes_without_area_inside_the_image_are_dropped_with_a_warning(box, before):
    layout, warnings = assemble([Region(box, "dog")], before, SIZE)
    assert len(layout) == 0 and warnings == ["1 boxes have no area and were dropped"]


def test_boxes_that_reach_outside_are_clipped(before):
    layout, _ = assemble([Region((-0.5, 0.25, 0.5, 1.5), "dog")], before, SIZE)
    assert layout.boxes.tolist() == [[0.0, 0.25, 0.5, 1.0]]


@pytest.mark.parametrize(("missing", "regions"), [("keep", 3), ("empty", 0)])
def test_samples_that_nothing_was_said_of(missing, regions, sample):
    tally = Tally()
    some = [sample("a", ["blob", "full"]), sample("b", ["blob", "hole", "full"])]
    found = list(overlay(some, {"a": lambda h, w: [Region((0.0, 0.0, 1.0, 1.0), f"{h}x{w}")]}, missing, tally))
    assert found[0].layout.labels == ["40x56"] and len(found[1].layout) == regions
    assert (tally.corrected, tally.kept) == ((1, 1) if missing == "keep" else (2, 0))
    assert all(x.source is y.source and x.caption == y.caption for x, y in zip(found, some, strict=True))


def test_a_broken_correction_is_named(sample):
    def broken(height, width):
        raise KeyError("bbox")

    with pytest.raises(ValueError, match="correction of 'a' cannot be read"):
        list(overlay([sample("a")], {"a": broken}, "keep", Tally()))


def test_points_and_scribbles_stay_with_their_region_and_new_ones_have_none(before):
    count = len(before)
    known = replace(before, points=torch.rand(count, 2), scribbles=[torch.rand(3, 2)] * count)
    old = Region(tuple(before.boxes[-1].tolist()), before.labels[-1])
    layout, _ = assemble([Region((0.4, 0.4, 0.6, 0.6), "new"), old], known, (10, 20))
    assert layout.points[0].isnan().all() and torch.equal(layout.points[1], known.points[-1])
    assert len(layout.scribbles[0]) == 0 and torch.equal(layout.scribbles[1], known.scribbles[-1])
    assert assemble([], known, (10, 20))[0].points.shape == (0, 2)
