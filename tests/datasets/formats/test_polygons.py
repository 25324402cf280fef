"""Masks as polygons and back, to the pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from scenewright.datasets.formats.polygons import from_ring, inside, outlines, ring
from scenewright.layout import RunLengths

MASKS = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda size: arrays(bool, size))


def encoded(mask: np.ndarray) -> RunLengths:
    return RunLengths.encode(torch.from_numpy(mask)[None])[0]


@settings(max_examples=150)
@given(MASKS)
def test_a_ring_keeps_every_pixel_of_all_parts_and_holes(mask):
    points = ring(encoded(mask))
    assert (len(points) >= 3) == mask.any()
    assert (from_ring(points.astype(float), *mask.shape).decode().numpy() == mask).all()


@settings(max_examples=150)
@given(MASKS)
def test_outlines_are_the_mask_to_pycocotools_and_refuse_what_has_holes(mask):
    height, width = mask.shape
    polygons = outlines(encoded(mask))
    filled = np.zeros_like(mask)
    if polygons is not None:
        filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)
        assert (filled == mask).all()
    elif mask.any():
        from scipy.ndimage import binary_fill_holes

        assert (binary_fill_holes(mask) != mask).any()


@pytest.mark.parametrize(
    "points", [np.zeros((0, 2)), np.array([[3.0, 3.0]]), np.array([[-9.0, 2.0], [99.0, 2.0], [5.0, 99.0]])]
)
def test_any_points_give_a_mask_of_the_image(points):
    assert from_ring(points, 10, 12).decode().shape == (10, 12)


def test_a_polygon_of_others_is_filled_as_supervision_does():
    import supervision

    points = np.array([[2, 2], [17, 4], [12, 15], [4, 11]])
    expected = supervision.polygon_to_mask(points, resolution_wh=(20, 18)).astype(bool)
    assert (from_ring(points.astype(float), 18, 20).decode().numpy() == expected).all()


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([[1, 1], [5, 5]], 0),
        ([[2, 3], [8, 3], [8, 7], [2, 7]], 24),
        ([[-9, -9], [99, -9], [99, 99], [-9, 99]], 120),
    ],
)
def test_what_people_draw_goes_along_the_edges_of_pixels(points, area):
    assert inside(np.array(points, float).reshape(-1, 2), 10, 12).area == area
