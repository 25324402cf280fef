"""CropPick: crops as PickScore's own lines of code score them, whose processor is another repository's."""

import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image as PILImage

from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import checkpoints_of
from scenewright.evaluation.crop_pick import CropPick
from scenewright.layout import Layout, Sample
from scenewright.protocols import Metric

ROOT = Path(__file__).parents[2]

BOXES = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.25, 1.0, 0.5], [0.5, 0.5, 0.5, 0.75]])
LAYOUT = Layout(BOXES, ["dog", "cat", "cat"], ["a red dog", "", "a photo"])
SAMPLE = Sample("a", layout=LAYOUT)


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


@pytest.fixture
def image():
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic")[0].clamp(0, 1) * 255).byte()


def test_like_the_reference_a_score_is_scale_times_cosine_of_the_truncated_crop(folders, image):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(folders[0]).eval(), CLIPProcessor.from_pretrained(folders[1])
    picture = PILImage.fromarray(image.permute(1, 2, 0).numpy())
    expected = []
    for box, text in (((0, 0, 32, 48), "a red dog"), ((16, 12, 64, 24), "cat")):
        pixels = processor(images=picture.crop(box), return_tensors="pt")
        tokens = processor(text=text, padding=True, truncation=True, max_length=20, return_tensors="pt")
        with torch.no_grad():
            seen, read = network.get_image_features(**pixels), network.get_text_features(**tokens)
            seen, read = (getattr(x, "pooler_output", x) for x in (seen, read))
            cosine = (seen / seen.norm(dim=-1, keepdim=True) * read / read.norm(dim=-1, keepdim=True)).sum()
            expected.append((network.logit_scale.exp() * cosine).item())
    clip = CLIP(folders[0], processor=folders[1])
    (record,) = CropPick(clip, compat=True).score([image], [SAMPLE])
    assert record.objects["crop_pick"][:2] == pytest.approx(expected, abs=1e-3)
    assert clip.scale == pytest.approx(20.0855, abs=1e-3)
    assert record.problems == ["region 2: its box has no whole pixel; the reference drops such a crop"]


def test_otherwise_all_of_every_crop_is_seen_and_the_mean_is_over_regions_then_images(folders, image):
    metric = CropPick(CLIP(folders[0], processor=folders[1]))
    assert isinstance(metric, Metric) and metric.higher_is_better
    metric.update([image, image], [SAMPLE, Sample("b")])
    scores = metric.records[0].objects["crop_pick"]
    assert metric.records[0].scored == 3 and metric.compute() == {"crop_pick": pytest.approx(sum(scores) / 3)}


def test_as_configured_it_names_network_and_processor():
    metric = instantiate(OmegaConf.load(ROOT / "conf" / "metric" / "crop_pick.yaml").crop_pick, _convert_="all")
    assert [(x.name, len(x.revision)) for x in checkpoints_of(metric)] == [
        ("yuvalkirstain/PickScore_v1", 40),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 40),
    ]
