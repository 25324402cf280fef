import math

import cv2
import numpy as np
import pytest
import torch

from scenewright.annotators.detectors.superpixels import Superpixels
from scenewright.layout import Layout
from scenewright.protocols import Detector


def image_of(pixels: np.ndarray) -> torch.Tensor:
    """An image of (h, w, 3) pixels."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def canvas(height: int, width: int, colour: tuple[int, int, int] = (225, 225, 215)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def three_shapes(height: int = 160, width: int = 200) -> tuple[np.ndarray, list[np.ndarray]]:
    """A disc, a rectangle and a striped square, and where they are."""
    pixels, masks = canvas(height, width), []
    for draw in (
        lambda plane, ink: cv2.circle(plane, (width // 4, height // 3), height // 6, ink, -1),
        lambda plane, ink: cv2.rectangle(plane, (width * 5 // 8, 15), (width * 7 // 8, height // 3), ink, -1),
        lambda plane, ink: cv2.rectangle(plane, (width // 2, height * 5 // 8), (width * 3 // 4, height - 10), ink, -1),
    ):
        plane = np.zeros((height, width), np.uint8)
        draw(plane, 1)
        masks.append(plane.astype(bool))
    stripes = (np.arange(width) // 8 % 2 == 0)[None, :, None]
    for mask, paint in zip(
        masks, ((200, 30, 40), (30, 60, 180), np.where(stripes, (20, 120, 50), (240, 200, 40))), strict=True
    ):
        pixels = np.where(mask[..., None], paint, pixels).astype(np.uint8)
    return pixels, masks


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def one(pixels: np.ndarray, **options) -> Layout:
    return Superpixels(**options).detect([image_of(pixels)], [[]])[0]


def same(first: Layout, second: Layout) -> bool:
    if len(first) != len(second):
        return False
    if not len(first):
        return True
    return (
        torch.equal(first.boxes, second.boxes)
        and torch.equal(first.scores, second.scores)
        and first.labels == second.labels
        and first.masks == second.masks
    )


def decoded(layout: Layout) -> list[np.ndarray]:
    return [mask.decode().numpy() for mask in layout.masks or []]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_superpixels_is_a_detector():
    assert isinstance(Superpixels(), Detector)


def test_no_images_give_no_layouts():
    assert Superpixels().detect([], []) == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (120, 40, 200)])
@pytest.mark.parametrize("size", [(8, 8), (96, 64), (300, 500)])
def test_nothing_is_found_where_nothing_is(colour, size):
    assert len(one(canvas(*size, colour))) == 0


def test_nothing_is_found_in_a_plain_gradient():
    ramp = np.linspace(60, 200, 200).astype(np.uint8)
    assert len(one(np.broadcast_to(ramp[None, :, None], (150, 200, 3)))) == 0


@pytest.mark.parametrize("scale", [1, 3])
def test_shapes_are_outlined_plain_and_striped(scale):
    pixels, masks = three_shapes(160 * scale, 200 * scale)
    layout = one(pixels)
    assert len(layout) == 3
    for mask in masks:
        assert max(iou(mask, found) for found in decoded(layout)) >= 0.7


def test_a_thing_on_a_striped_ground_is_found_and_the_stripes_are_not():
    stripes = (np.arange(200) // 10 % 2 == 0)[:, None, None]
    pixels = np.where(stripes, (90, 90, 150), (120, 130, 190)).astype(np.uint8) + np.zeros((200, 200, 3), np.uint8)
    cv2.circle(pixels, (110, 90), 40, (240, 200, 30), -1)
    layout = one(pixels)
    disc = np.hypot(*(np.mgrid[:200, :200] - np.array([90, 110])[:, None, None])) <= 40
    assert iou(decoded(layout)[0], disc) >= 0.9
    assert len(layout) <= 2


def test_a_grey_photograph_is_fine():
    pixels, _ = three_shapes()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    assert len(one(np.repeat(grey[..., None], 3, 2))) >= 2


def test_labels_say_what_a_region_looks_like():
    layout = one(three_shapes()[0])
    assert {label.split()[0] for label in layout.labels} & {"red", "blue"} == {"red", "blue"}


def test_tags_change_nothing():
    image = image_of(three_shapes()[0])
    (without,), (with_tags,) = Superpixels().detect([image], [[]]), Superpixels().detect([image], [["dog", "cat"]])
    assert same(without, with_tags)


def test_boxes_are_those_of_the_masks_and_lie_in_the_image():
    layout = one(three_shapes(211, 333)[0])
    assert layout.masks is not None and len(layout)
    for box, mask in zip(layout.boxes, layout.masks, strict=True):
        assert mask.size == (211, 333)
        assert torch.equal(box, mask.box)
    assert (layout.boxes >= 0).all() and (layout.boxes <= 1).all()
    assert (layout.boxes[:, 2:] > layout.boxes[:, :2]).all()


def test_scores_lie_between_the_threshold_and_one_and_fall():
    scores = one(three_shapes()[0], threshold=0.05).scores
    assert scores is not None
    assert (scores > 0.05).all() and (scores <= 1).all()
    assert torch.equal(scores, scores.sort(descending=True).values)


@pytest.mark.parametrize("most", [0, 1, 2, 12])
def test_there_are_at_most_as_many_regions_as_asked_for(most):
    pixels = canvas(200, 300)
    for row in range(4):
        for column in range(6):
            cv2.circle(pixels, (25 + 50 * column, 25 + 50 * row), 15, (40 + 30 * column, 60, 200 - 40 * row), -1)
    assert len(one(pixels, max_regions=most)) == most


def test_no_region_shares_pixels_with_another():
    found = decoded(one(noise(60, 80).repeat(8, 0).repeat(8, 1), threshold=0.01))
    assert len(found) > 2
    assert np.sum(found, axis=0).max() == 1


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 2),
        (2, 1),
        (1, 64),
        (64, 1),
        (2, 2),
        (3, 3),
        (8, 8),
        (5, 300),
        (1, 20_000),
        (20_000, 64),
        (64, 20_000),
    ],
)
def test_any_size_is_survived(size):
    height, width = size
    for pixels in (noise(height, width), canvas(height, width)):
        layout = one(pixels)
        assert torch.isfinite(layout.boxes).all()
        assert all(mask.size == (height, width) and mask.area for mask in layout.masks or [])


def test_a_thing_in_a_very_long_image_is_found():
    pixels = canvas(64, 6000)
    cv2.rectangle(pixels, (3000, 20), (3060, 50), (200, 30, 40), -1)
    layout = one(pixels)
    assert len(layout) == 1
    assert layout.boxes[0].tolist() == pytest.approx([3000 / 6000, 20 / 64, 3061 / 6000, 51 / 64], abs=0.06)


def test_work_is_bounded_by_the_working_copy(monkeypatch):
    from scenewright.annotators.detectors.superpixels import segmentation

    seen = []
    real = segmentation.felzenszwalb
    monkeypatch.setattr(segmentation, "felzenszwalb", lambda x, **k: seen.append(x.shape) or real(x, **k))
    for size in ((2000, 1500), (20, 9000), (30, 40)):
        one(noise(*size), side=100)
    assert all(height * width <= 1.1 * 100**2 for height, width, _ in seen)


def test_noise_is_cut_into_a_bounded_number_of_pieces():
    from scenewright.annotators.detectors.superpixels.segmentation import MOST_PIECES, segment

    assert len(segment(noise(160, 160), scale=0.1, min_size=1)) <= MOST_PIECES


def test_the_same_image_gives_the_same_regions_every_time_and_in_any_batch():
    images = [image_of(p) for p in (three_shapes()[0], noise(64, 48), canvas(30, 30), three_shapes(90, 333)[0])]
    detector = Superpixels()
    alone = [detector.detect([image], [[]])[0] for image in images]
    together = detector.detect(images, [[]] * len(images))
    backwards = detector.detect(images[::-1], [[]] * len(images))[::-1]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(alone, together, backwards, strict=True))


def test_the_image_is_left_as_it_was():
    image = image_of(three_shapes()[0])
    before = image.clone()
    Superpixels().detect([image], [[]])
    assert torch.equal(image, before)


def test_small_holes_are_filled_unless_another_region_lies_there():
    pixels = canvas(160, 160)
    cv2.rectangle(pixels, (30, 30), (130, 130), (200, 30, 40), -1)
    cv2.circle(pixels, (80, 80), 10, (240, 220, 60), -1)
    found = decoded(one(pixels))
    assert np.sum(found, axis=0)[80, 80] == 1
    assert np.sum(found, axis=0)[32:128, 32:128].min() == 1


def test_the_outline_polygon_is_the_hull_of_a_disc_and_of_a_square():
    from scenewright.annotators.detectors.superpixels.objectness import hull_areas

    turns = np.arange(16) * (2 * math.pi / 16)
    disc = np.full((1, 16), 10.0)
    square = 10 * (np.abs(np.cos(turns)) + np.abs(np.sin(turns)))[None]
    assert hull_areas(disc)[0] == pytest.approx(math.pi * 100, rel=0.02)
    assert hull_areas(square)[0] == pytest.approx(400, rel=1e-6)


def test_a_good_whole_beats_its_parts_and_good_parts_beat_a_fair_whole():
    from scenewright.annotators.detectors.superpixels.grouping import Groups
    from scenewright.annotators.detectors.superpixels.objectness import choose

    # pieces 0, 1, 2; 3 joins 0 and 1; 4 is all
    members = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]], bool)
    supports = np.zeros((5, 16), np.float32)
    for at, (low, high) in enumerate([(0, 1), (1, 2), (2, 9), (0, 2), (0, 9)]):
        supports[at, ::4] = high, 1, -low, 0
    groups = Groups(
        members=members,
        supports=supports,
        parents=np.array([3, 3, 4, 4, 4]),
        children=np.array([[-1, -1]] * 3 + [[0, 1], [3, 2]]),
        births=np.ones(5, np.float32),
    )
    for scores, expected in (
        ([0.0, 0.0, 0.0, 0.0, 0.0], []),
        ([0.5, 0.5, 0.0, 0.9, 0.0], [3]),
        ([0.9, 0.8, 0.0, 0.7, 0.0], [0, 1]),
        ([0.9, 0.05, 0.3, 0.2, 0.0], [0, 2]),
    ):
        assert choose(groups, np.array(scores), threshold=0.1, most=12).tolist() == expected
