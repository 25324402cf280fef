"""The files that the published demos draw from."""

import json

import pytest
from PIL import Image as PILImage

from scenewright.datasets.formats.demo import Demo


def test_rich_contexts_has_corners_and_captions_on_its_canvas(sample, tmp_path):
    one = sample("a", ["full", "blob"])
    assert Demo().write([one, sample("none", [])], tmp_path) == {"files": 1}
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found) == ["bboxes", "labels"] and found["labels"] == one.layout.captions
    assert found["bboxes"][0] == [0, 0, 512, 512]
    assert all(isinstance(x, int) for box in found["bboxes"] for x in box)
    with PILImage.open(tmp_path / "a.jpg") as image:
        assert image.size == (512, 512)
    assert not (tmp_path / "none.json").exists()


def test_instancediffusions_has_masks_too(sample, tmp_path):
    some = [sample("a", ["full", "hole"]), sample("b", ["full"], masks=False, captions=False)]
    Demo("instancediffusion", canvas=256, images="none").write(some, tmp_path)
    a, b = (json.loads((tmp_path / f"{x}.json").read_text()) for x in "ab")
    assert (a["caption"], a["width"], a["height"]) == ("the image a", 256, 256)
    assert a["annos"][0]["bbox"] == [0, 0, 256, 256] and a["annos"][1]["mask"]["size"] == [40, 56]
    assert (b["annos"][0]["mask"], b["annos"][0]["caption"]) == ([], "dog")
    assert not list(tmp_path.glob("*.jpg"))


@pytest.mark.parametrize("settings", [{"style": "gligen"}, {"images": "link"}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        Demo(**settings)
