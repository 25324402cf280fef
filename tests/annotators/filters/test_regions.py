"""Filters of regions: by their boxes, scores, labels and captions."""

import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.filters.area import Area
from scenewright.annotators.filters.aspect import Aspect
from scenewright.annotators.filters.caption import Caption, repetition
from scenewright.annotators.filters.count import Count
from scenewright.annotators.filters.labels import Labels
from scenewright.annotators.filters.score import Score
from scenewright.layout import Layout, Sample
from scenewright.protocols import Filter

ALL = [Area(), Aspect(), Count(), Score(), Labels(deny=["x"]), Caption()]


def sample(boxes=(), labels=None, scores=None, captions=(), height=100, width=200, **known):
    layout = Layout(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=list(labels or ["thing"] * len(boxes)),
        captions=list(captions),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float32),
    )
    return Sample.from_image("a", torch.zeros(3, height, width, dtype=torch.uint8), layout=layout, **known)


def box(width, height):
    return (0.0, 0.0, width, height)


def reasons(judge, *args, **known):
    (verdict,) = judge.judge([sample(*args, **known)])
    assert not verdict.image
    return verdict.regions


@pytest.mark.parametrize("judge", ALL, ids=lambda x: type(x).__name__)
def test_a_filter_is_a_filter_and_judges_every_sample_in_order(judge):
    assert isinstance(judge, Filter) and judge.judge([]) == []
    some = [sample(), sample([box(0.5, 0.5)] * 2, scores=[0.9, 0.8], captions=["a red cat", "a blue dog"]), sample()]
    verdicts = judge.judge(some)
    assert [not any(x.regions) for x in verdicts] == [True] * 3
    assert [len(x.regions) in (0, len(s.layout)) for x, s in zip(verdicts, some, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [
        ({}, (0.5, 0.5), ""),
        ({}, (0.01, 0.03), "area 0.0003 is below 0.0005"),
        ({"minimum": 0.25}, (0.5, 0.5), ""),
        ({"minimum": 0.3, "maximum": None}, (0.5, 0.5), "area 0.25 is below 0.3"),
        ({"maximum": 0.9}, (1.0, 1.0), "area 1 is above 0.9"),
        ({"minimum": 0.2500001}, (0.5, 0.5), "area 0.25 is below 0.2500001"),
        ({"minimum": None, "minimum_side": 2}, (0.5, 0.015), "side 1.5 px is below 2 px"),
        ({"minimum": None, "minimum_pixels": 1024}, (0.155, 0.33), "area 1023 px is below 1024 px"),
        ({"minimum": None, "minimum_pixels": 1024}, (0.16, 0.32), ""),
    ],
)
def test_area(settings, size, reason):
    assert reasons(Area(**settings), [box(*size)]) == [reason]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((0.5, 1.0), ""),
        ((0.05, 1.0), ""),  # 10 x 100 pixels: the limit is inside
        ((0.04, 1.0), "aspect 0.08 is below 0.1"),
        ((1.0, 0.1), "aspect 20 is above 10"),
    ],
)
def test_aspect_is_that_of_the_pixels(size, reason):
    assert reasons(Aspect(), [box(*size)]) == [reason]


def test_images_with_too_few_regions_are_dropped():
    verdicts = Count(minimum=2).judge([sample(), sample([box(1, 1)]), sample([box(1, 1)] * 2)])
    assert [x.image for x in verdicts] == ["count 0 is below 2", "count 1 is below 2", ""]


def test_of_too_many_regions_the_least_sure_are_dropped():
    three = [box(1, 1)] * 3
    assert reasons(Count(maximum=2), three, scores=[0.5, 0.1, 0.9]) == ["", "place by score 3 of 3 is above 2", ""]
    assert reasons(Count(maximum=1), three, scores=[0.5, 0.5, 0.5])[0] == ""
    assert reasons(Count(maximum=2), three) == ["", "", "place 3 of 3 is above 2"]
    assert Count(after="captioner").after == "captioner"


def test_score_knows_labels_and_keeps_what_has_none():
    judge = Score(0.3, minimum_of={"person": 0.5})
    got = reasons(judge, [box(1, 1)] * 4, ["dog", "dog", "person", "person"], [0.3, 0.29, 0.4, 0.6])
    assert got == ["", "score 0.29 is below 0.3", "score 0.4 is below 0.5", ""]
    assert reasons(judge, [box(1, 1)]) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"keep": ["dog", "CAT"]}, ["", "", "label 'room' is none of the 2 to keep"]),
        ({"deny": ["room"]}, ["", "", "label 'room' is one to drop"]),
        (
            {"keep": ["dog", "room"], "deny": ["room"]},
            ["", "label 'Cat' is none of the 2 to keep", "label 'room' is o"],
        ),
    ],
)
def test_labels(settings, expected):
    got = reasons(Labels(**settings), [box(1, 1)] * 3, ["dog", "Cat", "room"])
    assert all(x.startswith(y) and bool(x) == bool(y) for x, y in zip(got, expected, strict=True)), got


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a red cat on a mat", ""),
        ("", "caption's length 0 words is below 2 words"),
        ("cat", "caption's length 1 words is below 2 words"),
        ("红色的猫", ""),
        ("cat " * 61, "caption's length 61 words is above 60 words"),
        ("on the left of " * 8 + "a cat", "caption's repetition 0.812 is above 0.3"),
        ("I'm sorry, but I can't see it.", 'caption begins a sentence with "I\'m sorry"'),
        ("A blurry picture. I can’t make out more.", 'caption begins a sentence with "I can\'t"'),
        ("as an ai model I see nothing", "caption begins a sentence with 'As an AI'"),
        ("no images hang on the wall", ""),
        ('a sign that says "keep out, I cannot swim"', ""),
    ],
)
def test_caption(caption, reason):
    assert reasons(Caption(), [box(1, 1)], captions=[caption]) == [reason]


def test_a_region_without_any_captions_is_kept_and_the_image_is_judged_on_demand():
    assert reasons(Caption(), [box(1, 1)]) == []
    poor = sample(caption="dog")
    assert Caption().judge([poor])[0].image == ""
    assert Caption(whole=True).judge([poor])[0].image == "the image's caption's length 1 words is below 2 words"


@pytest.mark.parametrize(
    ("words", "n", "share"), [("", 1, 0.0), ("a b", 3, 0.0), ("a a a a", 1, 0.75), ("a b a b a b", 2, 0.6)]
)
def test_repetition_is_the_share_of_ngrams_said_before(words, n, share):
    assert repetition(words.split(), n) == pytest.approx(share)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Area, {"minimum": 0.9, "maximum": 0.1}, "area: minimum must not be above maximum, got 0.9 and 0.1"),
        (Area, {"minimum": None, "maximum": None}, "the filter area has no limit"),
        (Score, {"minimum": None}, "the filter score has no limit"),
        (Labels, {}, "filter.labels.keep="),
        (Labels, {"keep": "dog"}, "keep must be a list of words, got 'dog'"),
        (Caption, {"ngram": 0}, "ngram must be at least 1, got 0"),
    ],
)
def test_a_filter_that_can_do_nothing_right_says_so(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_several_filters_are_chosen_as_a_list_and_set_by_their_names(config):
    names = ["area", "aspect", "count", "score", "caption", "image_size", "blur", "labels"]
    cfg = config(
        "annotate",
        "experiment=embedded",
        f"filter=[{','.join(names)}]",
        "filter.labels.deny=[room]",
        "filter.area.minimum=0.5",
        "output_dir=x",
    )
    assert list(cfg.filter) == names
    made = {name: instantiate(node) for name, node in cfg.filter.items()}
    assert all(isinstance(x, Filter) for x in made.values())
    assert made["area"].judge([sample([box(0.5, 0.5)])])[0].regions == ["area 0.25 is below 0.5"]
    assert made["labels"].judge([sample([box(1, 1)], ["Room"])])[0].regions == ["label 'Room' is one to drop"]
    assert not any(made["score"].judge([sample([box(1, 1)], scores=[0.3])])[0].regions)
