"""SAM with a tiny network of random weights, saved and loaded as the real one is."""

import pytest
import torch

from scenewright.annotators.segmenters.sam import SAM
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.protocols import PointSegmenter, ScoringSegmenter, Segmenter

SIDE = 64
SIZES = [(60, 90), (128, 50), (64, 64), (20, 20)]
BOXES = [
    [[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.51, 0.52]],
    [],
    [[0.0, 0.0, 0.4, 1.0], [0.3, 0.7, 1.0, 1.0]],
    [[0.2, 0.2, 0.9, 0.8]],
]


def images_and_layouts():
    rng = torch.Generator().manual_seed(0)
    images = []
    for size in SIZES:
        coarse = torch.rand(1, 3, 6, 6, generator=rng)
        images.append((torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1) * 255).byte())
    return images, [Layout(torch.tensor(b).reshape(-1, 4), [f"thing {i}" for i in range(len(b))]) for b in BOXES]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_sam):
    return tiny_sam(tmp_path_factory.mktemp("sam"))


def plainly(folder, image, layout, multimask=False):
    """transformers' processor, network and post-processing on one image, as its documentation shows."""
    from transformers import SamImageProcessor, SamModel, SamProcessor

    processor, model = SamProcessor(SamImageProcessor.from_pretrained(folder)), SamModel.from_pretrained(folder)
    boxes = layout.pixel_boxes(*image.shape[1:]).tolist()
    inputs = processor(images=image, input_boxes=[boxes], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.inference_mode():
        found = model(**{k: v for k, v in inputs.items() if "sizes" not in k}, multimask_output=multimask)
    masks = processor.image_processor.post_process_masks(
        found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0]
    return masks[range(len(masks)), found.iou_scores[0].argmax(1)]


def iou(a, b):
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def test_no_images_and_no_regions_need_no_weights():
    segmenter = SAM("nowhere")
    images, _ = images_and_layouts()
    assert all(isinstance(segmenter, x) for x in (Segmenter, ScoringSegmenter, PointSegmenter))
    assert segmenter.segment([], []) == []
    assert segmenter.segment(images[:2], [Layout.empty()] * 2) == [[], []]


@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_those_of_the_network_called_plainly(folder, multimask):
    images, layouts = images_and_layouts()
    masks = SAM(str(folder), multimask=multimask).segment(images, layouts)
    assert [len(x) for x in masks] == [3, 0, 2, 1]
    shares = []
    for image, layout, found in zip(images, layouts, masks, strict=True):
        if len(layout):
            for mask, wanted in zip(found, plainly(folder, image, layout, multimask), strict=True):
                assert mask.size == tuple(image.shape[1:])
                assert iou(mask.decode(), wanted) > 0.99
                shares.append(mask.area / wanted.numel())
    assert 0.05 < sum(shares) / len(shares) < 0.95, "masks that are neither empty nor full"


def test_a_point_has_the_best_of_three_candidates(folder):
    from transformers import SamImageProcessor, SamModel, SamProcessor

    images, _ = images_and_layouts()
    points = [torch.tensor([[0.5, 0.5], [0.1, 0.9]]), torch.zeros(0, 2), torch.tensor([[0.7, 0.2]]), torch.zeros(0, 2)]
    found = SAM(str(folder)).segment_points(images, points)
    assert [len(x) for x in found] == [2, 0, 1, 0]
    processor = SamProcessor(SamImageProcessor.from_pretrained(folder))
    model = SamModel.from_pretrained(folder)
    for i in (0, 2):
        height, width = images[i].shape[1:]
        asked = [[[[x * width, y * height]] for x, y in points[i].tolist()]]
        inputs = processor(images=images[i], input_points=asked, return_tensors="pt")
        with torch.inference_mode():
            plain = model(inputs["pixel_values"], input_points=inputs["input_points"].float())
        masks = processor.image_processor.post_process_masks(
            plain.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0]
        scores, places = plain.iou_scores[0].max(1)
        for k, (mask, score) in enumerate(found[i]):
            assert mask.size == (height, width) and iou(mask.decode(), masks[k, places[k]]) > 0.99
            assert score == pytest.approx(float(scores[k]), abs=1e-4)


def test_scores_are_the_networks_own_and_their_masks_those_of_segment(folder):
    images, layouts = images_and_layouts()
    for multimask in (False, True):
        segmenter = SAM(str(folder), multimask=multimask)
        scored = segmenter.segment_scored(images, layouts)
        assert [[mask for mask, _ in some] for some in scored] == segmenter.segment(images, layouts)
        seen, boxes = segmenter._look(images[:1]), layouts[0].pixel_boxes(*segmenter._look(images[:1]).sizes[0])
        with torch.inference_mode():
            _, wanted = seen.decode([0, 0, 0], boxes)
        assert [score for _, score in scored[0]] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert len({score for _, score in scored[0]}) == 3


@pytest.mark.parametrize(("batch_size", "boxes_per_call"), [(1, 1), (2, 2), (4, 64)])
def test_a_batch_is_segmented_as_its_images_one_by_one(folder, batch_size, boxes_per_call):
    images, layouts = images_and_layouts()
    segmenter = SAM(str(folder), batch_size=batch_size, boxes_per_call=boxes_per_call)
    together = segmenter.segment(images, layouts)
    assert together == segmenter.segment(images, layouts)
    for image, layout, masks in zip(images, layouts, together, strict=True):
        (alone,) = SAM(str(folder)).segment([image], [layout])
        assert all(iou(a.decode(), b.decode()) > 0.99 for a, b in zip(masks, alone, strict=True))


def test_masks_follow_the_order_of_the_regions(folder):
    images, layouts = images_and_layouts()
    segmenter = SAM(str(folder))
    (masks,) = segmenter.segment(images[:1], layouts[:1])
    order = [2, 0, 1]
    (turned,) = segmenter.segment(images[:1], [layouts[0].keep(torch.tensor(order))])
    assert all(iou(turned[i].decode(), masks[j].decode()) > 0.99 for i, j in enumerate(order))
    assert len(set(masks)) == 3


def test_an_image_is_looked_at_once_for_all_its_boxes(folder):
    images, layouts = images_and_layouts()
    segmenter, seen = SAM(str(folder), batch_size=2, boxes_per_call=1), []
    segmenter._network.vision_encoder.register_forward_hook(
        lambda m, args, out: seen.append(len(out.last_hidden_state))
    )
    segmenter.segment(images, layouts)
    assert seen == [2, 1]


@pytest.mark.parametrize("size", [(3, 700), (700, 3), (1, 1), (1, 1000)])
@pytest.mark.parametrize("box", [[0.0, 0.0, 1.0, 1.0], [0.99, 0.99, 1.0, 1.0], [0.0, 0.4, 0.001, 0.5]])
def test_slivers_of_images_and_boxes_have_masks_of_their_images_size(folder, size, box):
    image = torch.full((3, *size), 90, dtype=torch.uint8)
    ((mask,),) = SAM(str(folder)).segment([image], [Layout(torch.tensor([box]), ["sliver"])])
    assert mask.size == size and tuple(mask.decode().shape) == size


def test_half_precision_is_for_the_encoder_and_changes_little(folder):
    images, layouts = images_and_layouts()
    exact, half = (SAM(str(folder), dtype=dtype) for dtype in ("float32", "bfloat16"))
    for a, b in zip(exact.segment(images, layouts), half.segment(images, layouts), strict=True):
        assert all(iou(x.decode(), y.decode()) > 0.8 for x, y in zip(a, b, strict=True))
    assert {p.dtype for p in half._network.vision_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half._network.prompt_encoder.parameters()} == {torch.float32}


def test_wrong_settings_and_checkpoints_are_said(folder, tmp_path):
    images, layouts = images_and_layouts()
    with pytest.raises(ValueError, match="boxes_per_call must be at least 1, got 0"):
        SAM(str(folder), boxes_per_call=0).segment(images, layouts)
    with pytest.raises(ValueError, match="dtype must be one of"):
        SAM(str(folder), dtype="int8").segment(images, layouts)
    with pytest.raises(MissingWeights, match=r"has no config\.json"):
        SAM(str(tmp_path)).segment(images, layouts)
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(CheckpointError, match="SamModel needs"):
        SAM(str(tmp_path)).segment(images, layouts)
