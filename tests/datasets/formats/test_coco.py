"""COCO out and back."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO as Reader

from scenewright.datasets.coco import Coco as Source
from scenewright.datasets.formats.coco import COCO
from scenewright.datasets.formats.instances import mask_of
from scenewright.datasets.formats.overlay import Tally, overlay
from scenewright.layout import RunLengths


def read(folder, samples):
    corrections = COCO().corrections(str(folder))
    return list(overlay(samples, corrections, "empty", Tally()))


def without_layout(sample):
    from dataclasses import replace

    from scenewright.layout import Layout

    return replace(sample, layout=Layout.empty())


@pytest.mark.parametrize("segmentation", ["rle", "polygons"])
def test_everything_comes_back(segmentation, samples, tmp_path):
    """Boxes to 1e-6 of the image; labels, captions, scores and masks exactly, polygons too."""
    COCO(segmentation=segmentation).write(samples, tmp_path)
    # over samples that have nothing: all is from the file
    for was, now in zip(samples, read(tmp_path, map(without_layout, samples)), strict=True):
        torch.testing.assert_close(now.layout.boxes, was.layout.boxes, atol=1e-6, rtol=0)
        assert (now.layout.labels, now.layout.captions) == (was.layout.labels, was.layout.captions)
        assert now.layout.masks == was.layout.masks
        assert (now.layout.scores is None) == (was.layout.scores is None)
        if was.layout.scores is not None:
            assert now.layout.scores.tolist() == was.layout.scores.tolist()
        assert now.warnings == []


def test_pycocotools_reads_it(samples, tmp_path, capsys):
    COCO().write(samples, tmp_path)
    reader = Reader(str(tmp_path / "instances.json"))
    assert [x["file_name"] for x in reader.loadImgs(reader.getImgIds())][:2] == ["none.jpg", "single.jpg"]
    for sample, number in zip(samples, reader.getImgIds(), strict=True):
        regions = reader.loadAnns(reader.getAnnIds(number))
        assert len(regions) == len(sample.layout)
        for i, region in enumerate(regions):
            assert reader.cats[region["category_id"]]["name"] == sample.layout.labels[i]
            if sample.layout.masks:
                assert (reader.annToMask(region) == sample.layout.masks[i].decode().numpy()).all()
                assert region["area"] == sample.layout.masks[i].area


def test_our_own_source_reads_it_and_the_images_are_the_same_bytes(samples, tmp_path):
    COCO().write(samples, tmp_path)
    source = Source(f"{tmp_path}/instances.json", f"{tmp_path}/images", f"{tmp_path}/captions.json")
    for was, now in zip(samples, source, strict=True):
        assert (now.source.data, now.caption, now.key) == (was.source.data, was.caption, was.key)
        assert now.layout.labels == was.layout.labels or not len(was.layout)


def test_polygons_are_lists_but_where_there_are_holes(sample, tmp_path):
    COCO(segmentation="polygons").write([sample("a", ["full", "hole", "parts"])], tmp_path)
    regions = json.loads((tmp_path / "instances.json").read_text())["annotations"]
    assert [type(x["segmentation"]) for x in regions] == [list, dict, list]
    assert [len(x["segmentation"]) for x in regions if isinstance(x["segmentation"], list)] == [1, 2]


def test_labels_that_are_given_have_their_numbers_and_no_others_are_allowed(sample, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    COCO(labels=str(names), images="none").write([sample("a", ["full"])], tmp_path)
    found = json.loads((tmp_path / "instances.json").read_text())
    assert found["annotations"][0]["category_id"] == 2 and [x["name"] for x in found["categories"]] == ["cat", "dog"]
    assert not (tmp_path / "images").exists()
    with pytest.raises(ValueError, match="'dog' is none of the 1 given: cat"):
        COCO(labels=["cat"]).write([sample("a", ["full"])], tmp_path)


def test_without_samples_the_documents_are_whole(tmp_path):
    COCO().write([], tmp_path)
    assert json.loads((tmp_path / "instances.json").read_text())["images"] == []
    assert COCO().corrections(str(tmp_path)) == {}


def test_what_people_deleted_is_gone_and_what_they_changed_is_changed(sample, tmp_path):
    some = [sample("a", ["full", "hole"]), sample("b", ["blob"])]
    COCO(images="none").write(some, tmp_path)
    path = tmp_path / "instances.json"
    data = json.loads(path.read_text())
    data["annotations"] = [x for x in data["annotations"] if x["image_id"] == 1][1:]
    data["annotations"][0] = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [1, 2, 14, 20], "segmentation": []}
    data["annotations"] += [{"id": 10, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1}]
    path.write_text(json.dumps(data))
    a, b = read(path, some)
    assert a.layout.labels == ["dog"] and a.layout.boxes.tolist()[0] == pytest.approx(
        [1 / 56, 2 / 40, 15 / 56, 22 / 40]
    )
    assert len(b.layout) == 0 and b.status == "empty"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"images": [{"id": 1}]}',
        '{"images": [], "annotations": [{"image_id": 1}]}',
        '{"images": [{"id": 1, "file_name": "a.png"}]}',  # not: all regions were deleted
    ],
)
def test_what_is_not_cocos_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="is not in COCO's format"):
        COCO().corrections(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 7, "bbox": [0, 0, 5, 5]}, "there is no category 7"),
        ({"category_id": 1}, "there is no 'bbox'"),
    ],
)
def test_an_annotation_that_cannot_be_read_says_why(annotation, message, sample, tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1} | annotation],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"'a' cannot be read: {message}"):
        read(tmp_path, [sample("a", ["full"])])


def test_another_size_of_the_image_is_refused(sample, tmp_path):
    COCO(images="none").write([sample("a", ["full"])], tmp_path)
    with pytest.raises(ValueError, match="'a' cannot be read: it is 30 x 20 in the shards, 56 x 40 in the file"):
        read(tmp_path, [sample("a", ["full"], (20, 30))])


@pytest.mark.parametrize("settings", [{"segmentation": "mask"}, {"images": "move"}, {"images": "link"}])
def test_wrong_settings_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="must be|needs image_root"):
        COCO(**settings).write([], tmp_path)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
@settings(max_examples=60)
def test_run_lengths_of_any_mask_are_whole_and_cut_off_ones_are_not(height, width, seed, fill):
    plane = torch.from_numpy(np.random.default_rng(seed).random((1, height, width)) < fill)
    (runs,) = RunLengths.encode(plane)
    written = {"size": [height, width], "counts": runs.counts.decode()}
    assert mask_of(written, height, width) == runs
    for counts in (written["counts"][:-1], written["counts"] + "1"):
        with pytest.raises(ValueError, match="a mask's (runs|counts)"):
            mask_of({**written, "counts": counts}, height, width)
