"""Boxes to disjoint regions, by their properties and against the reference's numbers."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout_models.rich_context.regions import partition, partition_grids

FOLDER = Path(os.environ.get("SCENEWRIGHT_GOLDEN", Path(__file__).parents[1] / "golden"))
#: Fixture and mode; a folder without any is a failing test.
FIXTURES = [
    (f"regions/{path.stem}", compat)
    for path, about in ((path, json.loads(path.read_text())) for path in sorted(FOLDER.glob("regions/*.json")))
    for compat in ((True, False) if about.get("mode_independent") else (True,))
    if about["kind"] == "regions"
] or [("regions/none found", True)]
TENSORS = {"region_ids": "ids", "membership": "membership", "object_areas": "areas", "weights": "weights"}
GRIDS = [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
HEIGHT, WIDTH = 512, 768


def boxes(seed: int, count: int, size: float = 0.5) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-0.1, 1, (count, 2)) * (WIDTH, HEIGHT)
    return torch.from_numpy(np.concatenate([corner, corner + rng.uniform(0, size, (count, 2)) * (WIDTH, HEIGHT)], 1))


def touches(box: torch.Tensor, row: int, column: int, height: float, width: float) -> bool:
    left, top, right, bottom = box.tolist()
    return left < (column + 1) * width and right > column * width and top < (row + 1) * height and bottom > row * height


def test_no_boxes_leave_one_region_that_is_the_background():
    regions = partition(torch.zeros(0, 4), 64, 64)
    assert regions.ids.tolist() == [[0] * 8] * 8
    assert regions.membership.shape == (1, 0) and regions.weights.shape == (1, 0) and regions.kept.all()
    assert regions.union.tolist() == [[True]]


@pytest.mark.parametrize("count", [0, 1, 40, 41, 300])
def test_a_cell_is_of_the_region_of_the_boxes_that_touch_it(count):
    given_boxes = boxes(count, count, 0.4)
    regions = partition(given_boxes, HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, 64, 40), rng.integers(0, 96, 40), strict=True):
        members = [touches(box, row, column, 8, 8) for box in given_boxes]
        assert regions.membership[regions.ids[row, column]].tolist() == members
        assert regions.coverage[row, column].tolist() == members
    # every region has a cell, no two are alike, and they are in order
    assert regions.ids.unique().tolist() == list(range(len(regions)))
    rows = [tuple(x) for x in regions.membership.tolist()]
    assert rows == sorted(set(rows))
    assert regions.areas.tolist() == regions.coverage.sum((0, 1)).tolist()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), size=st.sampled_from([0.01, 0.1, 0.5, 1.5]))
def test_every_box_on_the_canvas_keeps_a_cell_at_every_level(seed, count, size):
    given_boxes = boxes(seed, count, size)
    regions, levels = partition_grids(given_boxes, HEIGHT, WIDTH, GRIDS)
    on_canvas = ((given_boxes[:, 2:] > 0) & (given_boxes[:, :2] < torch.tensor([WIDTH, HEIGHT]))).all(1)
    for grid, ids in zip(GRIDS, levels, strict=True):
        assert ids.shape == grid
        present = regions.membership[ids.unique()].any(0)
        assert present.tolist() == on_canvas.tolist()
        # masks sum to one: each cell has exactly one region, and that one is in the list
        assert ids.min() >= 0 and ids.max() < len(regions)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12))
def test_each_grid_alone_has_the_same_regions_as_among_others(seed, count):
    given_boxes = boxes(seed, count)
    regions, levels = partition_grids(given_boxes, HEIGHT, WIDTH, GRIDS)
    for grid, ids in zip(GRIDS, levels, strict=True):
        alone, (own,) = partition_grids(given_boxes, HEIGHT, WIDTH, [grid])
        assert torch.equal(alone.membership[own], regions.membership[ids])
        assert torch.equal(alone.weights[own], regions.weights[ids])


def test_a_region_that_no_grid_shows_is_not_among_them():
    apart = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
    regions, _ = partition_grids(apart, 64, 64, [(1, 1)])
    assert regions.membership.tolist() == [[True, True]]
    assert regions.areas.tolist() == [1, 1]  # still in cells of eight pixels


@pytest.mark.parametrize("grid", GRIDS)
def test_a_box_of_the_whole_image_leaves_no_background(grid):
    regions, (ids,) = partition_grids(torch.tensor([[0.0, 0, WIDTH, HEIGHT]]), HEIGHT, WIDTH, [grid])
    assert regions.membership.tolist() == [[True]] and not ids.any()


def test_compat_leaves_the_last_row_and_column_bare():
    regions = partition(torch.tensor([[0.0, 0, 512, 512]]), 512, 512, compat=True)
    assert int((regions.ids == 0).sum()) == 127 and not regions.ids[-1].any() and not regions.ids[:, -1].any()


def test_compat_keeps_thirty_objects_and_a_hundred_and_twenty_regions():
    regions = partition(boxes(0, 34, 0.9), HEIGHT, WIDTH, compat=True)
    assert regions.membership.shape[1] == 30 and len(regions) > 120
    assert int(regions.kept.sum()) == 120 and regions.kept[:120].all()
    assert not regions.weights[120:].any()
    assert partition(boxes(0, 34, 0.9), HEIGHT, WIDTH).kept.all()


def test_boxes_that_only_share_an_edge_share_no_cell():
    # coordinates as they come back from float32 fractions
    left = torch.tensor([[0.0, 0, 1 / 3, 1], [1 / 3, 0, 1, 1]]) * torch.tensor([768, 512, 768, 512])
    assert not partition(left, 512, 768).membership.all(1).any()


def test_the_smallest_object_of_an_overlap_speaks_loudest():
    nested = torch.tensor([[0.0, 0, 512, 512], [0, 0, 256, 512], [0, 0, 256, 256]])
    regions = partition(nested, 512, 512)
    inner = regions.ids[0, 0]
    assert regions.weights[inner].tolist() == [0.25, 0.5, 1.0]
    assert regions.weights[regions.ids[-1, 0]].tolist() == [0.5, 1.0, 0.0]


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_permuting_the_boxes_permutes_membership_and_weights(seed, count):
    given_boxes = boxes(seed, count)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    regions, permuted = partition(given_boxes, HEIGHT, WIDTH), partition(given_boxes[order], HEIGHT, WIDTH)
    assert torch.equal(permuted.membership[permuted.ids], regions.membership[regions.ids][..., order])
    assert torch.equal(permuted.weights[permuted.ids], regions.weights[regions.ids][..., order])


def test_pixels_see_those_that_share_an_object_with_them_and_background_sees_all():
    chain = torch.tensor([[0.0, 0, 24, 8], [16, 0, 40, 8], [48, 0, 56, 8]])
    regions = partition(chain, 64, 64)
    first, both, second, third, nobody = (int(regions.ids[0, i]) for i in (0, 2, 4, 6, 7))
    assert regions.union[first, both] and regions.union[second, both] and not regions.union[first, second]
    assert not regions.union[third, [first, both, second, nobody]].any() and regions.union[nobody].all()


@pytest.mark.parametrize(
    ("given_boxes", "height", "width", "said"),
    [
        ([[0.0, 0, 8, 8]], 60, 64, "multiples of 8, got 60 and 64"),
        ([[0.0, 0, 8, 8]], 64, 0, "multiples of 8, got 64 and 0"),
        ([[0.0, 0, 8, 8], [0, float("nan"), 8, 8]], 64, 64, "box 1 must have finite coordinates"),
        ([[8.0, 0, 4, 8]], 64, 64, r"box 0 must be x_min y_min x_max y_max, got \[8.0, 0.0, 4.0, 8.0\]"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(given_boxes, height, width, said):
    with pytest.raises(ValueError, match=said):
        partition(torch.tensor(given_boxes), height, width)


def test_boxes_beside_the_canvas_have_no_region_and_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        regions = partition(torch.tensor([[0.0, 0, 8, 8], [64, 0, 80, 8], [-9, 0, 0, 8]]), 64, 64)
    assert regions.areas.tolist() == [1, 0, 0] and "2 of 3 boxes lie outside" in caplog.text


@pytest.mark.golden
@pytest.mark.parametrize(("name", "compat"), FIXTURES)
def test_regions_are_those_of_the_reference(golden, name, compat):
    about, tensors = golden(name)
    config, tolerance = about["config"], about["tolerance"]
    regions = partition(
        tensors["boxes"], config["height"], config["width"], cell=config["mask_reduce_factor"], compat=compat
    )
    for theirs, ours in TENSORS.items():
        difference = getattr(regions, ours).double() - tensors[theirs].double()
        assert difference.abs().amax().item() <= tolerance[theirs] if difference.numel() else True, theirs
    assert regions.ids.flatten().bincount().tolist() == tensors["region_areas"].tolist()
    assert int(regions.kept.sum()) == about["regions_kept"]
    error = (regions.fractions - tensors["boxes_normalized"]).abs()
    assert not error.numel() or error.max() <= tolerance["boxes_normalized"]
    seen = regions.union[:, regions.ids.flatten()]  # (r, cells)
    assert seen[: about["regions_kept"]].sum(1).tolist() == tensors["union_areas"][: about["regions_kept"]].tolist()
    if "union_masks_packed" in tensors:
        assert np.array_equal(np.packbits(seen.numpy(), axis=1), tensors["union_masks_packed"].numpy())
