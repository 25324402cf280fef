"""The fixed list."""

import pytest
import torch

from scenewright.annotators.taggers.vocabulary import Vocabulary
from scenewright.checkpoints import CheckpointError, checkpoints_of
from scenewright.protocols import Tagger

IMAGES = [torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(3, 9, 2, dtype=torch.uint8)]


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (["dog", "cat"], ["dog", "cat"]),
        (["dog", " cat ", "", "dog"], ["dog", "cat"]),
        (("dog",), ["dog"]),
    ],
)
def test_every_image_gets_the_whole_list_in_its_order(tags, wanted):
    assert Vocabulary(tags).tag(IMAGES) == [wanted, wanted]
    assert Vocabulary(tags).tag([]) == []


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("coco", 80, "person", "toothbrush"),
        ("voc", 20, "aeroplane", "tvmonitor"),
        ("imagenet", 1000, "tench", "toilet tissue"),
        ("ram", 4575, "3D CG rendering", "zoo"),
    ],
)
def test_known_sets_are_known_by_name(name, count, first, last):
    (names,) = Vocabulary(name).tag(IMAGES[:1])
    assert (names[0], names[-1]) == (first, last)
    assert len(names) == len(set(names)) == count or name == "imagenet"
    assert "N/A" not in names and "__background__" not in names


def test_a_file_has_one_name_per_line(tmp_path):
    (tmp_path / "x.txt").write_text("traffic light\ndog\n\n")
    assert Vocabulary(str(tmp_path / "x.txt")).tag(IMAGES[:1]) == [["traffic light", "dog"]]


def test_an_images_list_is_its_own():
    tagger = Vocabulary(["dog"])
    first, second = tagger.tag(IMAGES)
    first.append("cat")
    assert second == ["dog"] and tagger.tag(IMAGES[:1]) == [["dog"]]


def test_what_is_no_list_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="one of coco, voc, imagenet, ram; objects365 is none of these"):
        Vocabulary("objects365").tag(IMAGES)
    with pytest.raises(CheckpointError, match="at least one name"):
        Vocabulary([]).tag(IMAGES)


def test_it_needs_no_weights():
    assert isinstance(Vocabulary(), Tagger)
    assert list(checkpoints_of(Vocabulary())) == []
