"""Tag2Text's tagging, loaded from a small file of the published form."""

import runpy
from pathlib import Path

import pytest
import torch

from scenewright.annotators.recognition.tags import tag2text_tags
from scenewright.annotators.recognition.weights import read_network
from scenewright.annotators.taggers.tag2text import FILE, Tag2Text
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import decode
from scenewright.protocols import Tagger

HELP = runpy.run_path(str(Path(__file__).with_name("published_taggers.py")))
NAMES = ["man", "one", "dog", "orange", "orange", "run"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tag2text")
    HELP["write"](path / FILE, HELP["published"]("Tag2Text"))
    (path / "tag2text_ori_tag_list.txt").write_text("\n".join(NAMES))
    return path


@pytest.fixture
def images(picture):
    return [decode(picture("PNG", size=size, seed=i)) for i, size in enumerate([(90, 40), (33, 70), (64, 64)])]


def test_no_image_has_no_tags(folder):
    assert Tag2Text(str(folder)).tag([]) == []
    assert isinstance(Tag2Text(), Tagger)


def test_every_class_has_a_linear_map_of_its_own(folder):
    tensors = HELP["published"]("Tag2Text")
    network = read_network(folder / FILE, "Tag2Text")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    hidden = network.decoder(tensors["label_embed.weight"][None], network.see(pixels))
    plain = [[hidden[b, c] @ tensors["fc.W"][0, c] + tensors["fc.b"][0, c] for c in range(6)] for b in range(2)]
    torch.testing.assert_close(network(pixels), torch.tensor(plain), atol=1e-5, rtol=0)


def test_an_images_tags_do_not_depend_on_its_batch(folder, images):
    tagger = Tag2Text(str(folder), thresholds=0.6, batch_size=2)
    together = tagger.tag(images)
    assert together == [tagger.tag([x])[0] for x in images] == tagger.tag(images)
    assert any(together) and all(set(x) < set(NAMES) for x in together)


def test_upstreams_thresholds_and_deletions_are_the_default(folder):
    tags = Tag2Text(str(folder))._tags
    torch.testing.assert_close(tags.thresholds, torch.tensor([0.7, 1.0, 0.68, 0.68, 0.68, 0.68]))


def test_a_name_of_two_classes_comes_once_and_deleted_ones_never(folder, images):
    assert Tag2Text(str(folder), thresholds=0.0).tag(images) == [["man", "dog", "orange", "run"]] * 3
    assert Tag2Text(str(folder), thresholds=0.0, deleted=[]).tag(images[:1]) == [["man", "one", "dog", "orange", "run"]]
    assert Tag2Text(str(folder), thresholds=0.0, deleted=["orange"]).tag(images[:1]) == [["man", "one", "dog", "run"]]


def test_things_only_leaves_out_actions_and_attributes_of_the_published_list(folder, tmp_path, images):
    HELP["write"](tmp_path / FILE, HELP["published"]("Tag2Text", classes=3429))
    (every,) = Tag2Text(str(tmp_path), thresholds=0.0).tag(images[:1])
    (things,) = Tag2Text(str(tmp_path), thresholds=0.0, things_only=True).tag(images[:1])
    assert {"kayak", "stare", "thin"} <= set(every)
    assert things[0] == "tennis" and things[-1] == "kayak" and "stare" not in things and "back" not in things
    assert set(things) <= set(tag2text_tags()[:3012])
    with pytest.raises(CheckpointError, match="things_only needs the 3429 classes of the published weights, got 6"):
        Tag2Text(str(folder), things_only=True).tag(images)


def test_missing_weights_are_named(tmp_path, images):
    with pytest.raises(MissingWeights, match=f"has no {FILE}"):
        Tag2Text(str(tmp_path)).tag(images)
