import hashlib
import json
import math
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import XKCD_COLORS, to_rgb

from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shapes.colours import TERMS, TONES, Colour, draw_colour
from scenewright.datasets.shapes.dataset import VERSION
from scenewright.datasets.shapes.outlines import SHAPES, TURNS, outline
from scenewright.datasets.shapes.scene import BACKGROUNDS, DIFFICULTIES, PATTERNS, compose
from scenewright.datasets.shapes.stamp import rasterise
from scenewright.datasets.shapes.wording import PLACES, SIZES, place, size_word, with_article
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset

# pycocotools 2.0 under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(Shapes(length=50, height=96, width=128))


def digest(samples: list[Sample]) -> str:
    """One hash of everything that is known of samples."""
    whole = hashlib.sha256()
    for sample in samples:
        whole.update(sample.image.numpy().tobytes())
        whole.update(sample.layout.boxes.numpy().tobytes())
        known = [sample.key, sample.caption, sample.tags, sample.layout.labels, sample.layout.captions, sample.metadata]
        whole.update(json.dumps(known, sort_keys=True).encode())
        whole.update(b"".join(mask.counts for mask in sample.layout.masks or []))
    return whole.hexdigest()


def planes(sample: Sample) -> np.ndarray:
    """The masks of a sample, ``(n, height, width)``."""
    return np.stack([mask.decode().numpy() for mask in sample.layout.masks or []])


def test_a_dataset_of_no_scenes_is_empty():
    assert len(Shapes(length=0)) == 0
    assert list(Shapes(length=0)) == list(Shapes(length=0).read(0, 0)) == []


def test_a_scene_of_no_objects_is_its_background():
    (sample,) = Shapes(length=1, objects=[0, 0], difficulty="easy")
    assert len(sample.layout) == 0 and sample.layout.masks == [] and sample.tags == [] and sample.status == "empty"
    assert sample.caption == f"A plain {sample.metadata['background']['colours'][0]} background with nothing on it."
    assert (sample.image == sample.image[:, :1, :1]).all()


def test_shapes_is_a_ranged_dataset():
    assert isinstance(Shapes(), RangedDataset)


@pytest.mark.parametrize("start, stop", [(0, 3), (5, 7), (49, 50), (50, 50)])
def test_reading_a_range_yields_what_iterating_yields_there(samples, start, stop):
    assert digest(list(Shapes(length=50, height=96, width=128).read(start, stop))) == digest(samples[start:stop])


def test_scenes_are_the_same_in_another_process(samples):
    program = (
        "import hashlib, sys; from scenewright.datasets.shapes import Shapes\n"
        "for s in Shapes(length=4, height=96, width=128):\n"
        "    print(hashlib.sha256(s.image.numpy().tobytes()).hexdigest(), s.caption, s.layout.captions, s.metadata)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here = [
        f"{hashlib.sha256(s.image.numpy().tobytes()).hexdigest()} {s.caption} {s.layout.captions} {s.metadata}"
        for s in samples[:4]
    ]
    assert said.stdout.splitlines() == here


def test_the_number_of_threads_changes_no_pixel(samples):
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = digest(list(Shapes(length=10, height=96, width=128)))
    finally:
        cv2.setNumThreads(threads)
    assert one == digest(samples[:10])


def test_every_argument_changes_the_fingerprint():
    changes = [
        {},
        {"length": 9},
        {"height": 64},
        {"width": 64},
        {"seed": 1},
        {"split": "val"},
        {"difficulty": "easy"},
        {"objects": [1, 2]},
        {"turn": 0.0},
    ]
    assert len({Shapes(**change).fingerprint for change in changes}) == len(changes)
    assert Shapes().fingerprint == Shapes().fingerprint == Shapes(objects=[1, 12]).fingerprint


def test_a_longer_dataset_begins_with_the_shorter_one(samples):
    assert digest(list(Shapes(length=10**9, height=96, width=128).read(0, 3))) == digest(samples[:3])


@pytest.mark.parametrize("change", [{"split": "val"}, {"split": "test"}, {"seed": 1}])
def test_splits_and_seeds_share_no_scene(samples, change):
    others = list(Shapes(length=8, height=96, width=128, **change))
    assert not {digest_of_image(s) for s in others} & {digest_of_image(s) for s in samples}


def digest_of_image(sample: Sample) -> bytes:
    return hashlib.sha256(sample.image.numpy().tobytes()).digest()


def test_keys_are_unique_over_splits_and_have_no_dots():
    keys = [s.key for split in ("train", "val", "test") for s in Shapes(length=4, height=32, width=32, split=split)]
    assert len(set(keys)) == 12 and not any("." in key for key in keys)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length": -1}, "length must be at least 0, got -1"),
        ({"height": 15}, "height must be at least 16, got 15"),
        ({"width": 0}, "width must be at least 16, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"difficulty": "hard"}, "difficulty must be one of easy, middle, full, got 'hard'"),
        ({"objects": [3]}, r"objects must be the fewest and the most, .*, got \[3\]"),
        ({"objects": [3, 2]}, r"objects must be the fewest and the most, .*, got \[3, 2\]"),
        ({"objects": [-1, 2]}, r"objects must be the fewest and the most, .*, got \[-1, 2\]"),
        ({"turn": 1.5}, "turn must lie within 0 .. 1, got 1.5"),
        ({"objects": [1, 101]}, r"objects must be the fewest and the most, .*, got \[1, 101\]"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        Shapes(**wrong)


@pytest.mark.parametrize("start, stop", [(-1, 2), (2, 1), (0, 11), (11, 11)])
def test_a_range_outside_the_dataset_is_refused(start, stop):
    with pytest.raises(ValueError, match=f"range must lie within 0 .. 10, got {start} .. {stop}"):
        Shapes(length=10).read(start, stop)


@pytest.mark.parametrize("height, width", [(16, 16), (16, 150), (33, 47), (200, 20), (64, 64), (300, 400)])
def test_images_have_any_size(height, width):
    for sample in Shapes(length=3, height=height, width=width):
        assert sample.image.shape == (3, height, width) and sample.image.dtype == torch.uint8
        assert 1 <= len(sample.layout) <= 12
        assert all(mask.size == (height, width) for mask in sample.layout.masks)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_difficulty_keeps_its_rules(difficulty):
    rules = DIFFICULTIES[difficulty]
    for sample in Shapes(length=20, height=64, width=64, difficulty=difficulty):
        things = sample.metadata["objects"]
        assert 1 <= len(things) <= rules.objects[1]
        assert all(thing["visible_fraction"] >= rules.visible - 5e-5 for thing in things)  # rounded to four places
        assert sample.metadata["background"]["kind"] in rules.backgrounds
        if difficulty == "easy":
            assert {(t["pattern"], t["outline"], t["shadow"]) for t in things} == {("plain", False, False)}


def test_the_number_of_objects_can_be_asked_for():
    assert {len(s.layout) for s in Shapes(length=5, objects=(12, 12))} == {12}
    assert {len(s.layout) for s in Shapes(length=10, objects=(2, 3))} == {2, 3}


def test_objects_turn_as_far_as_they_are_allowed_to():
    def turned(turn: float) -> list[float]:
        found = [
            x["rotation"] for s in Shapes(length=30, height=32, width=32, turn=turn) for x in s.metadata["objects"]
        ]
        return [min(x, 360 - x) for x in found]

    assert set(turned(0.0)) == {0} and 60 < max(turned(0.5)) <= 90 < max(turned(1.0)) <= 180


def test_boxes_are_the_tight_boxes_of_masks(samples):
    for sample in samples:
        for box, mask in zip(sample.layout.pixel_boxes(96, 128), planes(sample), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert box.tolist() == pytest.approx(tight, abs=1e-4)


def test_masks_are_disjoint_and_large_enough_to_recognise(samples):
    for sample in samples:
        masks = planes(sample)
        assert masks.sum(0).max() <= 1
        sides = sample.layout.pixel_boxes(96, 128)[:, 2:] - sample.layout.pixel_boxes(96, 128)[:, :2]
        assert sides.min() > 5.99


def test_pixels_are_the_colours_that_metadata_names():
    """Away from edges, every pixel of an easy scene is that of its object, or of the background."""
    kernel = np.ones((3, 3), np.uint8)
    for sample in Shapes(length=20, height=80, width=70, difficulty="easy"):
        image, masks = sample.image.permute(1, 2, 0).numpy(), planes(sample).astype(np.uint8)
        # wider than an edge, for points thinner than half a pixel reach beyond their mask
        near = np.stack([cv2.dilate(mask, kernel, iterations=4) for mask in masks]).astype(bool)
        for i, thing in enumerate(sample.metadata["objects"]):
            others = np.delete(near, i, axis=0).any(0)
            inner = cv2.erode(masks[i], kernel, borderValue=0).astype(bool) & ~others
            assert (image[inner] == thing["rgb"]).all()
        assert len(np.unique(image[~near.any(0)], axis=0)) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_has_the_area_of_its_outline(shape):
    for proportion, turn, size in ((0.0, 0.1, 30.0), (0.5, 0.6, 55.5), (1.0, -0.9, 90.0)):
        contours = outline(shape, proportion, size, turn * TURNS[shape])
        areas = [cv2.contourArea(contour.astype(np.float32)) for contour in contours]
        expected = areas[0] - sum(areas[1:])
        perimeter = sum(cv2.arcLength(contour.astype(np.float32), True) for contour in contours)
        # OpenCV fills the line around a polygon too, half a step of the supersampling wide
        assert abs(rasterise(contours).area - expected) < 0.25 * perimeter
        assert max(np.hypot(*contour.T).max() for contour in contours) < 0.62 * size


def test_visible_fractions_count_what_is_hidden_and_what_is_beyond_the_border():
    partly = 0
    for index in range(20):
        scene = compose(np.random.default_rng(index), DIFFICULTIES["full"], 64, 96)
        wide = np.full((64 + 200, 96 + 200), -1)
        for i, thing in enumerate(scene.things):  # painted again where nothing is cut off
            top, left = thing.stamp.top + 100, thing.stamp.left + 100
            height, width = thing.stamp.mask.shape
            wide[top : top + height, left : left + width][thing.stamp.mask] = i
        inside = wide[100:164, 100:196]
        for i, thing in enumerate(scene.things):
            whole = np.count_nonzero(thing.stamp.mask)
            assert scene.visible_fraction(i) == pytest.approx((inside == i).sum() / whole)
            hidden_later = scene.hidden[i].sum()
            assert hidden_later <= whole - (inside == i).sum()
            partly += scene.visible_fraction(i) < 1
    assert partly > 20


def test_metadata_survives_json(samples):
    for sample in samples:
        assert json.loads(json.dumps(sample.metadata)) == sample.metadata
        assert len(sample.metadata["objects"]) == len(sample.layout)


def test_labels_tags_and_captions_agree_with_metadata(samples):
    patterns = {
        "plain": "",
        "striped": " with {} stripes",
        "dotted": " with {} dots",
        "checkered": " with {article} checker pattern",
        "gradient": " fading to {}",
    }
    for sample in samples:
        layout, things = sample.layout, sample.metadata["objects"]
        assert layout.labels == [f"{t['colour']} {t['shape']}" for t in things]
        assert sample.tags == list(dict.fromkeys(layout.labels))
        for box, caption, thing in zip(layout.boxes.tolist(), layout.captions, things, strict=True):
            second = thing["second_colour"]
            assert (second is None) == (thing["pattern"] == "plain") and second != thing["colour"]
            pattern = patterns[thing["pattern"]].format(second, article=with_article(second or "none"))
            relation = thing["relation"]
            relation = f", {relation['kind']} {with_article(layout.labels[relation['object']])}" if relation else ""
            assert thing["size"] == size_word(box) and thing["place"] == place(box)
            words = f"a {thing['size']} {thing['colour']} {thing['shape']}{pattern}{relation}, {thing['place']}"
            assert caption == words


def test_relations_are_true(samples):
    kinds = set()
    for sample in samples:
        boxes, things = sample.layout.boxes, sample.metadata["objects"]
        for i, thing in enumerate(things):
            if thing["relation"] is None:
                continue
            kind, j = thing["relation"]["kind"], thing["relation"]["object"]
            kinds.add(kind)
            gap = torch.maximum(boxes[i, :2] - boxes[j, 2:], boxes[j, :2] - boxes[i, 2:]).max().item()
            assert i != j and gap < 0.05
            if kind == "partly behind":
                assert thing["order"] < things[j]["order"] and thing["visible_fraction"] < 0.96
            if kind == "in front of":
                assert thing["order"] > things[j]["order"] and things[j]["visible_fraction"] < 0.96
    assert kinds >= {"partly behind", "in front of", "next to"}


@pytest.mark.parametrize(
    "words, expected", [("red star", "a red star"), ("orange ring", "an orange ring"), ("arrow", "an arrow")]
)
def test_articles_fit_their_words(words, expected):
    assert with_article(words) == expected


@pytest.mark.parametrize(
    "box, size, where",
    [
        ((0.0, 0.0, 0.1, 0.1), "tiny", "at the upper left"),
        ((0.4, 0.0, 0.6, 0.2), "small", "at the top"),
        ((0.7, 0.0, 1.0, 0.3), "medium", "at the upper right"),
        ((0.0, 0.3, 0.4, 0.7), "large", "on the left"),
        ((0.0, 0.0, 1.0, 1.0), "huge", "in the center"),
        ((0.9, 0.45, 1.0, 0.55), "tiny", "on the right"),
        ((0.0, 0.9, 0.1, 1.0), "tiny", "at the lower left"),
        ((0.4, 0.8, 0.6, 1.0), "small", "at the bottom"),
        ((0.9, 0.9, 1.0, 1.0), "tiny", "at the lower right"),
    ],
)
def test_a_box_has_a_size_word_and_a_place(box, size, where):
    assert (size_word(box), place(box)) == (size, where)
    assert where in [words for row in PLACES for words in row] and size in dict(SIZES)


def test_scene_captions_count_objects_and_name_the_background(samples):
    numbers = "One Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve".split()
    for sample in samples:
        count = len(sample.layout)
        start = "A " if count == 1 else f"{numbers[count - 1]} shapes on "
        assert sample.caption.startswith(start) and sample.caption.endswith(".")
        assert "background" in sample.caption
        assert all(colour in sample.caption for colour in sample.metadata["background"]["colours"])
        assert any(label in sample.caption for label in sample.layout.labels)
        assert " a orange" not in sample.caption
        assert len(sample.caption.replace(",", " ,").replace(".", " .").split()) <= 70


def test_everything_there_is_occurs(samples):
    things = [thing for sample in samples for thing in sample.metadata["objects"]]
    assert {t["shape"] for t in things} == set(SHAPES)
    assert {t["colour"] for t in things} == {t["second_colour"] for t in things} - {None} == set(TERMS)
    assert {t["pattern"] for t in things} == set(PATTERNS)
    assert {t["size"] for t in things} == set(dict(SIZES))
    assert {s.metadata["background"]["kind"] for s in samples} == set(BACKGROUNDS)
    assert {t["outline"] for t in things} == {t["shadow"] for t in things} == {True, False}


@pytest.fixture(scope="module")
def survey() -> list[tuple[str, Colour]]:
    """The colours that people named in the survey of Munroe 2010 (xkcd.com/color/rgb), with the last word of each."""
    named = {name: [round(255 * x) for x in to_rgb(code)] for name, code in XKCD_COLORS.items()}
    return [(name.split()[-1].split(":")[-1], Colour(name, (r, g, b))) for name, (r, g, b) in named.items()]


@pytest.mark.parametrize("tone, term", [(tone, term) for tone in TONES for term in TONES[tone]])
def test_a_colour_is_called_what_most_people_call_it(survey, tone, term):
    rng = np.random.default_rng(0)
    for colour in (draw_colour(rng, term, tone) for _ in range(30)):
        lightness, a, b = colour.lab
        if term in ("black", "white", "grey"):  # the survey has few of them
            assert math.hypot(a, b) < 8
            assert {"black": lightness < 15, "white": lightness > 94, "grey": 20 < lightness < 85}[term]
        else:
            near = sorted((colour.distance([other]), word) for word, other in survey if word in TERMS)[:7]
            words = [word for _, word in near]
            assert words.count(term) == max(map(words.count, words)), (colour, words)


def test_lab_agrees_with_opencv():
    for rgb in ((0, 0, 0), (255, 255, 255), (12, 200, 77), (250, 3, 128)):
        expected = cv2.cvtColor(np.array([[rgb]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
        assert Colour("", rgb).lab == pytest.approx(expected.tolist(), abs=0.3)
    assert Colour("", (1, 2, 3)).distance([]) == math.inf


def test_objects_stand_out_from_a_plain_background():
    for sample in Shapes(length=25, height=48, width=48, difficulty="easy"):
        free = ~planes(sample).any(0)
        ground = Colour("", tuple(np.median(sample.image.permute(1, 2, 0).numpy()[free], axis=0).astype(int).tolist()))
        assert all(ground.distance([Colour("", tuple(t["rgb"]))]) > 40 for t in sample.metadata["objects"])


def test_what_is_drawn_changes_with_the_version_only():
    """Where this fails because scenes were meant to change, raise ``VERSION`` and write down the new ones."""
    first, second, third = Shapes(length=3, height=64, width=64, difficulty="easy")
    assert VERSION == 1
    assert first.tags == ["purple crescent", "purple triangle", "green cross", "red arrow"]
    assert second.tags == ["black triangle", "green bar", "yellow cross", "blue ring"]
    assert third.caption == "A small white arrow on a plain light green background."
    assert first.layout.captions[0] == "a large purple crescent, next to a green cross, in the center"
