"""SAMIoU against boxes told by hand, the reference's rule written out, and transformers' SAM called plainly."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.annotators.segmenters.sam import SAM
from scenewright.checkpoints import check
from scenewright.evaluation.sam_iou import SAMIoU
from scenewright.layout import Layout, RunLengths, Sample

HEIGHT, WIDTH = 20, 40
IMAGE = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)


def mask_of(x0, y0, x1, y1, size=(HEIGHT, WIDTH)):
    plane = torch.zeros(1, *size, dtype=torch.bool)
    plane[:, y0:y1, x0:x1] = True
    return RunLengths.encode(plane)[0]


def layout_of(*boxes, size=(HEIGHT, WIDTH)):
    height, width = size
    fractions = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height, width, height])
    return Layout(fractions, ["thing"] * len(boxes))


class Scored:
    """Answers with the masks and predicted IoUs that it was given, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.layouts, self.points, self.calls = answers, [], [], 0

    def segment(self, images, layouts):
        raise AssertionError("it can say more than this")

    def segment_scored(self, images, layouts):
        self.calls += 1
        self.layouts += layouts
        return [list(x) for x in self.answers]

    def segment_points(self, images, points):
        self.calls += 1
        self.points += points
        return [list(x) for x in self.answers]


class Plain:
    def __init__(self, *masks):
        self.masks = masks

    def segment(self, images, layouts):
        return [list(self.masks)]


def scores(segmenter, layout, image=IMAGE, **settings):
    metric = SAMIoU(segmenter, **settings)
    metric.update([image], [Sample("0", layout=layout)])
    return metric.records[0].objects["sam_iou"]


def test_a_mask_that_fills_its_box_scores_one_and_half_a_box_a_half():
    layout = layout_of([4, 2, 12, 10], [4, 2, 12, 10], [0, 0, 40, 20])
    answers = [(mask_of(4, 2, 12, 10), 0.9), (mask_of(4, 2, 8, 10), 0.9), (mask_of(0, 0, 40, 20), 0.9)]
    assert scores(Scored(answers), layout) == pytest.approx([1, 0.5, 1])


def test_the_extent_of_a_mask_counts_not_its_area():
    plane = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    plane[0, 2, 4] = plane[0, 9, 11] = True  # two corners
    assert scores(Scored([(RunLengths.encode(plane)[0], 0.9)]), layout_of([4, 2, 12, 10])) == pytest.approx([1])


@pytest.mark.parametrize(("predicted", "wanted"), [(0.5, 0.0), (0.51, 1.0), (-0.2, 0.0)])
def test_a_mask_that_nobody_believes_in_scores_nothing(predicted, wanted):
    answers = [(mask_of(4, 2, 12, 10), predicted)]
    assert scores(Scored(answers), layout_of([4, 2, 12, 10])) == pytest.approx([wanted])


def test_how_much_belief_is_needed_is_a_setting():
    answers = [(mask_of(4, 2, 12, 10), 0.5)]
    assert scores(Scored(answers), layout_of([4, 2, 12, 10]), min_predicted_iou=0.4) == pytest.approx([1])


@pytest.mark.parametrize("compat", [False, True])
def test_an_empty_mask_scores_nothing(compat):
    assert scores(Scored([(mask_of(0, 0, 0, 0), 0.9)]), layout_of([0, 0, 12, 10]), compat=compat) == [0]


def test_a_segmenter_without_beliefs_has_all_its_masks_taken():
    assert scores(Plain(mask_of(4, 2, 12, 10)), layout_of([4, 2, 12, 10])) == pytest.approx([1])


def reference(mask, box, predicted):
    """The rule as the reference has it: corners of the mask's pixels, the last ones included, none added."""
    ys, xs = np.nonzero(mask)
    if predicted <= 0.5 or not len(xs):
        return 0.0
    x0, y0, x1, y1 = (int(v) for v in box)
    a, b, c, d = xs.min(), ys.min(), xs.max(), ys.max()
    inner = max(0, min(x1, c) - max(x0, a)) * max(0, min(y1, d) - max(y0, b))
    return inner / ((x1 - x0) * (y1 - y0) + (c - a) * (d - b) - inner)


@pytest.mark.parametrize("seed", range(5))
def test_compat_is_the_references_rule(seed):
    rng = np.random.default_rng(seed)
    boxes, answers, wanted = [], [], []
    for _ in range(12):
        low, side = rng.uniform(0, (25, 10)), rng.uniform(2, (15, 10))
        boxes.append([*low, *(low + side)])
        left, top = rng.integers(0, 10, 2)
        mask = (rng.random((HEIGHT, WIDTH)) < 0.3) & mask_of(left, top, 30, 15).decode().numpy()
        predicted = float(rng.uniform(0.2, 1))
        answers.append((RunLengths.encode(torch.from_numpy(mask)[None])[0], predicted))
        wanted.append(reference(mask, boxes[-1], predicted))
    segmenter = Scored(answers)
    assert scores(segmenter, layout_of(*boxes), compat=True) == pytest.approx(wanted, abs=1e-5)
    assert 0 < sum(wanted) and 0 in wanted
    shown = segmenter.layouts[0].pixel_boxes(HEIGHT, WIDTH)
    assert torch.allclose(shown, torch.tensor(boxes).trunc().float(), atol=1e-4), "boxes in whole pixels"


def test_a_perfect_mask_falls_short_in_compat_and_a_single_column_vanishes():
    answers = [(mask_of(4, 2, 12, 10), 0.9), (mask_of(4, 2, 5, 10), 0.9)]
    layout = layout_of([4, 2, 12, 10], [4, 2, 5, 10])
    assert scores(Scored(answers), layout, compat=True) == pytest.approx([49 / 64, 0])
    assert scores(Scored(answers), layout) == pytest.approx([1, 1])


def test_boxes_of_one_pixel_can_score_and_smaller_ones_less():
    answers = [(mask_of(4, 2, 5, 3), 0.9)] * 3
    layout = layout_of([4, 2, 5, 3], [4, 2, 4.5, 3], [4, 2, 4, 3])
    assert scores(Scored(answers), layout) == pytest.approx([1, 0.5, 0], abs=1e-5)


def test_strict_prompts_with_the_centres_alone():
    layout = layout_of([4, 2, 12, 10], [0, 0, 40, 20])
    segmenter = Scored([(mask_of(4, 2, 8, 10), 0.9), (mask_of(0, 0, 40, 20), 0.4)])
    assert scores(segmenter, layout, strict=True) == pytest.approx([0.5, 0])
    assert segmenter.layouts == [] and torch.allclose(segmenter.points[0], torch.tensor([[0.2, 0.3], [0.5, 0.5]]))


def test_strict_needs_points_and_says_so_before_anything_is_drawn():
    metric = SAMIoU(GrabCut(), strict=True)
    message = "strict=true prompts with points, which GrabCut does not take; sam, sam2 and sam_hq do"
    with pytest.raises(ValueError, match=message):
        check({"metric.sam_iou": metric})
    with pytest.raises(ValueError, match=message):
        metric.update([IMAGE], [Sample("0", layout=layout_of([4, 2, 12, 10]))])
    check({"metric.sam_iou": SAMIoU(GrabCut())})


def test_true_masks_are_not_shown_and_a_batch_is_one_call():
    masked = Layout(torch.tensor([[0.1, 0.1, 0.3, 0.5]]), ["thing"], masks=[mask_of(4, 2, 12, 10)])
    segmenter = Scored([(mask_of(4, 2, 12, 10), 0.9)], [])
    metric = SAMIoU(segmenter)
    metric.update([IMAGE] * 2, [Sample("0", layout=masked), Sample("1", layout=Layout.empty())])
    assert segmenter.calls == 1 and segmenter.layouts[0].masks is None
    assert metric.records[1].expected == 0 and metric.compute()["sam_iou"] == pytest.approx(1)


def test_an_empty_layout_has_no_scores():
    metric = SAMIoU(Scored([]))
    metric.update([IMAGE], [Sample("0", layout=Layout.empty())])
    assert metric.records[0].objects == {"sam_iou": []} and math.isnan(metric.compute()["sam_iou"])


def test_a_real_segmenter_without_weights_finds_what_is_there():
    image = torch.full((3, 64, 64), 230, dtype=torch.uint8)
    image[:, 16:40, 20:50] = torch.tensor([200, 30, 30], dtype=torch.uint8)[:, None, None]
    (right,) = scores(GrabCut(), layout_of([20, 16, 50, 40], size=(64, 64)), image)
    (wrong,) = scores(GrabCut(), layout_of([14, 10, 60, 60], size=(64, 64)), image)
    assert right > 0.85 > wrong


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_sam):
    return tiny_sam(tmp_path_factory.mktemp("sam"))


def pictures():
    rng = torch.Generator().manual_seed(0)
    coarse = [torch.rand(1, 3, 6, 6, generator=rng) for _ in range(3)]
    sizes = [(60, 90), (90, 60), (64, 64)]
    grown = [torch.nn.functional.interpolate(x, size, mode="bicubic")[0] for x, size in zip(coarse, sizes, strict=True)]
    images = [(x.clamp(0, 1) * 255).byte() for x in grown]
    boxes = [[[5, 5, 40, 40], [20, 10, 55, 50], [0, 0, 60, 60]], [], [[10, 30, 50, 60], [3, 3, 20, 60]]]
    layouts = [layout_of(*x, size=tuple(image.shape[1:])) for x, image in zip(boxes, images, strict=True)]
    return images, [Sample(str(i), layout=x) for i, x in enumerate(layouts)]


def test_scores_are_those_of_transformers_sam_called_object_by_object(folder):
    from transformers import SamImageProcessor, SamModel, SamProcessor

    images, samples = pictures()
    metric = SAMIoU(SAM(folder), min_predicted_iou=-9.0, compat=True)
    metric.update(images, samples)
    processor: Any = SamProcessor(SamImageProcessor.from_pretrained(folder))
    model = SamModel.from_pretrained(folder)
    wanted = []
    for image, sample in zip(images, samples, strict=True):
        for box in sample.layout.pixel_boxes(*image.shape[1:]).round().tolist():
            inputs = processor(images=image, input_boxes=[[box]], return_tensors="pt")
            boxes = inputs["input_boxes"].float()
            with torch.inference_mode():
                found = model(inputs["pixel_values"], input_boxes=boxes, multimask_output=False)
            sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
            mask = processor.image_processor.post_process_masks(found.pred_masks, *sizes)[0][0, 0]
            wanted.append(reference(mask.numpy(), box, 1.0))
    assert [x for record in metric.records for x in record.objects["sam_iou"]] == pytest.approx(wanted, abs=0.03)
    assert max(wanted) > 0.3


@pytest.mark.parametrize("strict", [False, True])
def test_an_image_gets_the_same_alone_and_among_others_and_is_looked_at_once(folder, strict):
    images, samples = pictures()
    segmenter, seen = SAM(folder), []
    segmenter._network.vision_encoder.register_forward_hook(lambda m, a, out: seen.append(len(out.last_hidden_state)))
    together = SAMIoU(segmenter, strict=strict, min_predicted_iou=-9.0)
    together.update(images, samples)
    assert seen == [2], "two images with boxes, five boxes"
    alone = SAMIoU(SAM(folder, batch_size=1, boxes_per_call=1), strict=strict, min_predicted_iou=-9.0)
    for image, sample in zip(images, samples, strict=True):
        alone.update([image], [sample])
    for one, other in zip(together.records, alone.records, strict=True):
        assert one.objects["sam_iou"] == pytest.approx(other.objects["sam_iou"], abs=0.02)
