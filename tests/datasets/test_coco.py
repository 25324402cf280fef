import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from scenewright.datasets.coco import Coco

SQUARE = [10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]


@pytest.fixture
def dataset(tmp_path, picture):
    """Three images: polygons, all kinds of run lengths, and nothing; one without annotations."""
    drawn = np.zeros((30, 40), np.uint8, order="F")
    drawn[5:15, 10:20] = 1
    compressed = coco_mask.encode(drawn)
    plain = {"size": [30, 40], "counts": [305, *[10, 20] * 9, 10, 615]}
    images = [{"id": i, "file_name": f"{i:03d}.jpg", "width": 40, "height": 30} for i in (7, 3, 5)]
    regions = [
        {"image_id": 7, "category_id": 2, "bbox": [10, 5, 10, 10], "segmentation": [SQUARE], "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 30], "segmentation": plain, "iscrowd": 1},
        {"image_id": 3, "category_id": 1, "bbox": [10, 5, 10, 10], "segmentation": plain},
        {
            "image_id": 3,
            "category_id": 1,
            "bbox": [10, 5, 10, 10],
            "segmentation": {**compressed, "counts": compressed["counts"].decode()},
        },
        {"image_id": 3, "category_id": 1, "bbox": [4, 4, 0, 3], "segmentation": [SQUARE]},
    ]
    tables = {
        "images": images,
        "annotations": regions,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    captions = {"annotations": [{"image_id": 7, "caption": " one "}, {"image_id": 7, "caption": "two"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for image in images:
        (tmp_path / image["file_name"]).write_bytes(picture())
    return Coco(str(tmp_path / "instances.json"), str(tmp_path), str(tmp_path / "captions.json"))


def test_images_come_in_the_order_of_their_ids(dataset):
    assert [s.key for s in dataset] == ["003", "005", "007"] and len(dataset) == 3


def test_boxes_become_fractions_and_labels_names(dataset):
    sample = list(dataset)[2]
    assert sample.layout.labels == ["dog"]
    assert sample.layout.boxes[0].tolist() == pytest.approx([10 / 40, 5 / 30, 20 / 40, 15 / 30])


@pytest.mark.parametrize(("image", "regions"), [(0, 2), (2, 1)])
def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask(image, regions, dataset):
    layout = list(dataset)[image].layout
    assert len(layout) == regions
    for mask in layout.masks:
        pixels = mask.decode()
        assert mask.size == (30, 40) and pixels[5:15, 10:20].all() and mask.area == 100


def test_an_image_without_annotations_is_empty(dataset):
    assert list(dataset)[1].status == "empty"


def test_a_box_without_area_is_dropped_and_said(dataset):
    assert next(iter(dataset)).warnings == ["1 boxes have no area and were dropped"]


def test_the_first_caption_is_the_caption_and_all_are_kept(dataset):
    sample = list(dataset)[2]
    assert sample.caption == "one" and sample.metadata["captions"] == ["one", "two"]


def test_annotations_that_cannot_be_read_are_an_error_of_their_image(dataset, tmp_path):
    tables = json.loads((tmp_path / "instances.json").read_text())
    tables["annotations"][0]["category_id"] = 99
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    assert [s.error for s in dataset] == ["", "", "its annotations cannot be read: KeyError: 99"]


@pytest.mark.parametrize("segmentation", [[[1, 2]], [[]], {"counts": [1, 2]}, "what"])
def test_a_mask_that_cannot_be_read_is_an_error_of_its_image(segmentation, dataset, tmp_path):
    tables = json.loads((tmp_path / "instances.json").read_text())
    tables["annotations"][0]["segmentation"] = segmentation
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    assert [bool(s.error) for s in dataset] == [False, False, True]


def test_a_region_without_a_mask_is_said(dataset, tmp_path):
    tables = json.loads((tmp_path / "instances.json").read_text())
    del tables["annotations"][2]["segmentation"]
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    sample = next(iter(dataset))
    assert sample.layout.masks is None and "1 of 2 regions have no mask" in sample.warnings[1]


@pytest.mark.parametrize("content", ["[]", "{", '{"images": []}', '{"images": [{}]}'])
def test_a_file_in_another_format_is_named(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="x.json (is not in COCO's format|has no images)"):
        len(Coco(str(tmp_path / "x.json"), str(tmp_path)))


def with_stuff(dataset, tmp_path, **options):
    """The same images, of which two have stuff."""
    stuff = {
        "images": [],
        "annotations": [
            {"image_id": 7, "category_id": 92, "bbox": [0, 15, 40, 15], "segmentation": [SQUARE]},
            {"image_id": 7, "category_id": 183, "bbox": [0, 0, 40, 15], "segmentation": [SQUARE]},
            {"image_id": 5, "category_id": 92, "bbox": [20, 0, 20, 30], "segmentation": [SQUARE]},
        ],
        "categories": [{"id": 92, "name": "banner"}, {"id": 183, "name": "other"}],
    }
    (tmp_path / "stuff.json").write_text(json.dumps(stuff))
    return Coco(dataset.instances, dataset.images, dataset.captions, str(tmp_path / "stuff.json"), **options)


def test_stuff_is_added_and_images_without_it_are_left_out(dataset, tmp_path):
    found = {s.key: s.layout.labels for s in with_stuff(dataset, tmp_path)}
    assert found == {"005": ["banner"], "007": ["dog", "banner", "other"]}


def test_excluded_labels_are_left_out(dataset, tmp_path):
    found = {s.key: s.layout.labels for s in with_stuff(dataset, tmp_path, exclude=["other"])}
    assert found == {"005": ["banner"], "007": ["dog", "banner"]}


def test_an_image_on_a_square_is_padded_below_with_white_and_keeps_its_boxes_places(dataset, tmp_path):
    plain = {s.key: s for s in with_stuff(dataset, tmp_path)}
    for sample in with_stuff(dataset, tmp_path, square=80):
        assert sample.image.shape == (3, 80, 80) and sample.image[:, 62:].min() == 255
        height, width = plain[sample.key].image.shape[1:]
        expected = plain[sample.key].layout.pixel_boxes(height, width) * 2
        assert sample.layout.pixel_boxes(80, 80).tolist() == expected.trunc().tolist()
        small = sample.image[:, :60].unflatten(2, (40, 2)).unflatten(1, (30, 2)).float().mean((2, 4))
        assert (small - plain[sample.key].image.float()).abs().mean() < 6


def test_annotation_ids_are_those_of_the_regions_in_their_order(dataset, tmp_path):
    tables = json.loads((tmp_path / "instances.json").read_text())
    for number, region in enumerate(tables["annotations"]):
        region["id"] = 100 + number
    (tmp_path / "instances.json").write_text(json.dumps(tables))
    found = [s.metadata["annotation_ids"] for s in Coco(dataset.instances, dataset.images, annotation_ids=True)]
    assert found == [[102, 103], [], [100]]  # without the crowd and the box without area
    assert all("annotation_ids" not in s.metadata for s in dataset)
