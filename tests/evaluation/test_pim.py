"""PiM against masks told by hand and the reference's rule written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.annotators.segmenters.sam import SAM
from scenewright.evaluation.pim import PiM
from scenewright.layout import Layout, RunLengths, Sample

HEIGHT, WIDTH = 20, 30
IMAGE = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)


def box_mask(x0, y0, x1, y1, size=(HEIGHT, WIDTH)):
    plane = np.zeros(size, bool)
    plane[y0:y1, x0:x1] = True
    return plane


def encoded(planes):
    return [RunLengths.encode(torch.from_numpy(x)[None])[0] for x in planes]


def layout_of(planes, labels=None, masks=True):
    """A layout of these masks and their boxes."""
    runs = encoded(planes)
    boxes = torch.stack([x.box for x in runs]) if runs else torch.zeros(0, 4)
    return Layout(boxes, labels or ["cat"] * len(runs), masks=runs if masks else None)


class Finder:
    """Finds the boxes of masks, and cuts these out; or has them itself."""

    def __init__(self, *found, has_masks=False):
        self.found, self.has_masks, self.asked, self.cut = found, has_masks, [], 0

    def detect(self, images, tags):
        self.asked += [list(x) for x in tags]
        return [layout_of(x, masks=self.has_masks) for x in self.found[: len(images)]]

    def segment(self, images, layouts):
        self.cut += sum(map(len, layouts))
        return [encoded(x) if len(y) else [] for x, y in zip(self.found, layouts, strict=True)]


def judged(planes, found, *, masks=True, key="0", image=IMAGE, **settings):
    finder = Finder(found)
    metric = PiM(finder, finder, **settings)
    metric.update([image], [Sample(key, layout=layout_of(planes, masks=masks))])
    return metric.records[0]


def test_what_is_found_exactly_has_all_its_points():
    planes = [box_mask(1, 1, 9, 9), box_mask(12, 4, 20, 18), box_mask(5, 5, 15, 15)]
    record = judged(planes, planes[::-1])
    assert record.objects == {"pim": [1, 1, 1], "scribble": [1, 1, 1]}


def test_the_centre_of_the_masks_box_is_looked_at_and_a_share_of_its_pixels():
    wanted = [box_mask(0, 0, 10, 10)]
    record = judged(wanted, [box_mask(0, 0, 5, 10)], points=100)  # every pixel once
    assert record.objects == {"pim": [1], "scribble": [0.5]}  # of four pixels in the middle, the upper left
    assert judged(wanted, [box_mask(5, 0, 10, 10)], points=100).objects == {"pim": [0], "scribble": [0.5]}


def test_a_missing_object_has_none_of_its_points():
    planes = [box_mask(1, 1, 9, 9), box_mask(12, 4, 20, 18)]
    assert judged(planes, planes[1:]).objects == {"pim": [0, 1], "scribble": [0, 1]}
    assert judged(planes, []).objects == {"pim": [0, 0], "scribble": [0, 0]}


def test_in_compat_an_instance_elsewhere_is_taken_and_a_region_without_any_is_left_out():
    planes = [box_mask(1, 1, 9, 9), box_mask(12, 4, 20, 18), box_mask(0, 12, 8, 20)]
    record = judged(planes, planes[1:2], compat=True)  # the first takes it, though it is not its own
    assert record.objects["pim"][0] == 0 and all(map(math.isnan, record.objects["pim"][1:]))
    assert [x.split(":")[0] for x in record.problems] == ["region 1", "region 2"] and record.scored == 2


def test_each_region_takes_the_best_that_is_left_whatever_its_label():
    first, second = box_mask(0, 0, 10, 10), box_mask(0, 0, 10, 12)
    finder = Finder([box_mask(0, 0, 10, 11)])
    metric = PiM(finder, finder)
    metric.update([IMAGE], [Sample("0", layout=layout_of([first, second], ["dog", "Dog "]))])
    assert metric.records[0].objects["pim"] == [1, 0] and finder.asked == [["dog"]]


def reference(wanted, found):
    """The reference's greedy matches and its point test."""
    left, scores = list(range(len(found))), []
    for mask in wanted:
        if not left:
            break
        best = max(left, key=lambda k: (mask & found[k]).sum() / (mask | found[k]).sum())
        left.remove(best)
        ys, xs = np.nonzero(mask)
        scores.append(float(found[best][(ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2]))
    return scores


@pytest.mark.parametrize("seed", range(6))
def test_compat_is_the_references_rule(seed):
    rng = np.random.default_rng(seed)

    def some(count):
        return [
            box_mask(x, y, x + w, y + h) & (rng.random((HEIGHT, WIDTH)) < 0.8)
            for x, y, w, h in rng.integers((0, 0, 4, 4), (20, 12, 12, 10), (count, 4))
        ]

    wanted, found = some(5), some(int(rng.integers(2, 7)))
    scores = judged(wanted, found, compat=True).objects["pim"]
    assert [x for x in scores if not math.isnan(x)] == reference(wanted, found)


def test_a_scribble_is_the_same_for_all_images_of_a_layout_and_another_for_another_seed():
    wanted, found = [box_mask(0, 0, 20, 20)], [np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5]
    first = judged(wanted, found).objects["scribble"]
    assert first == judged(wanted, found).objects["scribble"] and 0 < first[0] < 1
    others = [judged(wanted, found, key="1"), judged(wanted, found, seed=1), judged(wanted, found, seed=2)]
    assert any(x.objects["scribble"] != first for x in others)


def test_a_mask_of_fewer_pixels_than_points_gives_some_twice():
    record = judged([box_mask(3, 3, 4, 4)], [box_mask(3, 3, 4, 4)])
    assert record.objects == {"pim": [1], "scribble": [1]}


def test_without_masks_the_centre_of_the_box_is_the_point_and_there_is_no_scribble():
    corner = box_mask(0, 0, 10, 10)
    corner[4:, 4:] = False
    planes = [box_mask(0, 0, 10, 10), box_mask(20, 10, 21, 11)]
    record = judged(planes, [corner, planes[1]], masks=False)
    assert record.objects == {"pim": [0, 1]}, "the corner does not reach the middle; a box of one pixel does"


def test_an_image_of_another_size_than_the_masks_is_compared_at_theirs():
    size = (HEIGHT * 2, WIDTH * 3)
    planes = [box_mask(2, 2, 12, 12), box_mask(13, 7, 14, 8)]
    found = [np.kron(x, np.ones((2, 3), bool)) for x in planes]
    record = judged(planes, found, image=torch.zeros(3, *size, dtype=torch.uint8))
    assert record.objects == {"pim": [1, 1], "scribble": [1, 1]}


def test_an_empty_mask_is_not_scored_and_said():
    record = judged([box_mask(0, 0, 0, 0), box_mask(1, 1, 9, 9)], [box_mask(1, 1, 9, 9)])
    assert math.isnan(record.objects["pim"][0]) and record.objects["pim"][1] == 1
    assert record.problems == ["region 0: its mask is empty"]


def test_an_empty_layout_has_no_scores():
    for masks in (True, False):
        record = judged([], [box_mask(1, 1, 9, 9)], masks=masks)
        assert record.expected == 0 and not record.problems


def test_a_layout_without_labels_is_not_scored_unless_something_is_found():
    layout = layout_of([box_mask(1, 1, 9, 9)], [""])
    for found, scored in (([], 0), ([box_mask(1, 1, 9, 9)], 2)):
        finder = Finder(found)
        metric = PiM(finder, finder)
        metric.update([IMAGE], [Sample("0", layout=layout)])
        assert metric.records[0].scored == scored and metric.records[0].expected == 2
        assert bool(metric.records[0].problems) != bool(scored)


def test_a_detector_with_masks_needs_no_segmenter():
    planes = [box_mask(1, 1, 9, 9)]
    finder = Finder(planes, has_masks=True)
    metric = PiM(finder, finder)
    metric.update([IMAGE], [Sample("0", layout=layout_of(planes))])
    assert finder.cut == 0 and metric.compute() == {"pim": 1, "scribble": 1}


def test_a_scribble_without_points_is_refused():
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        PiM(Finder(), Finder(), points=0)


def test_an_image_gets_the_same_from_real_networks_alone_and_among_others(tiny_groundingdino, tiny_sam, tmp_path):
    path = tiny_groundingdino(tmp_path / "dino")
    detector = GroundingDINO(str(path), box_threshold=0.2, pad_to=32, max_boxes=5)
    segmenter = SAM(tiny_sam(tmp_path / "sam"))
    rng = torch.Generator().manual_seed(0)
    sizes = [(40, 60), (60, 40), (50, 50)]
    images = [torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
    planes = [[box_mask(5, 5, 30, 35, x.shape[1:]), box_mask(2, 20, 25, 39, x.shape[1:])] for x in images]
    samples = [Sample(str(i), layout=layout_of(x, ["cat", "dog"])) for i, x in enumerate(planes)]
    together, alone = PiM(detector, segmenter), PiM(detector, segmenter)
    together.update(images, samples)
    for image, sample in zip(images, samples, strict=True):
        alone.update([image], [sample])
    assert [x.objects for x in together.records] == [x.objects for x in alone.records]
    assert 0 < together.compute()["scribble"] < 1


def pointed(planes, found, *, points=None, scribbles=None, **settings):
    """As ``judged``; points and scribbles in pixels ``x y`` at their middles."""
    finder, size = Finder(found), torch.tensor([WIDTH, HEIGHT])
    masks = settings.pop("masks", True)
    layout = replace(
        layout_of(planes, masks=masks),
        points=None if points is None else (torch.tensor(points) + 0.5) / size,
        scribbles=None if scribbles is None else [(torch.tensor(x).reshape(-1, 2) + 0.5) / size for x in scribbles],
    )
    metric = PiM(finder, finder, **settings)
    metric.update([IMAGE], [Sample("0", layout=layout)])
    return metric.records[0]


@pytest.mark.parametrize("masks", [True, False])
def test_the_points_that_a_layout_gives_are_looked_at(masks):
    wanted, left = [box_mask(0, 0, 10, 10)] * 2, box_mask(0, 0, 4, 10)
    record = pointed(wanted, [left, left], points=[[3.0, 9.0], [4.0, 9.0]], masks=masks)
    assert record.objects["pim"] == [1, 0]
    nowhere = pointed(wanted, [left, left], points=[[math.nan] * 2, [0.0, 0.0]], masks=masks)
    assert nowhere.objects["pim"] == [0, 1], "a region without a point has the centre"
    edge = pointed([box_mask(20, 10, 30, 20)], [box_mask(29, 19, 30, 20)], points=[[29.5, 19.5]], masks=masks)
    assert edge.objects["pim"] == [1]


@pytest.mark.parametrize("masks", [True, False])
def test_the_scribbles_that_a_layout_gives_are_looked_at(masks):
    wanted, left = [box_mask(0, 0, 10, 10)], box_mask(0, 0, 4, 10)
    scribble = [[0.0, 0.0], [3.0, 5.0], [4.0, 5.0], [9.0, 9.0], [8.0, 0.0]]
    assert pointed(wanted, [left], scribbles=[scribble], masks=masks).objects == {"pim": [0], "scribble": [0.4]}
    assert pointed(wanted, [], scribbles=[scribble], masks=masks).objects == {"pim": [0], "scribble": [0]}


def test_a_region_without_a_scribble_has_one_drawn_in_its_mask_and_without_masks_is_not_asked():
    wanted, left = [box_mask(0, 0, 10, 10), box_mask(12, 0, 22, 10)], box_mask(0, 0, 4, 10)
    scribbles = [[[0.0, 0.0], [9.0, 0.0]], []]
    record = pointed(wanted, [left, wanted[1]], scribbles=scribbles)
    assert record.objects["scribble"] == [0.5, 1]
    record = pointed(wanted, [left, wanted[1]], scribbles=scribbles, masks=False)
    assert record.objects == {"pim": [0, 1]} and record.image == {"scribble": 0.5} and record.scored == record.expected
    assert pointed(wanted, [left], scribbles=[[], []], masks=False).image == {}


def test_compat_draws_points_anew_as_the_reference_does():
    wanted, left = [box_mask(0, 0, 10, 10)], box_mask(0, 0, 4, 10)
    known = {"points": [[0.0, 0.0]], "scribbles": [[[0.0, 0.0]]]}
    record = pointed(wanted, [left], **known, compat=True)
    assert record.objects == judged(wanted, [left], compat=True).objects and record.objects["pim"] == [0]
    assert pointed(wanted, [left], **known, compat=True, masks=False).objects == {"pim": [0]}
