"""RAM, loaded from a small file of the published form."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.recognition.weights import read_network
from scenewright.annotators.taggers.ram import FILE, RAM
from scenewright.checkpoints import CheckpointError, MissingWeights, checkpoints_of
from scenewright.layout import decode
from scenewright.protocols import Tagger

HELP = runpy.run_path(str(Path(__file__).with_name("published_taggers.py")))
NAMES = ["ant", "bee", "cow", "dog", "eel", "fox"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ram")
    HELP["write"](path / FILE, HELP["published"]("RAM"))
    (path / "ram_tag_list.txt").write_text("\n".join(NAMES))
    (path / "ram_tag_list_threshold.txt").write_text("0.5\n" * 6)
    return path


@pytest.fixture
def images(picture):
    return [decode(picture("PNG", size=size, seed=i)) for i, size in enumerate([(90, 40), (33, 70), (64, 64), (5, 90)])]


def probabilities(folder, image):
    """What the network says of a picture that Pillow resized."""
    plain = PILImage.fromarray(image.permute(1, 2, 0).numpy()).resize((64, 64), PILImage.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(plain)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return read_network(folder / FILE, "RAM")(((pixels - mean[:, None, None]) / std[:, None, None])[None])[0].sigmoid()


def test_no_image_has_no_tags(folder):
    assert RAM(str(folder)).tag([]) == []
    assert isinstance(RAM(), Tagger)


def test_tags_are_those_whose_probability_is_above_the_threshold_in_the_lists_order(folder, images):
    for image in images:
        scores = probabilities(folder, image)
        threshold = float(scores.sort().values[2:4].mean())  # half of the tags are above, none is near
        wanted = [name for name, score in zip(NAMES, scores, strict=True) if score > threshold]
        assert len(wanted) == 3
        assert RAM(str(folder), thresholds=threshold).tag([image]) == [wanted]


def test_an_images_tags_do_not_depend_on_its_batch(folder, images):
    middle = float(torch.stack([probabilities(folder, x) for x in images]).median())
    tagger = RAM(str(folder), thresholds=middle + 1e-4, batch_size=3)
    together = tagger.tag(images)
    assert len({tuple(x) for x in together}) > 1 or together[0]
    assert together == [tagger.tag([x])[0] for x in images] == tagger.tag(images)
    assert tagger.tag(images[::-1]) == together[::-1]


def test_nothing_is_reported_above_a_threshold_of_one_and_nothing_deleted(folder, images):
    assert RAM(str(folder), thresholds=1.0).tag(images) == [[]] * 4
    assert RAM(str(folder), thresholds=0.0).tag(images) == [NAMES] * 4
    assert RAM(str(folder), thresholds=0.0, deleted=["bee", "fox"]).tag(images[:1]) == [["ant", "cow", "dog", "eel"]]
    with pytest.raises(CheckpointError, match="deleted names gnu"):
        RAM(str(folder), deleted=["gnu"]).tag(images)


def test_the_file_and_its_folder_are_the_same_checkpoint(folder, images):
    assert RAM(str(folder / FILE)).tag(images) == RAM(str(folder)).tag(images)
    assert [x.files for x in checkpoints_of(RAM(str(folder)))] == [(FILE,)]


def test_half_precision_and_other_sizes_run(folder, images):
    assert len(RAM(str(folder), dtype="bfloat16").tag(images)) == 4
    assert len(RAM(str(folder), image_size=96).tag(images)) == 4
    with pytest.raises(ValueError, match="dtype must be one of"):
        RAM(str(folder), dtype="int8").tag(images)


def test_missing_weights_are_named_with_what_to_do(tmp_path, images):
    with pytest.raises(MissingWeights, match=f"has no {FILE}"):
        RAM(str(tmp_path)).tag(images)
    with pytest.raises(MissingWeights, match="xinyu1205/recognize_anything_model .* not on this machine"):
        RAM().tag(images)


def test_the_shipped_list_is_refused_for_a_file_of_other_classes(tmp_path, images):
    HELP["write"](tmp_path / FILE, HELP["published"]("RAM"))
    with pytest.raises(CheckpointError, match="has 6 classes, but the tag list has 4585 names"):
        RAM(str(tmp_path)).tag(images)
    HELP["write"](tmp_path / FILE, HELP["published"]("RAM", classes=4585))
    (tags,) = RAM(str(tmp_path), thresholds=0.0).tag(images[:1])
    assert len(tags) == 4585 and tags[-1] == "zoo"
    (tags,) = RAM(str(tmp_path)).tag(images[:1])
    assert "body" not in tags
