"""AttributeAccuracy: CLIP's choice among a group's prompts, of the regions that name one of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import checkpoints_of
from scenewright.evaluation.attribute_accuracy import AttributeAccuracy
from scenewright.layout import Layout, Sample
from scenewright.protocols import Metric

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
GROUPS = {"colour": list(COLOURS), "texture": ["rubber", "fluffy"]}
QUARTERS = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]


class Seer:
    """Sees the mean colour of a picture, and reads the colours and textures that a text names; blue is rubber."""

    def of_pictures(self, pictures, whole=False):
        colours = torch.stack([x.float().mean((1, 2)) for x in pictures]) / 255
        return torch.nn.functional.normalize(colours, dim=1)

    def of_texts(self, texts, device):
        rows = [[float(x in text.lower()) for x in COLOURS] for text in texts]
        rows = [[0.0, 0.5, 1.0] if "rubber" in text else x for x, text in zip(rows, texts, strict=True)]
        rows = [[1.0, 0.5, 0.0] if "fluffy" in text else x for x, text in zip(rows, texts, strict=True)]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    def logits(self, cosines):
        return cosines


def quarters(*colours):
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    for box, colour in zip(QUARTERS, colours, strict=True):
        x0, y0, x1, y1 = (torch.tensor(box) * torch.tensor([60, 40, 60, 40])).int().tolist()
        image[:, y0:y1, x0:x1] = torch.tensor(COLOURS[colour])[:, None, None]
    return image


def sample(key, labels, captions=(), boxes=None):
    boxes = torch.tensor(QUARTERS[: len(labels)] if boxes is None else boxes).reshape(-1, 4)
    return Sample(key, layout=Layout(boxes, list(labels), list(captions)))


IMAGE = quarters("red", "green", "blue", "red")


def test_right_is_the_attribute_that_is_chosen_among_all_of_its_group():
    metric = AttributeAccuracy(Seer(), GROUPS)
    assert isinstance(metric, Metric)
    metric.update([IMAGE], [sample("a", ["red dog", "red cat", "Blue, cat", "green ball"])])
    (record,) = metric.records
    np.testing.assert_array_equal(record.arrays["colour"], [1, 0, 1, 0])
    assert metric.compute()["colour"] == metric.compute()["attribute_accuracy"] == 0.5
    assert record.objects["local_clip"] == pytest.approx([1, 0, 1, 0], abs=1e-6)


def test_a_region_that_names_none_or_several_is_not_asked_and_misses_nothing():
    metric = AttributeAccuracy(Seer(), GROUPS)
    metric.update([IMAGE], [sample("a", ["red dog", "red and green cat", "reddish dog", "infrared"])])
    (record,) = metric.records
    np.testing.assert_array_equal(record.arrays["colour"], [1, math.nan, math.nan, math.nan])
    assert np.isnan(record.arrays["texture"]).all() and "texture" not in record.image
    assert record.expected == record.scored == 4 + 2 and not record.problems
    assert metric.compute()["colour"] == 1


def test_an_attribute_is_looked_for_in_the_caption_and_in_the_label():
    (record,) = AttributeAccuracy(Seer(), GROUPS).score([IMAGE], [sample("a", ["red dog", "cat"], ["a dog", "GREEN."])])
    np.testing.assert_array_equal(record.arrays["colour"], [1, 1])
    (record,) = AttributeAccuracy(Seer(), GROUPS).score([IMAGE], [sample("a", ["red dog"], ["a blue dog"])])
    assert np.isnan(record.arrays["colour"]).all()


def test_the_numbers_are_means_over_regions_of_an_image_then_over_images():
    metric = AttributeAccuracy(Seer(), GROUPS)
    first = sample("a", ["red dog", "red cat", "red rubber dog", "rubber dog"])  # 1, 0, 0 and 1, 0
    metric.update([IMAGE] * 3, [first, sample("b", ["red dog"]), sample("c", ["dog"])])
    numbers = metric.compute()
    assert numbers["colour"] == pytest.approx((1 / 3 + 1) / 2)
    assert numbers["texture"] == pytest.approx(1 / 2)
    assert numbers["attribute_accuracy"] == pytest.approx((2 / 5 + 1) / 2)


def test_regions_without_text_are_named_and_layouts_without_regions_are_empty():
    metric = AttributeAccuracy(Seer(), GROUPS)
    empty, silent = metric.score([IMAGE] * 2, [sample("a", []), sample("b", ["red dog", " "])])
    assert empty.expected == 0 and empty.objects == {"local_clip": []}
    assert silent.problems == ["region 1 has neither caption nor label"] and silent.scored == silent.expected - 1
    assert metric.score([IMAGE], [sample("a", [])])[0].expected == 0


def test_a_box_of_a_pixel_or_none_is_a_crop_of_one():
    points = sample("a", ["red dog", "red dog"], boxes=[[0.1, 0.1, 0.11, 0.11], [1.0, 1.0, 1.0, 1.0]])
    (record,) = AttributeAccuracy(Seer(), GROUPS).score([IMAGE], [points])
    np.testing.assert_array_equal(record.arrays["colour"], [1, 1])


@pytest.fixture(scope="module")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("attributes"))


def smooth(seed, height, width):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


IMAGES = [smooth(i, 64, 64 + 16 * i) for i in range(6)]
SAMPLES = [sample(str(i), [f"{x} dog" for x in ("red", "blue", "green", "red")][: i % 5]) for i in range(6)]


def test_like_the_reference_the_choice_is_transformers_own_of_the_crop(checkpoint):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    records = AttributeAccuracy(CLIP(checkpoint), GROUPS, compat=True).score(IMAGES, SAMPLES)
    prompts, seen = [f"a {x} object" for x in COLOURS], set()
    for image, one, record in zip(IMAGES, SAMPLES, records, strict=True):
        boxes = one.layout.pixel_boxes(*image.shape[1:]).int().tolist()
        for i, ((x0, y0, x1, y1), label) in enumerate(zip(boxes, one.layout.labels, strict=True)):
            crop = image[:, y0:y1, x0:x1]
            with torch.no_grad():
                answer = network(**processor(text=prompts, images=[crop], padding=True, return_tensors="pt"))
                phrase = network(**processor(text=[label], images=[crop], return_tensors="pt"))
            chosen = list(COLOURS)[answer.logits_per_image.argmax()]
            seen.add(chosen in label)
            assert record.arrays["colour"][i] == (chosen in label)
            cosine = (phrase.image_embeds @ phrase.text_embeds.T).item()
            assert record.objects["local_clip"][i] == pytest.approx(cosine, abs=1e-5)
    assert seen == {True, False}


def test_neither_the_batch_nor_its_size_changes_a_score(checkpoint):
    together = AttributeAccuracy(CLIP(checkpoint), GROUPS).score(IMAGES, SAMPLES)
    metric = AttributeAccuracy(CLIP(checkpoint, batch_size=1), GROUPS)
    for image, one, expected in zip(IMAGES, SAMPLES, together, strict=True):
        (record,) = metric.score([image], [one])
        assert record.image == expected.image
        assert record.objects["local_clip"] == pytest.approx(expected.objects["local_clip"], abs=1e-5)


def test_as_configured_it_asks_for_the_protocols_attributes():
    node = OmegaConf.load(ROOT / "conf" / "metric" / "attribute_accuracy.yaml").attribute_accuracy
    metric = instantiate(node, _convert_="all")
    plain = AttributeAccuracy(metric.image_text)
    assert {k: tuple(v) for k, v in metric.attributes.items()} == plain.attributes and metric.prompt == plain.prompt
    assert [(x.name, len(x.revision)) for x in checkpoints_of(metric)] == [
        ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 40)
    ]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"prompt": "an object"}, "prompt must have {attribute} in it"),
        ({"attributes": {"colour": ["red"]}}, "group 'colour' must have another name or more attributes"),
        ({"attributes": {"local_clip": ["red", "blue"]}}, "group 'local_clip' must have another name"),
    ],
)
def test_settings_that_ask_nothing_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        AttributeAccuracy(Seer(), **settings)
