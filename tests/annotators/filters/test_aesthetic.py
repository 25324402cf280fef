"""Aesthetic: the published predictor's number, and what is done with it."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from scenewright.annotators.filters.aesthetic import FILE, Aesthetic, affine_map
from scenewright.checkpoints import CheckpointError, MissingWeights, check, checkpoints_of
from scenewright.layout import Layout, Sample
from scenewright.protocols import Filter

WIDTH = 16


@pytest.fixture(scope="module")
def clip(tiny_clip, tmp_path_factory):
    return str(tiny_clip(tmp_path_factory.mktemp("clip")))


def published(width: int = WIDTH) -> nn.Module:
    """The network of the published file, in small: layers at the same places, nothing but dropout between them."""
    torch.manual_seed(1)
    network = nn.Module()
    network.layers = nn.Sequential(
        *(nn.Linear(width, 12), nn.Dropout(0.2), nn.Linear(12, 8), nn.Dropout(0.2), nn.Linear(8, 6)),
        *(nn.Dropout(0.1), nn.Linear(6, 4), nn.Linear(4, 1)),
    )
    return network.eval()


@pytest.fixture
def predictor(tmp_path):
    torch.save(published().state_dict(), tmp_path / FILE)
    return str(tmp_path)


def samples(count: int) -> list[Sample]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 40, 48), generator=random, dtype=torch.uint8)
    return [Sample.from_image(str(i), x, layout=Layout.empty()) for i, x in enumerate(images)]


def test_a_rating_is_the_published_networks_of_clips_direction(clip, predictor):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    some = samples(3)
    found = Aesthetic(5, predictor=predictor, checkpoint=clip)._rate(some)
    for value, sample in zip(found, some, strict=True):
        inputs = processor(text=["a"], images=[sample.image], return_tensors="pt")
        with torch.no_grad():
            expected = published().layers(network(**inputs).image_embeds)[0, 0]
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_images_below_the_limit_are_dropped_with_their_rating_whatever_the_batch(clip, predictor):
    some = samples(4)
    ratings = Aesthetic(5, predictor=predictor, checkpoint=clip)._rate(some).tolist()
    limit = sum(sorted(ratings)[1:3]) / 2
    judge = Aesthetic(limit, predictor=predictor, checkpoint=clip, batch_size=2)
    verdicts = judge.judge(some)
    assert isinstance(judge, Filter) and judge.after == "source" and judge.judge([]) == []
    assert [bool(x.image) for x in verdicts] == [round(x, 2) < limit for x in ratings]
    assert all(x.image.startswith("aesthetic rating ") and " is below " in x.image for x in verdicts if x.image)
    assert verdicts == [x for s in some for x in judge.judge([s])]


def test_a_linear_predictor_is_read_too(clip, tmp_path):
    torch.manual_seed(2)
    linear = nn.Linear(WIDTH, 1)
    torch.save(linear.state_dict(), tmp_path / "linear.pth")
    some = samples(2)
    judge = Aesthetic(5, predictor=str(tmp_path / "linear.pth"), checkpoint=clip)
    with torch.no_grad():
        expected = linear(judge._clip.of_pictures([x.image for x in some]))[:, 0]
    torch.testing.assert_close(judge._rate(some), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "it holds nothing"),
        ({"head.weight": torch.zeros(1, 4)}, "it holds head.weight"),
        ({"layers.0.weight": torch.zeros(1, 4)}, "it holds layers.0.weight"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, "is no aesthetic predictor"),
        (
            {f"layers.{i}.{x}": torch.zeros(*s) for i in (0, 2) for x, s in (("weight", (3, 4)), ("bias", (3,)))},
            "is no aesthetic predictor",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tensors, reason):
    with pytest.raises(CheckpointError, match=reason):
        affine_map(tensors, "x.pth")


def test_a_predictor_of_another_clip_is_refused(clip, tmp_path):
    torch.save(published(7).state_dict(), tmp_path / FILE)
    with pytest.raises(CheckpointError, match="reads 7 values, .* says 16; it belongs to another CLIP"):
        Aesthetic(5, predictor=str(tmp_path), checkpoint=clip).judge(samples(1))


def test_code_in_a_file_is_never_run(clip, tmp_path):
    torch.save({"layers": print}, tmp_path / FILE)
    with pytest.raises(CheckpointError):
        Aesthetic(5, predictor=str(tmp_path), checkpoint=clip).judge(samples(1))


def test_both_weights_are_named_before_anything_is_done(config, tmp_path):
    cfg = config("annotate", "experiment=embedded", "filter=[aesthetic]", "output_dir=x")
    with pytest.raises(Exception, match="set filter.aesthetic.minimum: ratings are from 1 to 10"):
        instantiate(cfg.filter.aesthetic)
    cfg.filter.aesthetic.minimum = 5
    judge = instantiate(cfg.filter.aesthetic)
    first, second = checkpoints_of(judge)
    assert (first.name, second.name) == ("openai/clip-vit-large-patch14", "trl-lib/ddpo-aesthetic-predictor")
    assert second.files == (FILE,)
    with pytest.raises(MissingWeights, match=FILE):
        check({"filter": Aesthetic(5, predictor=str(tmp_path))})
