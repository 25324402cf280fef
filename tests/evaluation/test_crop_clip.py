"""CropCLIP: transformers' own CLIP of each crop, for all crops at once."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image as PILImage

from scenewright.annotators.provenance import describe
from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import MissingWeights, check, checkpoints_of
from scenewright.evaluation.crop_clip import CropCLIP
from scenewright.evaluation.image_text import ImageText
from scenewright.layout import Layout, Sample
from scenewright.protocols import Metric

ROOT = Path(__file__).parents[2]

BOXES = [
    [[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0], [0.31, 0.42, 0.97, 0.58]],
    [],
    [[0.5, 0.5, 0.52, 0.51], [0.2, 0.1, 0.45, 1.0]],
    [[0.0, 0.0, 0.25, 1.0]],
]
CAPTIONS = [["a red dog", "a photo of a blue cat", "cat"], [], [], ["a red dog"]]
LABELS = [["dog", "cat", "cat"], [], ["dog", "dog"], ["dog"]]
SIZES = [(40, 60), (32, 32), (90, 50), (33, 47)]


def smooth(seed, height, width):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


def sample(key, boxes, labels, captions=()):
    return Sample(key, layout=Layout(torch.tensor(boxes).reshape(-1, 4), list(labels), list(captions)))


IMAGES = [smooth(i, *size) for i, size in enumerate(SIZES)]
SAMPLES = [sample(str(i), *x) for i, x in enumerate(zip(BOXES, LABELS, CAPTIONS, strict=True))]


@pytest.fixture(scope="module")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("crop_clip"))


@pytest.fixture(scope="module")
def clip(checkpoint):
    return CLIP(checkpoint)


def reference(checkpoint, image, layout):
    """Crop by crop as the reference: Pillow's crop of truncated corners, one processor call, one forward pass.

    Its boxes are whole pixels of a canvas of 512.
    """
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    picture = PILImage.fromarray(image.permute(1, 2, 0).numpy())
    height, width = image.shape[1:]
    scores = []
    for box, text in zip((layout.boxes * 512).int().numpy(), layout.captions or layout.labels, strict=True):
        crop = picture.crop(tuple((box * np.array([width, height] * 2) / 512).astype(np.int32).tolist()))
        try:
            inputs = processor(text=[text], images=[crop], return_tensors="pt", truncation=True, max_length=20)
        except ZeroDivisionError:  # no pixel in it: dropped
            scores.append(math.nan)
            continue
        with torch.no_grad():
            scores.append(network(**inputs).logits_per_image.item())
    return scores


def test_like_the_reference_a_score_is_transformers_logit_of_the_truncated_crop(checkpoint, clip):
    boxes = torch.tensor([[51, 102, 307, 460], [0, 0, 512, 512], [159, 215, 497, 297], [1, 500, 511, 511]]) / 512
    images = [IMAGES[0], IMAGES[3]]
    samples = [sample("a", boxes.tolist(), LABELS[0] + ["dog"], CAPTIONS[0] + ["blue"]), SAMPLES[3]]
    records = CropCLIP(clip, compat=True).score(images, samples)
    expected = [reference(checkpoint, *x) for x in zip(images, [x.layout for x in samples], strict=True)]
    for record, scores in zip(records, expected, strict=True):
        assert record.objects["crop_clip"] == pytest.approx(scores, abs=1e-3, nan_ok=True)  # of a scale of 100
    assert max(expected[0][:3]) - min(expected[0][:3]) > 1 and math.isnan(expected[0][3])


def test_of_crops_that_are_square_both_ways_say_the_same_and_of_others_not(clip):
    square = sample("a", [[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 0.5]], ["cat", "dog"])
    image = smooth(7, 32, 64)
    (plain,), (compat,) = (CropCLIP(clip, compat=x).score([image], [square]) for x in (False, True))
    assert plain.objects["crop_clip"][0] == pytest.approx(compat.objects["crop_clip"][0], abs=1e-3)
    assert abs(plain.objects["crop_clip"][1] - compat.objects["crop_clip"][1]) > 0.1


def test_what_is_at_a_long_crops_ends_counts_unless_it_is_to_be_like_the_reference(clip):
    wide = sample("a", [[0.0, 0.0, 1.0, 1.0]], ["cat"])
    one = smooth(1, 32, 128)
    other = one.clone()
    other[:, :, :32] = smooth(2, 32, 32)
    scores = {
        x: [r.objects["crop_clip"][0] for r in CropCLIP(clip, x).score([one, other], [wide] * 2)] for x in (False, True)
    }
    assert abs(scores[False][0] - scores[False][1]) > 0.1 and scores[True][0] == pytest.approx(
        scores[True][1], abs=1e-3
    )


def test_the_number_is_the_mean_over_regions_then_over_images(clip):
    metric = CropCLIP(clip)
    assert isinstance(metric, Metric) and isinstance(clip, ImageText)
    metric.update(IMAGES[:2], SAMPLES[:2])
    metric.update(IMAGES[2:], SAMPLES[2:])
    scores = [x.objects["crop_clip"] for x in metric.records]
    assert [len(x) for x in scores] == [3, 0, 2, 1]
    expected = sum(sum(x) / len(x) for x in scores if x) / 3
    assert metric.compute() == {"crop_clip": pytest.approx(expected, abs=1e-9)}


def test_neither_the_batch_nor_its_size_changes_a_score(checkpoint, clip):
    together = CropCLIP(clip).score(IMAGES, SAMPLES)
    small = CLIP(checkpoint, batch_size=1)
    for metric in (CropCLIP(clip), CropCLIP(small)):
        alone = [metric.score([image], [x])[0] for image, x in zip(IMAGES, SAMPLES, strict=True)]
        for one, other in zip(together, alone, strict=True):
            assert one.key == other.key
            # float32 leaves seven digits of a scale of 100
            assert other.objects["crop_clip"] == pytest.approx(one.objects["crop_clip"], rel=1e-5, abs=1e-4)


def test_crops_of_all_images_go_together_and_equal_texts_are_read_once(checkpoint):
    clip, seen, read = CLIP(checkpoint), [], []
    see, understand = clip._see, clip._read
    clip._see = lambda some, whole: seen.append(len(some)) or see(some, whole)
    clip._read = lambda some, device: read.append(some) or understand(some, device)
    CropCLIP(clip).score(IMAGES, SAMPLES)
    assert seen == [6] and read == [["a red dog", "a photo of a blue cat", "cat", "dog"]]


def test_a_box_of_a_pixel_or_less_is_scored_unless_the_reference_drops_its_crop(clip):
    points = sample("a", [[0.5, 0.5, 0.51, 0.51], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]], ["cat"] * 3)
    (record,) = CropCLIP(clip).score([IMAGES[0]], [points])
    assert record.scored == 3 and not record.problems
    (record,) = CropCLIP(clip, compat=True).score([IMAGES[0]], [points])
    assert record.scored == 0 and len(record.problems) == 3
    assert record.problems[2] == "region 2: its box has no whole pixel; the reference drops such a crop"


def test_without_a_caption_the_label_is_read_and_without_both_the_region_is_named(clip):
    boxes = [[0.0, 0.0, 0.5, 1.0]] * 4
    mixed = sample("a", boxes, ["cat", "cat", " ", "dog"], ["a red dog", "", "", "cat"])
    (record,) = CropCLIP(clip).score([IMAGES[0]], [mixed])
    scores = record.objects["crop_clip"]
    assert scores[1] == pytest.approx(scores[3], abs=1e-6) and scores[0] != scores[1]
    assert math.isnan(scores[2]) and record.problems == ["region 2 has neither caption nor label"]
    assert (record.expected, record.scored) == (4, 3)


def test_layouts_without_regions_need_no_weights():
    metric = CropCLIP(CLIP("nowhere"))
    metric.update(IMAGES[:1], [SAMPLES[1]])
    assert metric.records[0].expected == 0 and math.isnan(metric.compute()["crop_clip"])


def test_a_region_is_where_the_layout_says_in_an_image_of_any_size(clip):
    large = IMAGES[0].repeat_interleave(3, 1).repeat_interleave(3, 2)
    cells = replace(
        SAMPLES[0].layout, boxes=torch.tensor([[0, 0, 0.5, 0.5], [0.25, 0.5, 0.75, 1], [0.5, 0.25, 1, 0.75]])
    )
    here, there = CropCLIP(clip).score([IMAGES[0], large], [replace(SAMPLES[0], layout=cells)] * 2)
    assert there.objects["crop_clip"] == pytest.approx(here.objects["crop_clip"], abs=2)
    shifted = replace(cells, boxes=1 - cells.boxes[:, [2, 3, 0, 1]])
    (elsewhere,) = CropCLIP(clip).score([large], [replace(SAMPLES[0], layout=shifted)])
    assert elsewhere.objects["crop_clip"] != pytest.approx(here.objects["crop_clip"], abs=2)


def test_as_configured_it_names_its_weights_before_any_work():
    node = OmegaConf.load(ROOT / "conf" / "metric" / "crop_clip.yaml").crop_clip
    metric = instantiate(node, _convert_="all")
    assert [(x.name, len(x.revision)) for x in checkpoints_of(metric)] == [("openai/clip-vit-base-patch32", 40)]
    assert describe(metric)["settings"]["image_text"]["settings"]["checkpoint"] == "openai/clip-vit-base-patch32"
    node.image_text.checkpoint = "/nowhere/at/all"
    with pytest.raises(MissingWeights, match="metric.crop_clip CropCLIP: /nowhere/at/all"):
        check({"metric.crop_clip": instantiate(node)})
