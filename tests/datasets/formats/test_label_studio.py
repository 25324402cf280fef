"""Label Studio out and back."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from scenewright.datasets.formats import brush
from scenewright.datasets.formats.label_studio import LabelStudio
from scenewright.datasets.formats.overlay import Tally, overlay
from scenewright.layout import Layout


def write(folder, samples, **settings):
    LabelStudio(state="annotations", **settings).write(samples, folder)
    return json.loads((folder / "tasks-00000.json").read_text())


def read(source, samples, missing="keep"):
    return list(overlay(samples, LabelStudio().corrections(str(source)), missing, Tally()))


def corrected(folder, tasks, samples):
    (folder / "export.json").write_text(json.dumps(tasks))
    return read(folder / "export.json", samples)


def bare(samples):
    return [replace(x, layout=Layout.empty()) for x in samples]


def test_everything_comes_back(samples, tmp_path):
    """Boxes to 1e-6 of the image; labels, captions, scores and masks exactly."""
    write(tmp_path, samples)
    for was, now in zip(samples, read(tmp_path / "tasks-*.json", bare(samples)), strict=True):
        torch.testing.assert_close(now.layout.boxes, was.layout.boxes, atol=1e-6, rtol=0)
        assert (now.layout.labels, now.layout.captions) == (was.layout.labels, was.layout.captions)
        assert now.layout.masks == was.layout.masks and now.warnings == []
        assert (now.layout.scores is None) == (was.layout.scores is None)
        if was.layout.scores is not None:
            assert now.layout.scores.tolist() == was.layout.scores.tolist()


@pytest.mark.parametrize("shapes", ["boxes", "masks"])
def test_with_one_shape_the_other_is_kept_or_made(shapes, sample, tmp_path):
    some = [sample("a", ["hole", "parts", "blob"])]
    write(tmp_path, some, shapes=shapes)
    (now,) = read(tmp_path / "tasks-*.json", bare(some))
    assert now.layout.captions == some[0].layout.captions
    if shapes == "boxes":
        assert now.layout.masks is None
    else:
        assert now.layout.masks == some[0].layout.masks
        assert now.layout.boxes.tolist() == [mask.box.tolist() for mask in now.layout.masks]


def test_predictions_alone_were_not_looked_at(samples, tmp_path):
    LabelStudio().write(samples, tmp_path)
    tasks = json.loads((tmp_path / "tasks-00000.json").read_text())
    assert all("annotations" not in task and task["predictions"][0]["model_version"] for task in tasks)
    assert LabelStudio().corrections(str(tmp_path / "tasks-00000.json")) == {}


def test_people_delete_move_rename_describe_and_draw(sample, tmp_path):
    some = [sample("a", ["full", "hole", "parts"]), sample("b", ["blob"])]
    tasks = write(tmp_path, some)
    results = [x for x in tasks[0]["annotations"][0]["result"] if not x["id"].startswith("r0")]
    for result in results:
        if result["id"] == "r1":
            if result["type"] == "rectanglelabels":
                result["value"] |= {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rectanglelabels": ["fox"]}
            else:
                result["value"]["text"] = ["a fox"]
    drawn = np.zeros((40, 56), bool)
    drawn[10:20, 7:14] = True
    from scenewright.layout import RunLengths

    (mask,) = RunLengths.encode(torch.from_numpy(drawn)[None])
    value = {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["bird"]}
    results.append({"id": "xYz", "type": "brushlabels", "value": value, "original_width": 56, "original_height": 40})
    results.append({"id": "c", "type": "choices", "value": {"choices": ["good"]}})
    tasks[0]["annotations"][0]["result"] = results
    tasks[1]["annotations"][0]["was_cancelled"] = True
    a, b = corrected(tmp_path, tasks, some)
    assert a.layout.labels == ["fox", some[0].layout.labels[2], "bird"]
    assert a.layout.captions == ["a fox", some[0].layout.captions[2], "bird"]
    assert a.layout.boxes[0].tolist() == [0.25, 0.5, 0.75, 0.75]
    assert a.layout.masks == [some[0].layout.masks[1], some[0].layout.masks[2], mask]
    assert b.layout is some[1].layout


def test_a_region_is_gone_when_both_its_shapes_are(sample, tmp_path):
    some = [sample("a", ["full", "hole"])]
    tasks = write(tmp_path, some)
    result = tasks[0]["annotations"][0]["result"]
    tasks[0]["annotations"][0]["result"] = [x for x in result if x["id"] != "r0" and x["id"] != "r1-mask"]
    (now,) = corrected(tmp_path, tasks, some)
    assert len(now.layout) == 2 and now.layout.masks[0] == some[0].layout.masks[0]
    tasks[0]["annotations"][0]["result"] = []
    (now,) = corrected(tmp_path, tasks, some)
    assert len(now.layout) == 0


def test_the_latest_annotation_counts(sample, tmp_path):
    some = [sample("a", ["full"])]
    tasks = write(tmp_path, some)
    (old,) = tasks[0]["annotations"]
    old["updated_at"] = "2024-01-01T00:00:00Z"
    tasks[0]["annotations"].append({"result": [], "updated_at": "2024-01-02T00:00:00Z"})
    assert len(corrected(tmp_path, tasks, some)[0].layout) == 0
    tasks[0]["annotations"][1]["updated_at"] = "2023-01-02T00:00:00Z"
    assert len(corrected(tmp_path, tasks, some)[0].layout) == 1


def shape(kind, label="dog", **value):
    size = {"original_width": 100, "original_height": 50}
    return {"id": "n", "type": kind, "value": {**value, kind: [label]}, **size}


@pytest.mark.parametrize(
    ("result", "box", "area"),
    [
        (shape("rectanglelabels", x=50, y=40, width=20, height=20, rotation=90), [0.4, 0.4, 0.5, 0.8], None),
        (shape("polygonlabels", points=[[10, 20], [30, 20], [30, 60], [10, 60]]), [0.1, 0.2, 0.3, 0.6], 20 * 20),
        (shape("ellipselabels", x=50, y=50, radiusX=20, radiusY=40), [0.3, 0.1, 0.7, 0.9], 3.14159 * 20 * 20),
        (shape("ellipselabels", x=50, y=50, radiusX=10, radiusY=40, rotation=90), [0.3, 0.3, 0.7, 0.7], 628),
    ],
    ids=["turned", "polygon", "ellipse", "turned ellipse"],
)
def test_other_shapes_that_people_draw(result, box, area, sample, tmp_path):
    """Turned about its first corner, 20 x 10 pixels become 10 x 20 to its left; outlines to a pixel."""
    tasks = [{"data": {"image": "/x/a.jpg"}, "annotations": [{"result": [result]}]}]
    (now,) = corrected(tmp_path, tasks, bare([sample("a", [], (50, 100))]))
    assert now.layout.boxes[0].tolist() == pytest.approx(box, abs=0.011)
    assert now.layout.masks is None if area is None else now.layout.masks[0].area == pytest.approx(area, rel=0.03)


@pytest.mark.parametrize(
    "data",
    [
        {"key": "a", "image": "whatever"},
        {"image": "/data/local-files/?d=images/a.jpg"},
        {"image": "/data/upload/3/0a1b2c3d-a.jpg"},
        {"image": "https://host/a.png"},
    ],
)
def test_a_task_is_found_by_its_key_or_its_image(data, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"data": data, "annotations": [{"result": []}]}]))
    assert list(LabelStudio().corrections(str(tmp_path / "x.json"))) == ["a"]


def test_tasks_are_spread_over_files_and_the_interface_has_all_labels(samples, tmp_path):
    LabelStudio(tasks_per_file=3, images="copy").write(samples, tmp_path)
    assert [len(json.loads(x.read_text())) for x in sorted(tmp_path.glob("tasks-*.json"))] == [3, 3, 1]
    root = ElementTree.parse(tmp_path / "labeling_config.xml").getroot()
    labels = {x.get("value") for x in root.findall("RectangleLabels/Label")}
    assert labels == {label for sample in samples for label in sample.layout.labels}
    names = {x.get("name") for x in root}
    tasks = json.loads((tmp_path / "tasks-00000.json").read_text())
    results = [x for task in tasks for x in task["predictions"][0]["result"]]
    assert {x["from_name"] for x in results} <= names and {x["to_name"] for x in results} == {"image"}
    image = tasks[0]["data"]["image"]
    assert image == "/data/local-files/?d=images/none.jpg" and (tmp_path / "images/none.jpg").exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"data": {}, "annotations": [{"result": []}]}]'])
def test_what_is_no_export_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    if content == "{}":
        assert LabelStudio().corrections(str(tmp_path / "x.json")) == {}
        return
    with pytest.raises(ValueError, match="no JSON export of Label Studio"):
        LabelStudio().corrections(str(tmp_path / "x.json"))


@pytest.mark.parametrize("settings", [{"shapes": "none"}, {"state": "done"}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        LabelStudio(**settings)


def test_a_shape_of_a_kind_that_cannot_be_read_is_no_deletion(sample, tmp_path):
    one = sample()
    height, width = one.image.shape[1:]
    keypoint = shape("keypointlabels", x=1, y=2) | {"original_height": height, "original_width": width}
    with pytest.raises(ValueError, match="a shape of kind keypointlabels cannot be read"):
        tasks = [{"data": {"key": one.key}, "annotations": [{"result": [keypoint]}]}]
        corrected(tmp_path, tasks, [one])


def test_a_folder_of_files_is_read(samples, tmp_path):
    write(tmp_path, samples)
    assert set(LabelStudio().corrections(str(tmp_path))) == {s.key for s in samples}
