"""Layout success on boxes whose IoUs can be told by hand, and against a definition pixel by pixel."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.evaluation.layout_success import LayoutSuccess
from scenewright.evaluation.scoring import Record
from scenewright.layout import Layout, Sample

IMAGE = torch.zeros(3, 20, 30, dtype=torch.uint8)
LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


class Fake:
    def __init__(self, *found):
        self.found, self.asked = list(found), []

    def detect(self, images, tags):
        self.asked += [list(x) for x in tags]
        return self.found[: len(images)]


def layout_of(boxes, labels):
    return Layout(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)


def judged(layout, found, **settings) -> Record:
    metric = LayoutSuccess(Fake(found), **settings)
    metric.update([IMAGE], [Sample("0", layout=layout)])
    return metric.records[0]


def random_boxes(rng, n, grid=16):
    """Boxes on a grid, so that pixels tell their areas exactly."""
    low = rng.integers(0, grid - 4, (n, 2))
    return np.concatenate([low, np.minimum(low + rng.integers(3, 9, (n, 2)), grid)], 1) / grid


def pixels(box, grid=16):
    x0, y0, x1, y1 = (round(v * grid) for v in box)
    plane = np.zeros((grid, grid), bool)
    plane[y0:y1, x0:x1] = True
    return plane


def pixel_iou(one, other):
    return (one & other).sum() / max(1, (one | other).sum())


def test_layouts_that_are_kept_exactly_succeed():
    layout = layout_of([LEFT, RIGHT, [0.25, 0.25, 0.75, 0.75]], ["cat", "dog", "cat"])
    metric = LayoutSuccess(Fake(layout))
    metric.update([IMAGE], [Sample("0", layout=layout)])
    assert metric.compute() == {"layout_success": 1, "miou": 1, "image_success": 1, "o_miou": 1}


def test_an_object_that_is_missing_or_of_another_label_fails():
    layout = layout_of([LEFT, RIGHT], ["cat", "dog"])
    record = judged(layout, layout_of([LEFT, RIGHT], ["cat", "whale"]))
    assert record.objects == {"layout_success": [1, 0], "miou": [1, 0]}
    assert record.image == {"image_success": 0}
    assert judged(layout, Layout.empty()).objects["miou"] == [0, 0]


def test_labels_are_asked_for_once_and_compared_without_case():
    fake = Fake(layout_of([LEFT, RIGHT], ["CAT", "cat"]))
    metric = LayoutSuccess(fake)
    metric.update([IMAGE], [Sample("0", layout=layout_of([RIGHT, LEFT], ["Cat", " cat "]))])
    assert fake.asked == [["Cat"]] and metric.compute()["layout_success"] == 1


@pytest.mark.parametrize(("width", "success"), [(0.5, 1.0), (0.49, 0.0)])
def test_half_an_object_is_just_enough(width, success):
    whole, part = layout_of([[0, 0, 1, 1]], ["cat"]), layout_of([[0, 0, width, 1]], ["cat"])
    record = judged(whole, part)
    assert record.objects["layout_success"] == [success] and record.objects["miou"] == [pytest.approx(width)]
    assert judged(whole, part, threshold=0.4).objects["layout_success"] == [1.0]


def test_two_regions_of_one_label_never_share_a_detection():
    layout = layout_of([LEFT, [0.0, 0.0, 0.5, 0.9]], ["cat", "cat"])
    assert sorted(judged(layout, layout_of([LEFT], ["cat"])).objects["layout_success"]) == [0, 1]


def test_matches_have_the_largest_sum_not_the_first_best():
    # the first region fits the first detection best, but the second region fits nothing else
    first, second = [0.0, 0.0, 0.6, 1.0], [0.0, 0.0, 0.4, 1.0]
    found = layout_of([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.8, 1.0]], ["cat", "cat"])
    assert judged(layout_of([first, second], ["cat", "cat"]), found).objects["miou"] == pytest.approx([0.75, 0.8])


@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_those_of_pixels_and_of_trying_every_match(seed):
    rng = np.random.default_rng(seed)
    n, m = 4, int(rng.integers(0, 6))
    boxes, others = random_boxes(rng, n), random_boxes(rng, m)
    others[: min(n, m)] = np.clip(boxes[: min(n, m)] + rng.integers(-1, 2, (min(n, m), 1)) / 16, 0, 1)
    labels, names = (
        [["cat", "dog"][k] for k in rng.integers(0, 2, n)],
        [["cat", "dog"][k] for k in rng.integers(0, 2, m)],
    )
    record = judged(layout_of(boxes, labels), layout_of(others, names))

    def iou(i, k):
        same = k is not None and labels[i] == names[k]
        return pixel_iou(pixels(boxes[i]), pixels(others[k])) if same else 0.0

    every = [*range(m), *[None] * n]
    most = max(sum(iou(i, k) for i, k in enumerate(places)) for places in permutations(every, n))
    # several matches may be as good
    best = [None if k < 0 else k for k in record.arrays["matched"].tolist()]
    assert sum(iou(i, k) for i, k in enumerate(best)) == pytest.approx(most)
    assert record.objects["miou"] == pytest.approx([iou(i, k) for i, k in enumerate(best)])
    assert len([k for k in best if k is not None]) == len({k for k in best if k is not None})
    shared = []
    for i, k in combinations(range(n), 2):
        wanted = pixels(boxes[i]) & pixels(boxes[k])
        if wanted.any():
            a, b = best[i], best[k]
            there = np.zeros_like(wanted) if a is None or b is None else pixels(others[a]) & pixels(others[b])
            shared.append(pixel_iou(wanted, there))
    assert record.image.get("o_miou") == (pytest.approx(np.mean(shared)) if shared else None)


def test_detections_that_do_not_overlap_share_nothing():
    layout = layout_of([[0.0, 0.0, 0.6, 0.6], [0.4, 0.4, 1.0, 1.0]], ["cat", "dog"])
    apart = layout_of([[0.0, 0.0, 0.3, 0.3], [0.7, 0.7, 1.0, 1.0]], ["cat", "dog"])
    assert judged(layout, apart).image["o_miou"] == 0
    assert judged(layout, layout_of([[0.0, 0.0, 0.6, 0.6]], ["cat"])).image["o_miou"] == 0


def test_a_layout_without_overlaps_has_no_such_score_and_misses_none():
    layout = layout_of([LEFT, RIGHT], ["cat", "dog"])
    record = judged(layout, layout)
    assert "o_miou" not in record.image and record.scored == record.expected == 5
    crossed = layout_of([LEFT, [0.4, 0.0, 1.0, 1.0]], ["cat", "dog"])
    assert "o_miou" in judged(crossed, crossed).image
    assert "o_miou" not in judged(crossed, crossed, min_overlap=0.2).image


def test_rates_are_over_all_regions_and_the_others_over_images():
    one, three = layout_of([LEFT], ["cat"]), layout_of([LEFT, RIGHT, [0.2, 0.2, 0.8, 0.8]], ["cat", "dog", "bus"])
    metric = LayoutSuccess(Fake(one, Layout.empty()))
    metric.update([IMAGE] * 2, [Sample("0", layout=one), Sample("1", layout=three)])
    assert metric.compute() == {"layout_success": 0.25, "miou": 0.25, "image_success": 0.5, "o_miou": 0}
    assert metric.summarize(metric.records[::-1]) == metric.compute()


def test_an_empty_layout_has_no_scores():
    record = judged(Layout.empty(), Layout.empty())
    assert record.expected == 0 and not record.problems
    metric = LayoutSuccess(Fake())
    assert set(metric.compute()) == {"layout_success", "miou", "image_success", "o_miou"}
    assert all(math.isnan(x) for x in metric.compute().values())


def test_boxes_of_one_pixel_are_found_and_boxes_without_area_are_not():
    layout = layout_of([[0, 0, 1 / 30, 1 / 20], [0.5, 0.5, 0.5, 0.8]], ["cat", "dog"])
    record = judged(layout, layout)
    assert record.objects["layout_success"] == [1, 0] and record.image == {"image_success": 0}


def test_a_region_without_a_label_is_not_scored_and_said():
    layout = layout_of([LEFT, [0.4, 0.0, 1.0, 1.0]], ["cat", ""])
    record = judged(layout, layout)
    assert record.objects["miou"][0] == 1 and math.isnan(record.objects["miou"][1])
    assert math.isnan(record.image["image_success"]) and "o_miou" not in record.image
    assert "without a label" in record.problems[0]


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_that_says_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        LayoutSuccess(Fake(), threshold=threshold)


def test_an_image_gets_the_same_from_a_real_detector_alone_and_among_others(tiny_groundingdino, tmp_path):
    settings = {"box_threshold": 0.2, "nms_threshold": None, "pad_to": 32, "batch_size": 3}
    detector = GroundingDINO(str(tiny_groundingdino(tmp_path)), **settings)
    rng = torch.Generator().manual_seed(0)
    sizes = [(40, 60), (60, 40), (50, 50)]
    images = [torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
    found = detector.detect(images, [["cat", "dog"]] * 3)
    # layouts near what such a network sees, so that there is something to match
    grow = torch.tensor([-0.05, -0.05, 0.05, 0.05])
    layouts = [layout_of((x.boxes[:4] + grow).clamp(0, 1).tolist(), x.labels[:4]) for x in found]
    samples = [Sample(str(i), layout=x) for i, x in enumerate(layouts)]
    together, alone = LayoutSuccess(detector), LayoutSuccess(detector)
    together.update(images, samples)
    for image, one in zip(images, samples, strict=True):
        alone.update([image], [one])
    assert together.compute() == pytest.approx(alone.compute(), abs=1e-4, nan_ok=True)
    assert 0 < together.compute()["miou"] < 1
