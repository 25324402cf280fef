"""TICLIP: raw cosines of images and of the scene, or of the whole prompt."""

import math

import pytest
import torch

from scenewright.annotators.similarity import CLIP
from scenewright.evaluation.ti_clip import TICLIP
from scenewright.layout import Sample
from scenewright.protocols import Metric


def smooth(seed, height, width):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


IMAGES = [smooth(0, 32, 32), smooth(1, 48, 48)]
SAMPLES = [
    Sample("a", caption="a red dog", metadata={"background_prompt": "a photo of a background"}),
    Sample("b", caption="a blue cat", metadata={"background_prompt": "blue"}),
]


@pytest.fixture(scope="module")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("ti_clip"))


@pytest.fixture(scope="module")
def clip(checkpoint):
    return CLIP(checkpoint)


def cosines(checkpoint, texts):
    """transformers' own features, normalised by hand."""
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    found = []
    for image, text in zip(IMAGES, texts, strict=True):
        with torch.no_grad():
            answer = network(**processor(text=[text], images=[image], return_tensors="pt"))
        seen, read = answer.image_embeds[0].double(), answer.text_embeds[0].double()
        found.append((seen @ read / seen.norm() / read.norm()).item())
    return found


@pytest.mark.parametrize("prompt", ["background", "caption"])
def test_a_score_is_the_raw_cosine_of_image_and_prompt(checkpoint, clip, prompt):
    texts = [x.caption if prompt == "caption" else x.metadata["background_prompt"] for x in SAMPLES]
    expected = cosines(checkpoint, texts)
    metric = TICLIP(clip, prompt=prompt)
    assert isinstance(metric, Metric)
    metric.update(IMAGES, SAMPLES)
    assert [x.image["ti_clip"] for x in metric.records] == pytest.approx(expected, abs=1e-5)
    assert metric.compute() == {"ti_clip": pytest.approx(sum(expected) / 2, abs=1e-5)}
    assert abs(expected[0] - expected[1]) > 0.01 and max(map(abs, expected)) <= 1


def test_an_image_does_not_change_the_score_of_another(checkpoint):
    together = TICLIP(CLIP(checkpoint)).score(IMAGES, SAMPLES)
    (alone,) = TICLIP(CLIP(checkpoint, batch_size=1)).score(IMAGES[1:], SAMPLES[1:])
    assert alone.image["ti_clip"] == pytest.approx(together[1].image["ti_clip"], abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "why"), [("background", "no metadata.background_prompt"), ("caption", "no caption")]
)
def test_without_its_prompt_an_image_is_not_scored_and_that_is_said(prompt, why):
    metric = TICLIP(CLIP("nowhere"), prompt=prompt)
    metric.update(IMAGES[:1], [Sample("a", metadata={"background_prompt": None})])
    (record,) = metric.records
    assert (record.expected, record.scored) == (1, 0) and why in record.problems[0]
    assert math.isnan(metric.compute()["ti_clip"])


def test_a_prompt_that_is_none_is_refused():
    with pytest.raises(ValueError, match='prompt must be "background" or "caption", got \'scene\''):
        TICLIP(CLIP("nowhere"), prompt="scene")
