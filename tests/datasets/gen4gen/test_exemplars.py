"""Examples of layouts from a COCO folder."""

import json
import re

import pytest

from scenewright.datasets.gen4gen.planner import prompts
from scenewright.datasets.gen4gen.planner.exemplars import coco_exemplars
from scenewright.datasets.gen4gen.planner.parsing import parse_boxes

CATEGORIES = {1: "cat", 2: "dog", 3: "kite"}


def folder(path, images, captions=None):
    """``images``: id → (width, height, [(category, box)]); all have a caption if there are none."""
    regions = [
        {"id": i, "image_id": image, "category_id": category, "bbox": list(box), **more}
        for i, (image, category, box, more) in enumerate(
            (image, category, box, more[0] if more else {})
            for image, (_, _, boxes) in images.items()
            for category, box, *more in boxes
        )
    ]
    sizes = [{"id": i, "width": width, "height": height} for i, (width, height, _) in images.items()]
    named = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    captions = {i: [f"Image {i}.", "Another."] for i in images} if captions is None else captions
    texts = [{"image_id": i, "caption": x} for i, some in captions.items() for x in some]
    (path / "annotations").mkdir()
    instances = {"images": sizes, "annotations": regions, "categories": named}
    (path / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    (path / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": texts}))
    return str(path)


def captions_in(text):
    return re.findall(r"Caption: (.*)\n", text)


def test_boxes_are_on_the_prompts_canvas_and_within_it(tmp_path):
    boxes = [(1, (64, 48, 320, 120)), (2, (400.4, 320, 250, 160))]  # the second reaches 10 pixels too far
    written = coco_exemplars(folder(tmp_path, {7: (640, 480, boxes)}))
    assert written == (
        '\n    Caption: Image 7.\n    Objects: [["cat", [51, 51, 256, 128]], ["dog", [320, 341, 192, 171]]]\n'
    )
    for _, (x, y, w, h) in parse_boxes(written):
        assert x + w <= 512 and y + h <= 512


def test_only_boxes_of_middle_size_count_and_no_crowds(tmp_path):
    fine, small, large = (0, 0, 40, 40), (0, 0, 17, 17), (0, 0, 51, 50)
    images = {
        1: (100, 100, [(1, fine), (2, small), (3, large)]),
        2: (100, 100, [(1, small), (1, large)]),
        3: (100, 100, [(1, fine, {"iscrowd": 1})]),
        4: (100, 100, [(2, (0, 0, 50, 50)), (3, (0, 0, 30, 10))]),
    }
    written = coco_exemplars(folder(tmp_path, images))
    assert sorted(captions_in(written)) == ["Image 1.", "Image 4."]
    assert '[["cat", [0, 0, 205, 205]]]' in written
    assert '[["dog", [0, 0, 256, 256]], ["kite", [0, 0, 154, 51]]]' in written


@pytest.fixture
def many(tmp_path):
    box = (10, 10, 40, 40)
    images = {i: (100, 100, [(1 + i % 2, box), (3, box)]) for i in range(100)}
    return folder(tmp_path, images)


def test_fifty_are_drawn_of_ten_for_each_category_always_the_same(many):
    written = coco_exemplars(many)
    assert len(captions_in(written)) == len(set(captions_in(written))) <= 30
    assert len(captions_in(coco_exemplars(many, num_images_per_category=40))) == 50
    assert len(captions_in(coco_exemplars(many, num_images_per_category=2, count=3))) == 3
    assert written == coco_exemplars(many) != coco_exemplars(many, seed=1)


def test_fewer_than_fifty_are_no_error(many):
    written = coco_exemplars(many, categories=["cat"], num_images_per_category=10)
    assert len(captions_in(written)) == 10
    assert all(int(x[6:-1]) % 2 == 0 for x in captions_in(written)) and '"kite"' in written


def test_a_caption_may_have_braces_and_line_breaks(tmp_path):
    text = {5: ["", " A {cat}\nsays {prompt} ", "no"]}
    written = coco_exemplars(folder(tmp_path, {5: (100, 100, [(1, (0, 0, 40, 40))])}, text))
    assert captions_in(written) == ["A {cat} says {prompt}"]
    assert "A {cat} says {prompt}" in prompts.layout("one dog", written)


@pytest.mark.parametrize(
    ("images", "options", "reason"),
    [
        ({1: (100, 100, [(1, (0, 0, 90, 90))])}, {}, "no image in .* covers 3% to 25% of it; choose more categories"),
        ({1: (100, 100, [(1, (0, 0, 40, 40))])}, {"categories": ["dog"]}, "no image in"),
        ({1: (100, 100, [(1, (0, 0, 40, 40))])}, {"categories": ["cow"]}, "no categories cow; it has cat, dog, kite"),
    ],
)
def test_a_choice_without_examples_is_refused(tmp_path, images, options, reason):
    with pytest.raises(ValueError, match=reason):
        coco_exemplars(folder(tmp_path, images), **options)


def test_a_folder_that_is_not_cocos_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="instances_val2017.json"):
        coco_exemplars(str(tmp_path))
    (tmp_path / "annotations").mkdir()
    for kind in ("instances", "captions"):
        (tmp_path / "annotations" / f"{kind}_val2017.json").write_text("[]")
    with pytest.raises(ValueError, match="instances_val2017.json .* is not in COCO's format"):
        coco_exemplars(str(tmp_path))
