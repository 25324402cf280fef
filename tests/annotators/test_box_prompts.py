"""What the SAM family shares, with a network that answers each box with the box itself, a point with its corner."""

import pytest
import torch

from scenewright.annotators.box_prompts import (
    Seen,
    as_inputs,
    best,
    encode,
    ready,
    segment_prompts,
    thickened,
)
from scenewright.layout import Layout, RunLengths
from scenewright.networks import precision

SIZES = [(6, 9), (20, 4), (7, 7), (5, 5)]
BOXES = [
    [[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.75, 0.75], [0.5, 0.0, 1.0, 0.5]],
    [],
    [[0.0, 0.5, 0.5, 1.0]],
    [[0.4, 0.2, 0.8, 1.0], [0.0, 0.0, 0.4, 0.4]],
]


class Framer:
    """Sees images as 8 by 8 and draws each box at the image's own size, inside positive; is as sure as it is wide."""

    def __init__(self, boxes_that_fit=1000, images_that_fit=1000):
        self.boxes_that_fit, self.images_that_fit = boxes_that_fit, images_that_fit
        self.looks, self.calls = [], []

    def look(self, images):
        self.looks.append(len(images))
        if len(images) > self.images_that_fit:
            raise torch.OutOfMemoryError("images")

        def decode(places, boxes):
            self.calls.append(places)
            if len(boxes) > self.boxes_that_fit:
                raise torch.OutOfMemoryError("boxes")
            if boxes.shape[1] == 2:
                boxes = torch.cat([torch.zeros_like(boxes), boxes], 1)
            # (m, 1, 4): fractions, for enlarge to draw
            return (boxes / 8)[:, None], (boxes[:, 2] - boxes[:, 0]) / 8

        def enlarge(i, logits):
            return torch.stack([framed(box, *images[i].shape[1:]) for box in logits[:, 0]])

        return Seen([(8, 8)] * len(images), decode, enlarge)


def framed(box, height, width):
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))[None]


def images_and_layouts():
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in SIZES]
    return images, [Layout(torch.tensor(b).reshape(-1, 4), ["thing"] * len(b)) for b in BOXES]


def scored(framer, prompts, batch_size=8, boxes_per_call=64, across_images=True):
    images, _ = images_and_layouts()
    sizes = {"batch_size": batch_size, "boxes_per_call": boxes_per_call}
    return segment_prompts(images, prompts, framer.look, **sizes, across_images=across_images)


def run(framer, **options):
    _, layouts = images_and_layouts()
    return [[mask for mask, _ in one] for one in scored(framer, [x.boxes for x in layouts], **options)]


def expected():
    images, layouts = images_and_layouts()
    shapes = [image.shape[1:] for image in images]
    return [
        [RunLengths.encode(framed(box, *shape)[None])[0] for box in layout.boxes]
        for shape, layout in zip(shapes, layouts, strict=True)
    ]


def test_nothing_to_segment_asks_nobody():
    framer = Framer()
    assert segment_prompts([], [], framer.look, batch_size=1, boxes_per_call=1) == []
    assert scored(framer, [torch.zeros(0, 4)] * 4) == scored(framer, [torch.zeros(0, 2)] * 4) == [[]] * 4
    assert framer.looks == []


@pytest.mark.parametrize("across_images", [True, False])
@pytest.mark.parametrize("boxes_per_call", [1, 2, 4, 64])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_region_gets_its_own_mask_however_the_work_is_cut(batch_size, boxes_per_call, across_images):
    framer = Framer()
    settings = {"batch_size": batch_size, "boxes_per_call": boxes_per_call, "across_images": across_images}
    assert run(framer, **settings) == expected()
    assert sum(framer.looks) == 3, "each image with regions is looked at once"
    assert max(map(len, framer.calls)) <= boxes_per_call
    assert across_images or all(len(set(places)) == 1 for places in framer.calls)


def test_one_call_decodes_the_boxes_of_several_images():
    framer = Framer()
    run(framer)
    assert framer.calls == [[0, 0, 0, 1, 2, 2]]


def test_what_does_not_fit_the_memory_is_halved():
    framer = Framer(boxes_that_fit=1)
    assert run(framer) == expected()
    assert framer.looks == [3], "only the boxes are halved"
    framer = Framer(images_that_fit=1)
    assert run(framer) == expected()


def test_one_box_that_does_not_fit_is_said():
    with pytest.raises(torch.OutOfMemoryError):
        run(Framer(boxes_that_fit=0))


def test_large_masks_are_enlarged_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("scenewright.annotators.box_prompts._PIXELS_AT_ONCE", 2 * 6 * 9)
    assert run(Framer()) == expected()


@pytest.mark.parametrize("setting", ["batch_size", "boxes_per_call"])
def test_a_size_below_one_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        run(Framer(), **{setting: 0})


@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1), (3, 5, 7), (2, 40, 3)])
def test_encoding_where_the_masks_are_changes_nothing(shape):
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4
    assert encode(masks) == RunLengths.encode(masks)
    assert all(torch.equal(x.decode(), mask) for x, mask in zip(encode(masks), masks, strict=True))


@pytest.mark.parametrize("boxes_per_call", [1, 4])
def test_every_mask_keeps_the_score_that_came_with_it(boxes_per_call):
    _, layouts = images_and_layouts()
    found = scored(Framer(), [x.boxes for x in layouts], boxes_per_call=boxes_per_call)
    for layout, some in zip(layouts, found, strict=True):
        widths = (layout.boxes[:, 2] - layout.boxes[:, 0]).tolist()
        assert [score for _, score in some] == pytest.approx(widths, abs=1e-6)


def test_points_are_fractions_of_the_image_too():
    images, _ = images_and_layouts()
    points = [torch.tensor([[0.5, 0.25]]), torch.zeros(0, 2), torch.tensor([[1.0, 1.0], [0.0, 0.5]]), torch.zeros(0, 2)]
    found = scored(Framer(), points)
    assert [len(x) for x in found] == [1, 0, 2, 0]
    for image, some, wanted in zip(images, ([mask for mask, _ in one] for one in found), points, strict=True):
        boxes = torch.cat([torch.zeros_like(wanted), wanted], 1)
        assert some == [RunLengths.encode(framed(box, *image.shape[1:])[None])[0] for box in boxes]


def test_for_a_point_there_are_candidates_whatever_the_setting_for_boxes():
    boxes, points = as_inputs(torch.zeros(3, 4), False), as_inputs(torch.zeros(3, 2), False)
    assert boxes["input_boxes"].shape == (3, 1, 4) and not boxes["multimask_output"]
    assert points["input_points"].shape == (3, 1, 1, 2) and points["multimask_output"]
    assert as_inputs(torch.zeros(3, 4), True)["multimask_output"]


def test_the_best_candidate_has_the_highest_score():
    logits = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2)
    chosen, scores = best(logits, torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.1]]))
    assert torch.equal(chosen, torch.stack([logits[0, 1], logits[1, 0]]))
    assert scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(
    ("size", "found"), [((5, 9), (5, 9)), ((1, 64), (1, 64)), ((1, 65), (2, 65)), ((640, 2), (640, 10))]
)
def test_only_what_would_vanish_is_thickened(size, found):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    thick = thickened(image, 64)
    assert tuple(thick.shape[1:]) == found
    assert min(found) * 64 / max(found) >= 1 or size == found
    assert torch.equal(thick[:, :: found[0] // size[0], :: found[1] // size[1]], image)


def test_only_what_sees_the_image_is_halved_and_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "decoder": torch.nn.Linear(2, 2)})
    encoder = network["encoder"]
    assert ready(network, encoder, [encoder], "bfloat16", compile=True) is network
    assert encoder.weight.dtype == torch.bfloat16 and network["decoder"].weight.dtype == torch.float32
    assert compiled == [encoder] and not network.training
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'half'"):
        precision("half")
