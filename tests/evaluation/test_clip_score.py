"""CLIPScore: torchmetrics' CLIPScore of each image, before it clips what is below zero."""

import math

import pytest
import torch

from scenewright.annotators.similarity import CLIP
from scenewright.evaluation.clip_score import CLIPScore
from scenewright.layout import Sample
from scenewright.protocols import Metric

CAPTIONS = ["a red dog", "a photo of a blue cat", "cat", "a photo of a blue cat " * 9]


def smooth(seed, height, width):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


IMAGES = [smooth(0, 40, 60), smooth(1, 32, 32), smooth(2, 90, 50), smooth(3, 64, 64)]
SAMPLES = [Sample(str(i), caption=x) for i, x in enumerate(CAPTIONS)]


@pytest.fixture(scope="module")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip_score"), scale=math.log(100))


@pytest.fixture(scope="module")
def clip(checkpoint):
    return CLIP(checkpoint)


def test_of_the_middle_square_a_score_is_that_of_torchmetrics(checkpoint, clip):
    from torchmetrics.functional.multimodal import clip_score
    from transformers import CLIPModel, CLIPProcessor

    class Plain(CLIPModel):
        """Gives features as tensors, which torchmetrics expects and transformers did before 5."""

        def get_image_features(self, *args, **kwargs):
            return super().get_image_features(*args, **kwargs).pooler_output

        def get_text_features(self, *args, **kwargs):
            return super().get_text_features(*args, **kwargs).pooler_output

    made = Plain.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    records = CLIPScore(clip, compat=True).score(IMAGES[:3], SAMPLES[:3])
    expected = [clip_score(x, y, lambda: made).item() for x, y in zip(IMAGES[:3], CAPTIONS[:3], strict=True)]
    scores = [x.image["clip_score"] for x in records]
    assert [max(x, 0) for x in scores] == pytest.approx(expected, abs=1e-3) and max(expected) > 5


def test_the_logit_is_transformers_own_whatever_the_caption(checkpoint, clip):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    records = CLIPScore(clip, compat=True).score(IMAGES, SAMPLES)
    for record, image, caption in zip(records, IMAGES, CAPTIONS, strict=True):
        inputs = processor(text=[caption], images=[image], return_tensors="pt", truncation=True, max_length=20)
        with torch.no_grad():
            assert record.image["clip_score"] == pytest.approx(network(**inputs).logits_per_image.item(), abs=1e-3)


def test_all_of_an_image_is_seen_unless_only_its_middle_is_asked_for(clip):
    wide = smooth(4, 32, 96)
    other = wide.clone()
    other[:, :, :20] = smooth(5, 32, 20)
    whole, middle = (
        [x.image["clip_score"] for x in CLIPScore(clip, y).score([wide, other], SAMPLES[:1] * 2)] for y in (False, True)
    )
    assert abs(whole[0] - whole[1]) > 0.1 and middle[0] == pytest.approx(middle[1], abs=1e-3)
    square = [
        [x.image["clip_score"] for x in CLIPScore(clip, y).score(IMAGES[1:2], SAMPLES[1:2])] for y in (False, True)
    ]
    assert square[0] == pytest.approx(square[1], abs=1e-3)


def test_neither_the_batch_nor_its_size_changes_a_score(checkpoint, clip):
    together = [x.image["clip_score"] for x in CLIPScore(clip).score(IMAGES, SAMPLES)]
    one = CLIPScore(CLIP(checkpoint, batch_size=1))
    alone = [one.score([x], [y])[0].image["clip_score"] for x, y in zip(IMAGES, SAMPLES, strict=True)]
    assert alone == pytest.approx(together, rel=1e-5, abs=1e-4)  # float32 leaves seven digits of a scale of 100


def test_an_image_without_caption_is_not_scored_and_that_is_said(clip):
    metric = CLIPScore(clip)
    assert isinstance(metric, Metric)
    metric.update(IMAGES[:2], [SAMPLES[0], Sample("silent", caption=" ")])
    scored, silent = metric.records
    assert (silent.expected, silent.scored, silent.problems) == (1, 0, ["it has no caption"])
    assert metric.compute() == {"clip_score": scored.image["clip_score"]} and scored.problems == []


def test_without_any_caption_no_weights_are_needed():
    metric = CLIPScore(CLIP("nowhere"))
    metric.update(IMAGES[:1], [Sample("silent")])
    assert math.isnan(metric.compute()["clip_score"])
