"""The published texts, letter for letter, and what is filled into them."""

from hashlib import sha256

import pytest

from scenewright.datasets.gen4gen.backgrounds import NEGATIVE_PROMPT, PHRASES
from scenewright.datasets.gen4gen.planner import prompts
from scenewright.datasets.gen4gen.planner.phrase import normalised, object_phrase, plural

PUBLISHED = {
    "backgrounds": (3118, "a06b1872b5fe901197c29d0c066b8077ccd547dfe83d002d258983b84710feff"),
    "layout_with_exemplars": (1609, "d15b6abf3f27d740d323af847fd13c0baf7cc6f160613353c61057ab772ab64e"),
    "layout": (3348, "a001643a282eeb6458b2a6a2e8d6e40f41c0c39269413b9866c2c76e3c741d56"),
    "layout_end": (37, "cd62cae577e45ee572ebe1288df21ff8fe61c860b3071b83490d6498c186d403"),
    "ratios": (679, "3b82e7c95218d1f95dc17005a7a4d25018afe90aac623e20b995104b23b63f94"),
}


@pytest.mark.parametrize("name", prompts.NAMES)
def test_a_prompt_is_the_published_one(name):
    text = prompts.text(name)
    assert (len(text), sha256(text.encode()).hexdigest()) == PUBLISHED[name]


def test_the_negative_prompt_is_the_published_one():
    digest = "4e52af7ed660cdd8be8285582d32db462b633425395d42c7ea35f23844222438"
    assert sha256(NEGATIVE_PROMPT.encode()).hexdigest() == digest
    assert len(NEGATIVE_PROMPT) == 501 and len(set(NEGATIVE_PROMPT.split(","))) == 42


def test_every_background_folder_has_a_phrase_that_says_where():
    assert len(PHRASES) == 49
    assert {x.split()[0] for x in PHRASES.values()} == {"in", "on", "at", "over"}
    some = {"nationalpark": "in the national park", "mountain": "over the mountain", "garden": "in a garden"}
    assert some.items() <= PHRASES.items()


def test_words_with_braces_are_filled_in_as_they_are():
    for filled in (prompts.backgrounds("a {cat} {0}"), prompts.ratios("a {cat} {0}"), prompts.layout("a {cat} {0}")):
        assert filled.count("a {cat} {0}") == 1 and "{prompt}" not in filled


def test_examples_from_elsewhere_take_the_place_of_the_built_in_ones():
    own = "\n    Caption: a {prompt} of two {braces}\n    Objects: []\n"
    built_in, other = prompts.layout("one cat in the garden"), prompts.layout("one cat in the garden", own)
    assert built_in == prompts.text("layout") + "\n    Caption: one cat in the garden.\n    Objects: "
    assert other == prompts.text("layout_with_exemplars") + own + "\n    Caption: one cat in the garden.\n    Objects: "


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["cat"], "one cat"),
        (["cat", "cat"], "two cats"),
        (["dog", "cat"], "one cat and one dog"),
        (["houseplant", "cat", "dog"], "one cat, one dog and one houseplant"),
        (["dog", "cat", "dog", "dog", "bus", "bus"], "two buses, one cat and three dogs"),
        (["house plant"] * 8, "eight house plants"),
        (["cat"] * 25, "25 cats"),
    ],
)
def test_things_are_counted_and_joined(names, phrase):
    assert object_phrase(names) == phrase


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *[("cat", "cats"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches"), ("wine glass", "wine glasses")],
        *[("puppy", "puppies"), ("toy", "toys"), ("toothbrush", "toothbrushes"), ("person", "people")],
        *[("mouse", "mice"), ("Goose", "Geese"), ("sheep", "sheep"), ("scissors", "scissors"), ("vase", "vases")],
        *[
            ("garbage truck", "garbage trucks"),
            ("skis", "skis"),
            ("leaf", "leaves"),
            ("horse", "horses"),
            ("ski", "skis"),
        ],
    ],
)
def test_several_of_a_thing_have_its_plural_and_its_key(one, many):
    assert plural(one) == many
    assert normalised(one) == normalised(many)


def test_spelling_makes_no_difference_between_names():
    same = ["house plant", "House_plant", "the house-plant", "houseplants", "One house plant 2", "'house plant'"]
    assert len({normalised(x) for x in same}) == 1
    different = ["cat", "dog", "car", "plant", "house plant", "bus", "glass", "class", "猫", "the", "one", "2"]
    assert len({normalised(x) for x in different}) == len(different)
