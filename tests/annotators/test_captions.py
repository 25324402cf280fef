"""What captioners are asked, and what is made of their answers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenewright.annotators.captions import IMAGE, PROMPTS, REGION, clean, describe, filled, is_whole
from scenewright.layout import Layout

ASKED = "Describe the dog."


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("", ""),
        (" \n\t", ""),
        ("...", ""),
        ("a dog", "a dog"),
        (" A dog\n sits  on\ta mat.\n", "A dog sits on a mat."),
        # what is not the answer
        ("Describe the dog. A small dog.", "A small dog."),
        ("describe  the\ndog.: A small dog.", "A small dog."),
        (ASKED, ""),
        ("Sure! Here is a description of the region:\n\nA small dog.", "A small dog."),
        ("Caption: a small dog", "a small dog"),
        ("Assistant: Answer: a small dog", "a small dog"),
        ("I'm sorry, but I can't see the picture.", ""),
        ("As an AI, I see nothing.", ""),
        ("Sorry-looking dogs on a mat.", "Sorry-looking dogs on a mat."),
        ("Unable to fly, the penguin swims.", "Unable to fly, the penguin swims."),
        # marks
        ('"A small dog."', "A small dog."),
        ("“A small dog”", "A small dog"),
        ('A sign that says "STOP".', 'A sign that says "STOP".'),
        ("'Tis a dog", "'Tis a dog"),
        ("**A small dog**", "A small dog"),
        ("A *small* `dog` by __the__ sea", "A small dog by the sea"),
        ("# A dog", "A dog"),
        ("- A dog\n- A cat", "A dog"),
        ("1. A dog\n2. A cat", "A dog"),
        ("```text\na dog\n```", "a dog"),
        ("[a dog](http://dogs)", "a dog"),
        # the first sentence
        ("A dog. It sleeps.", "A dog."),
        ("A dog!\nIt sleeps.", "A dog!"),
        ("A dog\n\nIt sleeps", "A dog"),
        ("A dog of 3.5 kg. It sleeps.", "A dog of 3.5 kg."),
        ("Mr. Smith and Dr. Jones, approx. 40 years old. They talk.", "Mr. Smith and Dr. Jones, approx. 40 years old."),
        ("A portrait of J. S. Bach in oil. He looks away.", "A portrait of J. S. Bach in oil."),
        ("Fruit, e.g. apples etc. on a plate.", "Fruit, e.g. apples etc. on a plate."),
        ("A dog... asleep. A cat.", "A dog... asleep."),
        # said twice
        ("a dog a dog a dog", "a dog"),
        ("A very very very small dog.", "A very small dog."),
        ("A dog, a dog.", "A dog."),
        ("a man and a woman and a man and a woman and a man", "a man and a woman"),
        ("room 7 7", "room 7 7"),
        # cut off
        ("a man in a red shirt and a", "a man in a red shirt"),
    ],
)
def test_an_answer_becomes_one_plain_sentence(answer, sentence):
    assert clean(answer, prompt=ASKED) == sentence


PIECES = ["a", "dog", "A cat", ". ", "\n\n", "- ", "1. ", '"', "“", "”", "*", "**", "`", "_", "Sure, ", "Here is a: "]
PIECES += [
    "Answer:",
    "Dr. ",
    "e.g. ",
    "! ",
    "…",
    ", ",
    "and ",
    "7 ",
    ASKED,
    "[x](y)",
    "```",
    "\t",
    "I'm sorry",
    "é",
    "狗",
]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text, prompt=ASKED)
    assert clean(once, prompt=ASKED) == once
    assert once == " ".join(once.split())
    assert once == "" or any(c.isalnum() for c in once)


def test_a_long_stammer_is_cleaned_soon():
    assert clean("the red and blue ball " * 200) == "the red and blue ball"


def test_the_references_prompts_are_theirs_byte_for_byte():
    assert PROMPTS["spatial"] == (
        "You are viewing an image. Please describe the content of the image in one sentence, focusing specifically on "
        "the spatial relationships between objects. Include detailed observations about all the objects and how they "
        "are positioned in relation to other objects in the image. Your response should be limited to this "
        "description, without any additional information"
    )
    assert filled("spatial_label", "wall-other") == (
        "You are viewing an image with the main subject wall. Please describe the content of the image in one "
        "sentence, focusing specifically on the spatial relationships between objects, and the main subject of the "
        "description should be wall. Include detailed observations about all the objects and how they are positioned "
        "in relation to other objects in the image. Your response should be limited to this description, without any "
        "additional information"
    )


@pytest.mark.parametrize(
    ("prompt", "label", "expected"),
    [
        ("region", "dog", REGION.replace("{label}", "dog")),
        ("image", "image", IMAGE),
        ("What is {label}?", "a {thing}", "What is a {thing}?"),
        ("{label} or {label}", "sky-other", "sky or sky"),
        ("", "dog", ""),
    ],
)
def test_a_prompt_is_filled_with_the_label(prompt, label, expected):
    assert filled(prompt, label) == expected


def test_only_the_whole_image_is_the_whole_image():
    assert is_whole(Layout.whole())
    assert not is_whole(Layout.empty())
    assert not is_whole(Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["dog"]))
    assert not is_whole(Layout(torch.tensor([[0.0, 0.0, 1.0, 0.5]]), ["image"]))


# ---- asking

BOXES = [(0, 0, 40, 40), (10, 10, 42, 42), (0, 0, 31, 33), (20, 0, 90, 80)]


class Asked:
    """Answers with what it was asked, and remembers in which batches."""

    def __init__(self, answer="for {prompt}: {height} by {width} from {corner}"):
        self.answer, self.sizes = answer, []

    def __call__(self, crops, prompts):
        assert len(crops) == len(prompts)
        self.sizes.append([tuple(crop.shape[1:]) for crop in crops])
        return [
            self.answer.format(prompt=text, height=x.shape[1], width=x.shape[2], corner=int(x[0, 0, 0]))
            for x, text in zip(crops, prompts, strict=True)
        ]


def scene(n, seed=0, size=(90, 120)):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    boxes = torch.tensor(BOXES[:n], dtype=torch.float32).reshape(-1, 4) / torch.tensor([size[1], size[0]] * 2)
    return image, Layout(boxes, [f"thing{seed}{i}" for i in range(n)])


def ask_about(images, layouts, ask, **options):
    return describe(images, layouts, ask, **{"prompt": "the {label}", "image_prompt": "all", **options})


def test_nothing_is_asked_about_no_images_and_no_regions():
    ask = Asked()
    assert ask_about([], [], ask) == []
    image, _ = scene(0)
    assert ask_about([image, image], [Layout.empty()] * 2, ask) == [[], []]
    assert ask.sizes == []


def test_every_region_gets_the_answer_to_its_own_crop():
    images, layouts = zip(scene(4), scene(0, 1), scene(2, 2, (200, 130)), strict=True)
    ((first, second, third, fourth), none, (fifth, sixth)) = ask_about(images, layouts, Asked())
    assert first == f"for the thing00: 40 by 40 from {images[0][0, 0, 0]}"
    assert second == f"for the thing01: 32 by 32 from {images[0][0, 10, 10]}"
    assert third == "thing02"  # 31 x 33 pixels, one less than needed
    assert fourth == f"for the thing03: 80 by 70 from {images[0][0, 0, 20]}"
    assert none == []
    assert fifth == f"for the thing20: 40 by 40 from {images[2][0, 0, 0]}"
    assert sixth == f"for the thing21: 32 by 32 from {images[2][0, 10, 10]}"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_answers_do_not_depend_on_the_batch(batch_size):
    images, layouts = zip(scene(4), scene(3, 1), scene(4, 2), strict=True)
    ask = Asked()
    assert ask_about(images, layouts, ask, batch_size=batch_size) == ask_about(images, layouts, Asked())
    asked = sum(ask.sizes, [])
    assert len(asked) == 8
    assert all(len(batch) <= batch_size for batch in ask.sizes)
    assert len(ask.sizes) == -(-8 // batch_size)  # across images: no batch is left half empty
    assert asked == sorted(asked, key=lambda size: size[0] * size[1])  # like sizes together


def test_an_image_alone_is_asked_another_question_however_small_it_is():
    image, _ = scene(0, size=(5, 6))
    assert ask_about([image], [Layout.whole()], Asked("for {prompt}")) == [["for all"]]
    assert ask_about([image], [Layout.whole()], Asked("")) == [[""]]  # "image" would describe nothing


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "thing00"), ({"small": "label"}, "thing00"), ({"small": "empty"}, ""), ({"min_area": 0}, "for the thing00")],
)
def test_a_small_region_is_not_asked_about(options, expected):
    image, _ = scene(0)
    tiny = Layout(torch.tensor([[0.5, 0.5, 0.51, 0.51]]), ["thing00"])
    assert ask_about([image], [tiny], Asked("for {prompt}"), **options) == [[expected]]


def test_an_empty_answer_takes_the_label_unless_answers_are_kept_as_they_are():
    image, layout = scene(1)
    assert ask_about([image], [layout], Asked(" \n")) == [["thing00"]]
    assert ask_about([image], [layout], Asked(" \n"), clean=False) == [[" \n"]]
    assert ask_about([image], [layout], Asked("A dog. A dog."), clean=False) == [["A dog. A dog."]]
    assert ask_about([image], [layout], Asked("{prompt}: A dog. A cat.")) == [["A dog."]]


def test_legacy_crops_are_truncated_and_black_outside_of_the_image():
    image, _ = scene(0)
    layout = Layout(torch.tensor([[-0.1, 0.0, 0.5, 0.505]]), ["dog"])
    seen = []

    def ask(crops, prompts):
        seen.extend(crops)
        return ["a dog"] * len(crops)

    ask_about([image], [layout], ask, legacy=True, padding=0.5, blur=0.5)
    (crop,) = seen
    assert crop.shape == (3, 45, 72)
    assert not crop[:, :, :12].any() and torch.equal(crop[:, :, 12:], image[:, :45, :60])


def test_a_sliver_makes_no_huge_input():
    image = torch.zeros(3, 1024, 1024, dtype=torch.uint8)
    layout = Layout(torch.tensor([[0.0, 0.0, 8 / 1024, 1.0]]), ["pole"])
    sizes = Asked("a pole")
    ask_about([image], [layout], sizes)
    ask_about([image], [layout], sizes, legacy=True)
    assert sizes.sizes == [[(1024, 128)], [(1024, 9)]]  # 512 pixels wide, these are 4096 and 58 254 long


def test_a_wrong_word_for_small_regions_is_refused():
    with pytest.raises(ValueError, match='"label" or stay "empty", got \'none\''):
        ask_about([], [], Asked(), small="none")
