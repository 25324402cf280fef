"""Layouts as people write them, and as the references' demos have them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scenewright.datasets.formats.demo import Demo
from scenewright.datasets.layout_file import LayoutFile
from scenewright.datasets.shapes import Shapes
from scenewright.layout import RunLengths, Sample
from scenewright.protocols import RangedDataset


@pytest.fixture
def read(tmp_path) -> Callable[[Any], list[Sample]]:
    def written(content: Any) -> list[Sample]:
        path = tmp_path / "demo.json"
        path.write_text(json.dumps(content))
        return list(LayoutFile(str(path)))

    return written


def fine(**known: Any) -> dict[str, Any]:
    return {"boxes": [[0.1, 0.2, 0.5, 0.9]], "labels": ["dog"], **known}


def test_a_list_without_entries_is_an_empty_dataset(read):
    assert read([]) == []


@pytest.mark.parametrize("count", [0, 1, 300])
def test_any_number_of_objects_is_fine(read, count):
    boxes = [[i / 400, 0.0, i / 400 + 0.1, 1.0] for i in range(count)]
    (sample,) = read({"boxes": boxes, "labels": ["thing"] * count, "captions": [f"thing {i}" for i in range(count)]})
    assert len(sample.layout) == count and sample.warnings == []
    assert torch.allclose(sample.layout.boxes, torch.tensor(boxes).reshape(-1, 4))
    assert sample.layout.captions == [f"thing {i}" for i in range(count)]


def test_our_own_entries_say_all_that_a_sample_has(read):
    entries = [
        fine(key="first", caption="a park", height=64, width=96, captions=["a brown dog"], source="me"),
        fine(),
        {"key": "px", "unit": "pixels", "height": 100, "width": 200, "boxes": [[20, 10, 100, 50]], "labels": ["cat"]},
    ]
    first, second, third = read(entries)
    assert (first.key, second.key, third.key) == ("first", "demo-1", "px")
    assert first.caption == "a park" and first.layout.labels == ["dog"] and first.layout.captions == ["a brown dog"]
    assert first.metadata == {"height": 64, "width": 96, "source": "me"} and second.metadata == {}
    assert second.layout.captions == [] and first.source is None
    assert torch.allclose(third.layout.boxes, torch.tensor([[0.1, 0.1, 0.5, 0.5]]))


def test_the_demo_of_rich_context_lies_on_a_canvas_of_512(read):
    demo = {"bboxes": [[0, 0, 512, 512], [128, 256, 256, 384]], "labels": ["a lawn.", "a brown dog runs."]}
    (sample,) = read(demo)
    assert sample.metadata == {"height": 512, "width": 512} and sample.key == "demo"
    assert torch.equal(sample.layout.boxes, torch.tensor([[0, 0, 1, 1], [0.25, 0.5, 0.5, 0.75]]))
    assert sample.layout.captions == demo["labels"]
    (sample,) = read({**demo, "height": 1024, "width": 512, "caption": "a lawn"})
    assert sample.metadata["height"] == 1024 and sample.layout.boxes[1, 3] == 0.375 and sample.caption == "a lawn"


def test_the_demo_of_instancediffusion_has_corners_and_sides(read):
    mask = {"size": [4, 4], "counts": RunLengths.encode(torch.ones(1, 4, 4, dtype=torch.bool))[0].counts.decode()}
    annos = [
        {"bbox": [128, 0, 128, 512], "caption": "a red car", "mask": [], "category_name": "car", "point": [3, 4]},
        {"bbox": [0, 0, 512, 256], "caption": "a tree", "mask": mask},
    ]
    (sample,) = read({"caption": "a street", "width": 512, "height": 512, "annos": annos})
    assert torch.equal(sample.layout.boxes, torch.tensor([[0.25, 0, 0.5, 1], [0, 0, 1, 0.5]]))
    assert sample.layout.labels == ["car", "a tree"] and sample.layout.captions == ["a red car", "a tree"]
    assert sample.layout.masks is None  # one region has none
    (sample,) = read({"caption": "", "width": 512, "height": 512, "annos": annos[1:]})
    assert sample.layout.masks is not None and sample.layout.masks[0].decode().all()


@pytest.mark.parametrize("style", ["rich_context", "instancediffusion"])
def test_what_the_exports_write_is_read_back(style, tmp_path):
    scenes = list(Shapes(4, 64, 64))
    Demo(style, images="none").write(scenes, tmp_path)
    found = {x.key: x for x in LayoutFile(str(tmp_path))}
    assert found.keys() == {x.key for x in scenes if len(x.layout)}
    for scene in scenes:
        again = found[scene.key].layout
        assert again.captions == scene.layout.captions
        assert (again.boxes - scene.layout.boxes).abs().max() <= 2 / 512  # both formats have whole pixels
        if style == "instancediffusion":
            assert again.masks == scene.layout.masks and found[scene.key].caption == scene.caption


def test_a_folder_and_a_pattern_are_read_in_order_with_keys_that_differ(tmp_path):
    for name, content in {"b": fine(), "a": [fine(key="x"), fine(key="x")], "c": fine(key="x.y/z")}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "note.txt").write_text("no layout")
    dataset = LayoutFile(str(tmp_path))
    keys = [x.key for x in dataset]
    assert isinstance(dataset, RangedDataset) and len(dataset) == len(set(keys)) == 4
    assert keys[2:] == ["b", "x_y__z"] and all(key.startswith("x-") for key in keys[:2])
    assert [x.key for x in dataset.read(1, 3)] == keys[1:3]
    assert [x.key for x in LayoutFile(str(tmp_path / "[bc].json"))] == ["b", "x_y__z"]
    before = dataset.fingerprint
    (tmp_path / "b.json").write_text(json.dumps(fine(caption="other")))
    assert LayoutFile(str(tmp_path)).fingerprint != before


@pytest.mark.parametrize(
    ("boxes", "kept", "warnings"),
    [
        ([[-0.5, 0, 0.5, 1.5]], [[0, 0, 0.5, 1]], ["boxes clipped to the canvas: 1 of 1"]),
        ([[1.2, 0, 1.5, 1], [0, 0, 1, 1]], [[0, 0, 1, 1]], ["boxes dropped, being outside of the canvas: 1 of 2"]),
        ([[-1, -1, 0, 0]], [], ["boxes dropped, being outside of the canvas: 1 of 1"]),
        ([[0, 0, 1.0000000002, 1]], [[0, 0, 1, 1]], []),
    ],
)
def test_boxes_outside_of_the_canvas_are_clipped_or_dropped_and_counted(read, boxes, kept, warnings):
    (sample,) = read({"boxes": boxes, "labels": [str(i) for i in range(len(boxes))]})
    assert sample.layout.boxes.tolist() == kept and sample.warnings == warnings
    assert sample.layout.labels == [str(i) for i in range(len(boxes))][len(boxes) - len(kept) :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, 'demo.json: it must have "boxes" and "labels" (or "bboxes", or "annos"), got 3'),
        ([fine(), {"box": []}], "demo.json, entry 1: it must have"),
        (fine(labels=["a", "b"]), "demo.json: labels must be one entry per box (1), got 2"),
        (fine(captions=["a", "b"]), "demo.json: captions must be one entry per box (1), got 2"),
        ({"boxes": []}, "demo.json: labels must be a list, got null"),
        (fine(labels=[3]), "demo.json: labels[0] must be a text, got 3"),
        (fine(boxes=[[0.1, 0.2, math.nan, 0.9]]), "boxes[0] must be four finite numbers, got [0.1, 0.2, NaN, 0.9]"),
        (fine(boxes=[[0.1, 0.2, math.inf, 0.9]]), "boxes[0] must be four finite numbers, got"),
        (fine(boxes=[[0.1, 0.2, 0.9]]), "boxes[0] must be four finite numbers, got [0.1, 0.2, 0.9]"),
        (fine(boxes=[[0.1, 0.2, "0.9", 1]]), "boxes[0] must be four finite numbers, got"),
        (fine(boxes=[[0.5, 0.2, 0.1, 0.9]]), "boxes[0] must be x_min y_min x_max y_max with x_min < x_max"),
        (fine(boxes=[[0.5, 0.2, 0.5, 0.9]]), "boxes[0] must be x_min y_min x_max y_max with x_min < x_max"),
        (fine(boxes=[[10, 20, 300, 400]]), 'boxes[0] must be fractions of the canvas; for pixels add "unit": "pixels"'),
        (fine(unit="px"), "unit must be 'fractions' or 'pixels', got \"px\""),
        (fine(unit="pixels"), "height, width must be given where boxes are in pixels, got null"),
        (fine(height=64), "width must be a whole number of pixels, with the other side beside it, got null"),
        (fine(height=64.5, width=64), "height must be a whole number of pixels"),
        (fine(height=0, width=64), "height must be a whole number of pixels"),
        (fine(caption=3), "caption must be a text, got 3"),
        (fine(key=[1]), "key must be a text, got [1]"),
        ({"bboxes": [[0, 0, 9, 9]], "labels": []}, "labels must be one entry per box (1), got 0"),
        ({"annos": [{"box": 1}], "height": 8, "width": 8}, 'annos[0] must be a {"bbox": [x, y, width, height]'),
        ({"annos": [{"bbox": [1, 2, 3], "caption": ""}], "height": 8, "width": 8}, "annos[0].bbox must be four finite"),
        ({"annos": [{"bbox": [0, 0, 3, 3], "caption": ""}]}, "height, width must be given where boxes are in pixels"),
    ],
)
def test_what_is_no_layout_is_refused_with_its_file_entry_and_field(read, content, message):
    with pytest.raises(ValueError) as error:
        read(content)
    assert message in str(error.value) and "demo.json" in str(error.value)


def test_files_that_are_not_there_or_no_json_are_named(tmp_path):
    (tmp_path / "x.json").write_text("[")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        len(LayoutFile(str(tmp_path / "x.json")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        len(LayoutFile(str(tmp_path / "nowhere.json")))
    with pytest.raises(FileNotFoundError, match=r"empty has no \.json files"):
        len(LayoutFile(str(tmp_path / "empty")))
    with pytest.raises(ValueError, match="layouts=demo.json"):
        LayoutFile(None)
