"""Detector AP against pycocotools called directly, and what it does at the edges."""

import contextlib
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.evaluation.detector_ap import DetectorAP
from scenewright.evaluation.scoring import pack, unpack
from scenewright.layout import Layout, Sample

LABELS = ["cat", "dog", "red bus"]
IMAGE = torch.zeros(3, 20, 30, dtype=torch.uint8)


class Fake:
    """Finds in each image what it was told to, and remembers what it was asked for."""

    def __init__(self, *found):
        self.found, self.asked = list(found), []

    def detect(self, images, tags):
        self.asked += [list(x) for x in tags]
        return self.found[: len(images)]


def sample(boxes, labels, key="0"):
    return Sample(key, layout=Layout(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels))


def random_set(count=25, seed=0):
    """Layouts, and detections that are shaken, doubled, of another label, or not there."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for i in range(count):
        n = int(rng.integers(0, 6))
        low = rng.uniform(0, 0.6, (n, 2))
        boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, (n, 2))], 1)
        labels = [LABELS[k] for k in rng.integers(0, 3, n)]
        samples.append(sample(boxes, labels, f"{i:03}"))
        again = [k for k in range(n) for _ in range(int(rng.integers(0, 3)))]
        shaken = (boxes[again] + rng.normal(0, 0.02, (len(again), 4))).clip(0, 1)
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 0.01)
        names = [labels[k] if rng.random() > 0.1 else LABELS[int(rng.integers(3))] for k in again]
        scores = torch.tensor(rng.uniform(0, 1, len(again)).round(1), dtype=torch.float32)  # with ties
        found.append(Layout(torch.tensor(shaken, dtype=torch.float32), names, scores=scores))
    return samples, found


def numbers(samples, found, image=IMAGE, **settings):
    metric = DetectorAP(Fake(*found), **settings)
    metric.update([image] * len(samples), samples)
    return metric.compute()


def directly(samples, found, height=480, width=640, by_size=False):
    """COCO's own evaluation of the same boxes in pixels."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def table(layouts):
        made: Any = COCO()
        annotations = []
        for image, layout in enumerate(layouts):
            boxes = layout.boxes.double() * torch.tensor([width, height, width, height])
            for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
                one = {"id": len(annotations) + 1, "image_id": image, "category_id": LABELS.index(layout.labels[i])}
                one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                annotations.append(one | ({} if layout.scores is None else {"score": float(layout.scores[i])}))
        images, categories = [{"id": i} for i in range(len(layouts))], [{"id": i} for i in range(len(LABELS))]
        made.dataset = {"images": images, "annotations": annotations, "categories": categories}
        made.createIndex()
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(table([x.layout for x in samples]), table(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = ("detector_ap", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
    found = dict(zip(names, evaluator.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), strict=True))
    return found if by_size else {name: x for name, x in found.items() if "_" not in name or name == "detector_ap"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_are_those_of_pycocotools_called_directly(seed):
    samples, found = random_set(seed=seed)
    ours, theirs = numbers(samples, found), directly(samples, found)
    assert 0.1 < theirs["detector_ap"] < 0.9
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_by_size_are_those_of_pycocotools_called_directly(seed):
    samples, found = random_set(count=40, seed=seed)
    image = torch.zeros(3, 240, 320, dtype=torch.uint8)
    ours, theirs = numbers(samples, found, image, by_size=True), directly(samples, found, 240, 320, by_size=True)
    assert len({round(x, 6) for x in theirs.values()}) == len(theirs), "each size has a number of its own"
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)
    assert {name: ours[name] for name in ("detector_ap", "AR")} == {
        name: numbers(samples, found)[name] for name in ("detector_ap", "AR")
    }


def test_a_size_that_no_box_has_is_no_number_and_records_with_sizes_go_through_a_file():
    samples, found = random_set()
    metric = DetectorAP(Fake(*found), by_size=True)
    metric.update([IMAGE] * len(samples), samples)  # 20 by 30 pixels: all is small
    ours = metric.compute()
    assert math.isnan(ours["AP_medium"]) and math.isnan(ours["AP_large"])
    assert ours["AP_small"] == pytest.approx(ours["detector_ap"])
    assert str(metric.summarize(unpack(pack(metric.records)))) == str(ours)


def test_only_the_surest_hundred_count_as_in_coco():
    boxes = [[0.1, 0.1, 0.5, 0.5]]
    wrong = [[0.6, 0.6, 0.9, 0.9]] * 100
    found = Layout(torch.tensor(wrong + boxes), ["cat"] * 101, scores=torch.linspace(1, 0.1, 101))
    samples = [sample(boxes, ["cat"])]
    assert numbers(samples, [found])["AR"] == directly(samples, [found])["AR"] == 0


def test_what_is_found_exactly_is_perfect():
    samples, _ = random_set()
    ours = numbers(samples, [x.layout for x in samples])  # without scores: all are equally sure
    assert ours == pytest.approx(dict.fromkeys(("detector_ap", "AP50", "AP75", "AR", "iou"), 1.0))


def test_a_missing_object_lowers_recall():
    samples, _ = random_set()
    found = [x.layout.keep(torch.arange(len(x.layout)) > 0) for x in samples]
    ours = numbers(samples, found)
    assert ours["AR"] < 0.9 and ours["detector_ap"] < 0.9 and ours["iou"] < 0.9


def test_the_order_of_records_and_a_way_through_a_file_change_nothing():
    samples, found = random_set()
    metric = DetectorAP(Fake(*found))
    metric.update([IMAGE] * len(samples), samples)
    before = metric.compute()
    assert metric.summarize(metric.records[::-1]) == before
    assert metric.summarize(unpack(pack(metric.records))) == before


def test_a_record_that_comes_twice_is_two_images():
    samples, found = random_set(6)
    metric = DetectorAP(Fake(*found))
    metric.update([IMAGE] * 6, samples)
    twice = [replace(x, key=f"{x.key}{part}") for part in "ab" for x in samples]
    again = directly(sorted(twice, key=lambda x: x.key), [x for x in found for _ in range(2)])
    ours = metric.summarize(metric.records * 2)
    assert {name: ours[name] for name in again} == pytest.approx(again, abs=1e-9)


def test_each_label_is_asked_for_once_whatever_its_case_and_space():
    fake = Fake(Layout(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), ["Red  Bus"]))
    metric = DetectorAP(fake)
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1]]
    metric.update([IMAGE], [sample(boxes, ["red bus", " Cat", "Red Bus "])])
    assert fake.asked == [["red bus", "Cat"]]
    assert metric.records[0].objects["iou"] == [1.0, 0.0, 0.0]


def test_of_equal_labels_each_needs_a_detection_of_its_own():
    boxes = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]
    one = Layout(torch.tensor(boxes[:1]), ["cat"])
    assert numbers([sample(boxes, ["cat", "cat"])], [one])["AR"] == 0.5


def test_what_a_closed_set_detector_finds_besides_counts_if_another_layout_has_it():
    box = [[0.0, 0.0, 0.5, 0.5]]
    samples = [sample(box, ["cat"], "0"), sample(box, ["dog"], "1")]
    extra = Layout(torch.tensor(box * 3), ["cat", "dog", "whale"], scores=torch.tensor([0.9, 0.8, 0.7]))
    dog = Layout(torch.tensor(box), ["dog"], scores=torch.tensor([0.5]))
    # the wrong dog is surer than the right one: precision 1/2; a whale is nobody's category
    assert numbers(samples, [extra, dog])["detector_ap"] == pytest.approx(0.75)


def test_boxes_of_one_pixel_are_found_and_boxes_without_area_are_not():
    boxes = [[0, 0, 1 / 30, 1 / 20], [0.5, 0.5, 0.5, 0.8]]
    metric = DetectorAP(Fake(Layout(torch.tensor(boxes), ["cat", "dog"])))
    metric.update([IMAGE], [sample(boxes, ["cat", "dog"])])
    assert metric.records[0].objects["iou"] == [1.0, 0.0]
    assert metric.compute()["detector_ap"] == pytest.approx(0.5)


def test_an_empty_layout_has_nothing_to_find_and_no_region_at_all_no_number():
    metric = DetectorAP(Fake(Layout.empty()))
    assert all(math.isnan(x) for x in metric.compute().values())
    metric.update([IMAGE], [sample([], [])])
    assert metric.records[0].expected == 0 and not metric.records[0].problems
    assert set(metric.compute()) == {"detector_ap", "AP50", "AP75", "AR", "iou"}
    assert all(math.isnan(x) for x in metric.compute().values())


def test_a_region_without_a_label_is_not_scored_and_said():
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
    metric = DetectorAP(Fake(Layout(torch.tensor(boxes[:1]), ["cat"])))
    metric.update([IMAGE], [sample(boxes, ["cat", " "])])
    (record,) = metric.records
    assert record.scored == 1 and "without a label cannot be looked for: 1" in record.problems[0]
    assert metric.compute()["AR"] == 1


def test_a_detector_that_loses_an_image_is_refused():
    with pytest.raises(ValueError, match="Fake returned 1 layouts for 2 images"):
        DetectorAP(Fake(Layout.empty())).update([IMAGE] * 2, [sample([], [])] * 2)


def test_an_image_gets_the_same_from_a_real_detector_alone_and_among_others(tiny_groundingdino, tmp_path):
    detector = GroundingDINO(str(tiny_groundingdino(tmp_path)), box_threshold=0.2, pad_to=32, batch_size=2)
    rng = torch.Generator().manual_seed(0)
    images = [
        torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8) for size in [(40, 60), (60, 40), (50, 50)]
    ]
    samples = [sample([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]], ["cat", "red bus"], str(i)) for i in range(3)]
    together, alone = DetectorAP(detector), DetectorAP(detector)
    together.update(images, samples)
    for image, one in zip(images, samples, strict=True):
        alone.update([image], [one])
    assert sum(len(x.arrays["scores"]) for x in together.records) > 3
    for one, other in zip(together.records, alone.records, strict=True):
        assert one.objects["iou"] == pytest.approx(other.objects["iou"], abs=1e-4)
        assert one.arrays["scores"] == pytest.approx(other.arrays["scores"], abs=1e-4)
    assert together.compute() == pytest.approx(alone.compute(), abs=1e-4)
