"""PickScore: as its authors' lines of code score an image, with a processor that is another repository's."""

import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import checkpoints_of
from scenewright.evaluation.pick_score import PickScore
from scenewright.layout import Sample
from scenewright.protocols import Metric

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tiny_clip, tmp_path_factory):
    """The network in one folder, what prepares pictures and texts for it in another."""
    folder = tmp_path_factory.mktemp("pick")
    network, processor = folder / "network", folder / "processor"
    tiny_clip(processor, scale=3.0)
    network.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(processor / name, network / name)
    return str(network), str(processor)


def smooth(seed, height, width):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


def test_a_score_is_scale_times_cosine_of_image_and_caption(folders):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(folders[0]).eval(), CLIPProcessor.from_pretrained(folders[1])
    images, texts, expected = [smooth(0, 40, 60), smooth(1, 32, 32)], ["a red dog", "a photo of a cat"], []
    for image, text in zip(images, texts, strict=True):
        pixels = processor(images=image, return_tensors="pt")
        tokens = processor(text=text, padding=True, truncation=True, max_length=20, return_tensors="pt")
        with torch.no_grad():
            seen, read = network.get_image_features(**pixels), network.get_text_features(**tokens)
            seen, read = (getattr(x, "pooler_output", x) for x in (seen, read))
            cosine = (seen / seen.norm(dim=-1, keepdim=True) * read / read.norm(dim=-1, keepdim=True)).sum()
            expected.append((network.logit_scale.exp() * cosine).item())
    metric = PickScore(CLIP(folders[0], processor=folders[1]), compat=True)
    assert isinstance(metric, Metric) and metric.higher_is_better
    metric.update(images, [Sample(str(i), caption=x) for i, x in enumerate(texts)])
    assert [x.image["pick_score"] for x in metric.records] == pytest.approx(expected, abs=1e-3)
    assert metric.compute() == {"pick_score": pytest.approx(sum(expected) / 2, abs=1e-3)}


def test_all_of_an_image_is_seen_unless_it_is_to_be_like_published_scores(folders):
    clip, sample = CLIP(folders[0], processor=folders[1]), Sample("a", caption="a red dog")
    wide = smooth(4, 32, 96)
    other = wide.clone()
    other[:, :, :20] = smooth(5, 32, 20)
    whole, middle = (
        [x.image["pick_score"] for x in PickScore(clip, y).score([wide, other], [sample] * 2)] for y in (False, True)
    )
    assert abs(whole[0] - whole[1]) > 0.02 and middle[0] == pytest.approx(middle[1], abs=1e-3)


def test_an_image_without_caption_is_not_scored_and_needs_no_weights():
    (record,) = PickScore(CLIP("nowhere")).score([smooth(0, 8, 8)], [Sample("a")])
    assert (record.expected, record.scored, record.problems) == (1, 0, ["it has no caption"])


def test_as_configured_it_names_network_and_processor():
    node = OmegaConf.load(ROOT / "conf" / "metric" / "pick_score.yaml").pick_score
    assert [x.name for x in checkpoints_of(instantiate(node, _convert_="all"))] == [
        "yuvalkirstain/PickScore_v1",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ]
