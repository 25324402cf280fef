"""Layouts as people write them, and as the references' demos have them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
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
    assert sample.layout.points is not None and sample.layout.points[0].tolist() == [3 / 512, 4 / 512]
    assert sample.layout.points[1].isnan().all() and sample.layout.scribbles is None
    assert sample.layout.masks is not None  # one region has none: its mask is empty
    assert [x.area for x in sample.layout.masks] == [0, 512 * 512]
    (sample,) = read({"caption": "", "width": 512, "height": 512, "annos": annos[1:]})
    assert sample.layout.masks is not None and sample.layout.masks[0].decode().all() and sample.layout.points is None
    (sample,) = read({"caption": "", "width": 512, "height": 512, "annos": annos[:1]})
    assert sample.layout.masks is None


def demo(*annos: dict[str, Any], height: int = 100, width: int = 200) -> dict[str, Any]:
    return {"caption": "a street", "width": width, "height": height, "annos": list(annos)}


@pytest.mark.parametrize("scribble", [[[20, 10], [100, 50.5]], [20, 10, 100, 50.5]], ids=["pairs", "flat"])
def test_a_scribble_of_a_demo_is_a_list_of_pairs_or_a_flat_one(read, scribble):
    lone = {"bbox": [0, 0, 200, 100], "caption": "a car", "scribble": scribble}
    (sample,) = read(demo(lone))
    assert sample.layout.scribbles is not None and sample.layout.points is None
    assert torch.allclose(sample.layout.scribbles[0], torch.tensor([[0.1, 0.1], [0.5, 0.505]]))
    (sample,) = read(demo(lone, {**lone, "scribble": []}, {"bbox": [1, 1, 9, 9], "caption": ""}))
    assert sample.layout.scribbles is not None and [len(x) for x in sample.layout.scribbles] == [2, 0, 0]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mask_of_a_demo_comes_at_the_size_of_the_canvas(read, compressed):
    plane = torch.zeros(1, 50, 100, dtype=torch.bool)
    plane[:, 10:20, 30:60] = True
    counts = (
        RunLengths.encode(plane)[0].counts.decode() if compressed else [30 * 50 + 10, *[10, 40] * 29, 10, 2030 - 10]
    )
    (sample,) = read(
        demo({"bbox": [60, 20, 60, 20], "caption": "a car", "mask": {"size": [50, 100], "counts": counts}})
    )
    wanted = torch.zeros(100, 200, dtype=torch.bool)
    wanted[20:40, 60:120] = True
    assert sample.layout.masks is not None and torch.equal(sample.layout.masks[0].decode(), wanted)


def test_points_and_scribbles_of_our_own_entries_are_fractions_or_pixels(read):
    given = {"boxes": [[0, 0, 1, 1], [0, 0, 0.5, 1]], "labels": ["a", "b"]}
    fractions, pixels = read(
        [
            {**given, "points": [None, [0.5, 0.25]], "scribbles": [[[0.1, 0.2]], []]},
            {"unit": "pixels", "height": 100, "width": 200, "boxes": [[0, 0, 200, 100], [0, 0, 100, 100]]}
            | {"labels": ["a", "b"], "points": [None, [100, 25]], "scribbles": [[[20, 20]], None]},
        ]
    )
    for sample in (fractions, pixels):
        assert sample.layout.points is not None and sample.layout.scribbles is not None
        assert sample.layout.points[0].isnan().all() and sample.layout.points[1].tolist() == [0.5, 0.25]
        assert torch.allclose(sample.layout.scribbles[0], torch.tensor([[0.1, 0.2]]))
        assert sample.layout.scribbles[1].shape == (0, 2)
        assert sample.metadata.keys() <= {"height", "width"} and sample.warnings == []


def test_points_outside_of_the_canvas_are_dropped_and_counted(read):
    points = {"points": [[0.5, 1.5]], "scribbles": [[[0.5, 0.5], [-0.1, 0], [1.0000000002, 1]]]}
    (sample,) = read(fine(**points))
    assert sample.layout.points is not None and sample.layout.points.isnan().all()
    assert sample.layout.scribbles is not None and sample.layout.scribbles[0].tolist() == [[0.5, 0.5], [1, 1]]
    assert sample.warnings == [
        "points dropped, being outside of the canvas: 1 of 1",
        "points of scribbles dropped, being outside of the canvas: 1 of 3",
    ]


def test_points_go_with_the_boxes_that_are_dropped(read):
    boxes = {"boxes": [[1.2, 0, 1.5, 1], [0, 0, 1, 1]], "labels": ["a", "b"]}
    (sample,) = read({**boxes, "points": [[0.1, 0.1], [0.5, 0.5]], "scribbles": [[], [[0.5, 0.5]]]})
    assert sample.layout.points is not None and sample.layout.points.tolist() == [[0.5, 0.5]]
    assert sample.layout.scribbles is not None and len(sample.layout.scribbles[0]) == 1


def test_a_demo_with_points_and_scribbles_comes_back_from_its_export(tmp_path):
    scene = next(x for x in Shapes(20, 64, 64) if len(x.layout) > 1)
    n = len(scene.layout)
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    points[0] = math.nan
    scribbles = [torch.zeros(0, 2), *points[1:, None].repeat(1, 3, 1)]
    scene = replace(scene, layout=replace(scene.layout, points=points, scribbles=scribbles))
    Demo("instancediffusion", images="none").write([scene], tmp_path)
    ((_, anno, *_),) = [json.loads(x.read_text())["annos"] for x in tmp_path.glob("*.json")]
    assert anno["point"] == pytest.approx((points[1] * 512).tolist(), abs=1e-3) and len(anno["scribble"][0]) == 2
    (again,) = LayoutFile(str(tmp_path))
    assert torch.allclose(again.layout.points, points, atol=1e-5, equal_nan=True)  # pyright: ignore[reportArgumentType]
    assert again.layout.scribbles is not None
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(again.layout.scribbles, scribbles, strict=True))


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
            assert again.masks == [x.resized(512, 512) for x in scene.layout.masks or []]
            assert found[scene.key].caption == scene.caption


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
        (fine(points=[]), "points must be one entry per box (1), got 0"),
        (fine(points=3), "points must be a list, got 3"),
        (fine(points=[[0.1]]), "points[0] must be two finite numbers, x y, got [0.1]"),
        (fine(points=[[0.1, math.nan]]), "points[0] must be two finite numbers, x y, got [0.1, NaN]"),
        (fine(points=[[10, 20]]), 'points[0] must be fractions of the canvas; for pixels add "unit": "pixels"'),
        (fine(scribbles=[[], []]), "scribbles must be one entry per box (1), got 2"),
        (fine(scribbles=[3]), "scribbles[0] must be a list of points, got 3"),
        (fine(scribbles=[[0.1, 0.2, 0.3]]), "scribbles[0] must be a list of points, or a flat one of as many x as y"),
        (fine(scribbles=[[[0.1, 0.2], [0.3]]]), "scribbles[0][1] must be two finite numbers, x y, got [0.3]"),
        (demo({"bbox": [0, 0, 3, 3], "point": ["x", 1]}), "annos[0].point must be two finite numbers, x y, got"),
        (demo({"bbox": [0, 0, 3, 3], "scribble": [1, 2, 3]}), "annos[0].scribble must be a list of points, or a flat"),
        (demo({"bbox": [0, 0, 3, 3], "mask": {"size": [4, 4]}}), "annos[0].mask must be run lengths {"),
        (
            demo({"bbox": [0, 0, 3, 3], "mask": {"size": [4, 4], "counts": [3, 30]}}),
            "annos[0].mask must be run lengths {",
        ),
        (demo({"bbox": [0, 0, 3, 3], "mask": "all"}), "annos[0].mask must be run lengths {"),
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
