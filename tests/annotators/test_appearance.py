import re

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import XKCD_COLORS

from scenewright.annotators.appearance import Appearance, describe, words
from scenewright.annotators.appearance.colours import TERMS, terms
from scenewright.annotators.appearance.scene import describe_scene
from scenewright.annotators.appearance.silhouettes import SHAPES, read_shape
from scenewright.annotators.appearance.survey import SURVEY
from scenewright.annotators.captioners.appearance import AppearanceCaptioner
from scenewright.annotators.taggers.appearance import AppearanceTagger
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import Captioner, Tagger

RED, BLUE, WHITE, YELLOW, GREEN = (214, 32, 40), (40, 80, 200), (250, 250, 250), (250, 220, 40), (40, 150, 60)
SIDE = 120


def disc(side: int = SIDE, radius: float = 0.4, x: float = 0.5, y: float = 0.5) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.hypot(columns - side * x, rows - side * y) < side * radius


def polygon(points: np.ndarray, degrees: float = 0.0, side: int = SIDE) -> np.ndarray:
    """The inside of points around the origin, within 1, turned."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    plane = np.zeros((side, side), np.uint8)
    turned = np.asarray(points, float) @ np.array([[c, s], [-s, c]]) * side * 0.42 + side / 2
    cv2.fillPoly(plane, [np.round(turned * 16).astype(np.int32)], 1, shift=4)
    return plane.astype(bool)


def corners(count: int, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, count)[:, None]


def crescent() -> np.ndarray:
    return disc() & ~disc(radius=0.33, x=0.68)


def heart(degrees: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return polygon(np.stack([16 * np.sin(t) ** 3, -y], 1) / 17, degrees)


CROSS = [(1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3)]
ARROW = [(-1, 0.22), (0.1, 0.22), (0.1, 0.65), (1, 0), (0.1, -0.65), (0.1, -0.22), (-1, -0.22)]
DRAWINGS = {
    "circle": lambda turn: disc(),
    "ring": lambda turn: disc() & ~disc(radius=0.23),
    "square": lambda turn: polygon(corners(4), turn),
    "triangle": lambda turn: polygon(corners(3), turn),
    "star": lambda turn: polygon(corners(10, (1, 0.42)), turn),
    "cross": lambda turn: polygon([*CROSS, *(-np.array(CROSS))], turn),
    "heart": heart,
    "diamond": lambda turn: polygon([(0, 1), (0.6, 0), (0, -1), (-0.6, 0)], turn),
    "hexagon": lambda turn: polygon(corners(6), turn),
    "crescent": lambda turn: crescent(),
    "arrow": lambda turn: polygon(ARROW, turn),
    "bar": lambda turn: polygon([(-1, -0.2), (1, -0.2), (1, 0.2), (-1, 0.2)], turn),
}


def painted(mask: np.ndarray, pattern: str, first=RED, second=WHITE, degrees: float = 20.0) -> np.ndarray:
    """The mask painted on a grey ground."""
    y, x = np.indices(mask.shape)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = x * c + y * s, y * c - x * s
    share = {
        "plain": np.zeros(mask.shape),
        "striped": (along % 20 < 8).astype(float),
        "dotted": (np.hypot(along % 22 - 11, across % 22 - 11) < 6.5).astype(float),
        "checkered": ((along // 14 + across // 14) % 2).astype(float),
        "gradient": np.clip((along - along[mask].min()) / np.ptp(along[mask]), 0, 1),
    }[pattern][..., None]
    fill = np.array(first) * (1 - share) + np.array(second) * share
    soft = cv2.GaussianBlur(fill.astype(np.float32), (0, 0), 0.6)
    return np.where(mask[..., None], soft, (120, 125, 130)).round().astype(np.uint8)


def image_of(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def layout_of(*masks: np.ndarray, labels: list[str] | None = None) -> Layout:
    runs = RunLengths.encode(torch.from_numpy(np.stack(masks)))
    names = labels or ["region"] * len(masks)
    return Layout(boxes=torch.stack([m.box for m in runs]), labels=names, masks=runs)


def plain(colour: tuple[int, int, int], height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("rgb", "term"),
    [
        ((5, 5, 8), "black"),
        ((30, 28, 27), "black"),
        ((128, 128, 128), "grey"),
        ((90, 92, 95), "grey"),
        ((255, 255, 255), "white"),
        ((240, 242, 238), "white"),
        ((200, 20, 30), "red"),
        ((150, 20, 25), "red"),
        ((255, 130, 0), "orange"),
        ((110, 70, 35), "brown"),
        ((80, 50, 30), "brown"),
        ((250, 225, 30), "yellow"),
        ((30, 140, 50), "green"),
        ((90, 120, 50), "green"),
        ((30, 60, 200), "blue"),
        ((135, 190, 235), "blue"),
        ((110, 40, 150), "purple"),
        ((250, 150, 190), "pink"),
    ],
)
def test_a_colour_gets_the_term_that_people_use(rgb, term):
    assert TERMS[terms(np.array([rgb], np.uint8))[0]] == term


def test_the_survey_is_the_one_that_matplotlib_ships():
    shipped = {term: [] for term in TERMS}
    for name, code in XKCD_COLORS.items():
        last = name.split(":")[-1].split()[-1].replace("gray", "grey")
        shipped.get(last, []).append(code.removeprefix("#"))
    assert {term: codes.split() for term, codes in SURVEY.items()} == shipped


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turn", [0.0, 11.0, 40.0])
@pytest.mark.parametrize("side", [24, 60, 120])
def test_a_shape_is_told_at_any_turn_and_size(shape, turn, side):
    mask = cv2.resize(DRAWINGS[shape](turn).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) >= 0.5
    assert read_shape(mask) == shape


def test_what_is_irregular_or_tiny_has_no_shape():
    rng = np.random.default_rng(0)
    blobs = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 5) > 0
    assert read_shape(blobs) == ""
    assert read_shape(np.ones((3, 3), bool)) == ""


def test_a_shape_of_which_a_third_is_hidden_is_still_told():
    star = DRAWINGS["star"](7.0)
    star[:, : SIDE // 3] = False
    assert read_shape(star) == "star"


@pytest.mark.parametrize("pattern", ["plain", "striped", "dotted", "checkered", "gradient"])
@pytest.mark.parametrize("degrees", [0.0, 20.0, 45.0, 110.0])
@pytest.mark.parametrize(("first", "second"), [(RED, WHITE), (BLUE, YELLOW)])
def test_a_pattern_is_told_at_any_angle(pattern, degrees, first, second):
    mask = disc()
    assert describe(painted(mask, pattern, first, second, degrees), mask).pattern == pattern


def test_two_colours_come_with_their_shares_the_larger_first():
    mask = disc()
    seen = describe(painted(mask, "striped"), mask)
    assert [name for name, _ in seen.colours] == ["red", "white"]
    assert seen.colours[0][1] == pytest.approx(0.6, abs=0.07)
    assert sum(share for _, share in seen.colours) == pytest.approx(1, abs=0.002)
    assert seen.label == "red circle"


def test_an_outline_is_no_pattern_and_no_colour():
    mask = DRAWINGS["square"](10.0)
    pixels = painted(mask, "plain")
    pixels[mask & ~cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)] = 0
    seen = describe(pixels, mask)
    assert (seen.pattern, [name for name, _ in seen.colours]) == ("plain", ["red"])


def test_a_natural_surface_has_neither_pattern_nor_doubtful_shape():
    rng = np.random.default_rng(1)
    fur = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 2)
    pixels = np.clip(np.array([120, 85, 50]) + 40 * (fur / fur.std())[..., None], 0, 255).astype(np.uint8)
    blob = DRAWINGS["heart"](15.0) & ~disc(radius=0.14, x=0.3, y=0.4)
    seen = describe(pixels, blob)
    assert (seen.pattern, seen.shape, seen.label) == ("plain", "", "brown region")


def test_an_empty_mask_and_a_single_pixel_are_described():
    assert describe(plain(RED), np.zeros((60, 80), bool)) == Appearance((), "plain", "", ())
    assert describe(plain(RED), np.zeros((60, 80), bool)).label == "region"
    one = np.zeros((60, 80), bool)
    one[3, 4] = True
    assert describe(plain(RED), one).label == "red region"


@pytest.mark.parametrize(
    ("label", "shape", "noun"),
    [
        ("", "", "region"),
        ("brown region", "", "region"),
        ("brown region", "star", "star"),
        ("dog", "circle", "dog"),
        ("red car", "", "car"),
        ("red star", "", "star"),
        ("object", "ring", "ring"),
    ],
)
def test_a_region_is_called_by_its_name_or_its_shape(label, shape, noun):
    assert words.noun(label, shape) == noun


@pytest.mark.parametrize(
    ("box", "size", "place"),
    [
        ((0.0, 0.0, 0.1, 0.1), "tiny", "at the upper left"),
        ((0.4, 0.0, 0.6, 0.2), "small", "at the top"),
        ((0.7, 0.0, 1.0, 0.3), "medium", "at the upper right"),
        ((0.0, 0.25, 0.5, 0.75), "large", "on the left"),
        ((0.0, 0.0, 1.0, 1.0), "huge", "in the center"),
        ((0.8, 0.45, 1.0, 0.55), "small", "on the right"),
        ((0.0, 0.9, 0.1, 1.0), "tiny", "at the lower left"),
        ((0.45, 0.9, 0.55, 1.0), "tiny", "at the bottom"),
        ((0.9, 0.9, 1.0, 1.0), "tiny", "at the lower right"),
    ],
)
def test_size_and_place_have_words(box, size, place):
    assert (words.size_word(box), words.place(box)) == (size, place)


@pytest.mark.parametrize(
    ("colours", "tones", "pattern", "phrase"),
    [
        ([], [], "plain", "star"),
        (["orange"], [""], "plain", "orange star"),
        (["red", "white"], ["bright", ""], "striped", "bright red star with white stripes"),
        (["blue", "orange"], ["", ""], "checkered", "blue star with an orange checker pattern"),
        (["orange", "blue"], ["", "dark"], "checkered", "orange star with a dark blue checker pattern"),
        (["red", "pink"], ["", ""], "gradient", "red star fading to pink"),
        (["red", "brown"], ["dark", ""], "plain", "dark red and brown star"),
        (["green"], ["pale"], "dotted", "dotted pale green star"),
    ],
)
def test_colours_and_pattern_read_as_english(colours, tones, pattern, phrase):
    assert words.colour_phrase(colours, tones, pattern, "star") == phrase


def test_the_plugins_stand_behind_their_doors():
    assert isinstance(AppearanceTagger(), Tagger) and isinstance(AppearanceCaptioner(), Captioner)


def test_nothing_gets_no_caption_and_no_tags():
    assert AppearanceCaptioner().caption([], []) == []
    assert AppearanceTagger().tag([]) == []
    assert AppearanceCaptioner().caption([image_of(plain(RED))], [Layout.empty()]) == [[]]


def test_a_caption_says_size_colours_shape_pattern_and_place():
    mask = DRAWINGS["star"](0.0)
    pixels = painted(mask, "striped")
    (captions,) = AppearanceCaptioner().caption([image_of(pixels)], [layout_of(mask)])
    assert re.fullmatch(r"a huge (bright )?red star with white stripes, in the center", captions[0])


def test_captions_say_which_of_two_is_behind():
    front = disc(radius=0.25, x=0.6)
    back = DRAWINGS["square"](0.0) & ~front
    pixels = plain((200, 200, 195), SIDE, SIDE)
    pixels[back], pixels[front] = RED, BLUE
    (captions,) = AppearanceCaptioner().caption(
        [image_of(pixels)], [layout_of(back, front, labels=["red square", "x"])]
    )
    assert "partly behind a blue x" in captions[0] and "in front of a red square" in captions[1]
    (alone,) = AppearanceCaptioner(relations=False).caption([image_of(pixels)], [layout_of(back, front)])
    assert not any("behind" in caption or "front" in caption for caption in alone)


def test_only_what_is_near_is_next_to_something():
    left, near, far = (disc(radius=0.1, x=x) for x in (0.15, 0.37, 0.85))
    pixels = plain((245, 245, 245), SIDE, SIDE)
    pixels[left], pixels[near], pixels[far] = RED, BLUE, GREEN
    (captions,) = AppearanceCaptioner().caption([image_of(pixels)], [layout_of(left, near, far)])
    assert "next to a blue circle" in captions[0] and "next to a red circle" in captions[1]
    assert "next to" not in captions[2]


def test_the_whole_image_gets_a_sentence():
    pixels = plain((240, 244, 250), 90, 120)
    pixels[60:] = (40, 90, 160)
    (captions,) = AppearanceCaptioner().caption([image_of(pixels)], [Layout.whole()])
    assert captions[0].startswith("a ") and "image" in captions[0]
    assert "mostly white and blue" in captions[0] and captions[0].endswith("with a darker lower half")


@pytest.mark.parametrize(
    ("colour", "present", "absent"),
    [
        ((12, 12, 14), {"black", "dark", "smooth", "low contrast", "black and white"}, {"bright"}),
        ((250, 250, 250), {"white", "bright"}, {"dark"}),
        (BLUE, {"blue", "smooth"}, {"black and white"}),
    ],
)
def test_tags_say_what_pixels_can_claim(colour, present, absent):
    (tags,) = AppearanceTagger().tag([image_of(plain(colour))])
    assert present <= set(tags) and not absent & set(tags) and len(tags) <= 8
    assert AppearanceTagger(max_tags=2).tag([image_of(plain(colour))]) == [tags[:2]]


def test_noise_is_textured_and_a_checkerboard_high_contrast():
    rng = np.random.default_rng(0)
    assert describe_scene(rng.integers(0, 256, (90, 90, 3), np.uint8)).texture == "textured"
    board = (np.add.outer(np.arange(64) // 8, np.arange(64) // 8) % 2 * 255).astype(np.uint8)
    assert describe_scene(np.repeat(board[..., None], 3, 2)).contrast == "high-contrast"


def test_what_is_said_of_an_image_does_not_depend_on_its_batch():
    masks = [DRAWINGS["star"](5.0), DRAWINGS["ring"](0.0), DRAWINGS["arrow"](70.0)]
    images = [image_of(painted(m, p)) for m, p in zip(masks, ("striped", "gradient", "checkered"), strict=True)]
    layouts = [layout_of(m) for m in masks]
    captioner, tagger = AppearanceCaptioner(), AppearanceTagger()
    together = captioner.caption(images, layouts)
    for i in (2, 0, 1):
        assert captioner.caption([images[i]], [layouts[i]])[0] == together[i]
        assert tagger.tag([images[i]]) == [tagger.tag(images)[i]]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 20000)])
def test_odd_images_and_boxes_are_captioned(size):
    pixels = plain(GREEN, *size)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.2, 0.3, 0.2, 0.3], [-0.5, 0.1, 1.5, 0.9]])
    (captions,) = AppearanceCaptioner().caption([image_of(pixels)], [Layout(boxes=boxes, labels=["thing"] * 4)])
    assert len(captions) == 4 and all("green" in caption for caption in captions)
    assert AppearanceTagger().tag([image_of(pixels)])[0][0] == "green"


def test_a_mask_of_another_size_is_refused():
    mask = RunLengths.encode(torch.ones(1, 5, 5, dtype=torch.bool))
    layout = Layout(boxes=torch.tensor([[0.0, 0.0, 0.5, 0.5]]), labels=["x"], masks=mask)
    with pytest.raises(ValueError, match="masks must have the image's size"):
        AppearanceCaptioner().caption([image_of(plain(RED))], [layout])
