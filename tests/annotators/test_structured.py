"""One structured call per image: what is asked, what is read from the reply, and what happens to the rest."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenewright.annotators.captions import clean
from scenewright.annotators.structured import describe_together, draw_numbers, parse, schema
from scenewright.layout import Layout

FENCED = 'Sure! Here you go:\n```json\n{"1": "A red cup.", "2": "A dog on grass."}\n```\nAnything else?'
BOTH = {1: "A red cup.", 2: "A dog on grass."}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("", {}),
        ("I cannot see any region.", {}),
        ("{", {}),
        ("[]", {}),
        ('["A red cup."]', {}),
        ('{"1": "A red cup.", "2": "A dog on grass."}', BOTH),
        (FENCED, BOTH),
        ('{"regions": {"1": "A red cup.", "2": "A dog on grass."}}', BOTH),
        ('[{"number": 1, "caption": "A red cup."}, {"number": 2, "caption": "A dog on grass."}]', BOTH),
        ('{"1": "A red cup.", "2": "A dog on', {1: "A red cup."}),
        ('{"1": "A \\"red\\" cup.",', {1: 'A "red" cup.'}),
        ('{"1": "A red\ncup."}', {1: "A red cup."}),
        ('The set {x} is big. {"2": "A dog on grass."}', {2: "A dog on grass."}),
        ('{"0": "Nobody.", "3": "Nobody.", "-1": "Nobody.", "one": "Nobody.", "2": "A dog on grass."}', {2: BOTH[2]}),
        ('{"1": "", "2": "  "}', {}),
        ('{"1": null, "2": ["A dog on grass."]}', {}),
        ('{"1": {"caption": "A red cup."}, "2": "A dog on grass."}', {2: "A dog on grass."}),
        ('{"1": "I\'m sorry, but I cannot see it.", "2": "A dog on grass."}', {2: "A dog on grass."}),
        ('{"1": "x"} {"1": "A red cup.", "2": "A dog on grass."}', BOTH),
        ("[" * 100_000, {}),
        (
            r"""{"1": "The dog\'s red cup.", "2": "A \"dog\" on gr\u0061ss \u12."}""",
            {1: "The dog's red cup.", 2: 'A "dog" on grass u12.'},
        ),
        (r"""{"1": "The dog\'s red cup.", "2": "A do""", {1: "The dog's red cup."}),
        ('{"' + "1" * 5000 + '": "A red cup.", "2": "A dog on grass."}', {2: "A dog on grass."}),
    ],
)
def test_a_reply_is_read_for_its_sentences_and_nothing_else(reply, found):
    assert parse(reply, 2) == found


@given(st.lists(st.from_regex(r"[A-Z][a-z]{1,8} [a-z]{2,9}\.", fullmatch=True), max_size=30), st.integers(0, 8))
def test_what_is_written_as_asked_is_read_whole(sentences, indent):
    reply = json.dumps({str(i + 1): x for i, x in enumerate(sentences)}, indent=indent)
    assert parse(f"Here: {reply} Done.", len(sentences)) == {i + 1: clean(x) for i, x in enumerate(sentences)}


@given(st.text(max_size=200))
def test_no_reply_breaks_the_reading(reply):
    assert set(parse(reply, 3)) <= {1, 2, 3}


def test_the_schema_asks_for_one_sentence_under_each_number():
    text = {"type": "string"}
    assert schema(2)["properties"] == {"1": text, "2": text}
    assert schema(2)["required"] == ["1", "2"] and schema(2)["additionalProperties"] is False


# ---- the calls


def layout(count: int, side: float = 0.2) -> Layout:
    """Boxes along the diagonal, named 0, 1, …"""
    starts = torch.linspace(0, 1 - side, count)[:, None].expand(count, 2)
    return Layout(boxes=torch.cat([starts, starts + side], 1), labels=[f"thing {i}" for i in range(count)])


IMAGE = torch.zeros(3, 200, 300, dtype=torch.uint8)


class Model:
    """Answers every region with its label in a sentence, except those it is told to forget so many times."""

    def __init__(self, forget: dict[str, int] | None = None) -> None:
        self.forget, self.questions, self.crops = dict(forget or {}), [], []

    def ask(self, questions):
        self.questions += questions
        return [self._reply(x) for x in questions]

    def _reply(self, question) -> str:
        lines = [x for x in question.prompt.splitlines() if x[:1].isdigit()]
        assert len(lines) == question.regions
        names = {x.split(": ")[0]: x.split(": ")[1].split(" [")[0] for x in lines}
        known = {}
        for number, name in names.items():
            if self.forget.get(name, 0) > 0:
                self.forget[name] -= 1
            else:
                known[number] = f"Together {name}."
        return json.dumps(known)

    def alone(self, images, layouts):
        self.crops += [name for x in layouts for name in x.labels]
        return [[f"Alone {name}." for name in x.labels] for x in layouts]

    def describe(self, images, layouts, **options):
        return describe_together(images, layouts, self.ask, self.alone, **options)


def test_no_images_and_no_regions_take_no_call():
    model = Model()
    assert model.describe([], []) == []
    assert model.describe([IMAGE, IMAGE], [Layout.empty(), Layout.empty()]) == [[], []]
    assert not model.questions and not model.crops


def test_all_regions_of_an_image_take_one_call():
    model = Model()
    captions = model.describe([IMAGE, IMAGE], [layout(3), layout(5)])
    assert captions == [[f"Together thing {i}." for i in range(n)] for n in (3, 5)]
    assert [x.regions for x in model.questions] == [3, 5] and not model.crops


def test_a_long_layout_takes_several_calls_and_keeps_its_order():
    model = Model()
    assert model.describe([IMAGE], [layout(10)], regions_per_call=4) == [[f"Together thing {i}." for i in range(10)]]
    assert [x.regions for x in model.questions] == [4, 4, 2]
    with pytest.raises(ValueError, match="regions_per_call must be at least 1, got 0"):
        model.describe([IMAGE], [layout(3)], regions_per_call=0)


def test_what_is_missing_is_asked_for_once_more_and_then_alone():
    model = Model(forget={"thing 1": 1, "thing 3": 9})
    captions = model.describe([IMAGE, IMAGE], [layout(4), Layout.empty()])
    assert captions == [["Together thing 0.", "Together thing 1.", "Together thing 2.", "Alone thing 3."], []]
    assert [x.regions for x in model.questions] == [4, 2]  # numbered anew
    assert model.crops == ["thing 3"]


def test_the_whole_image_and_a_lone_region_are_asked_about_alone():
    model = Model()
    assert model.describe([IMAGE, IMAGE], [Layout.whole(), layout(1)]) == [["Alone image."], ["Alone thing 0."]]
    assert not model.questions


def test_small_regions_are_no_part_of_the_call():
    model = Model()
    mixed = Layout(
        boxes=torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.05, 0.05], [0.5, 0.5, 1, 1]]), labels=["a", "speck", "b"]
    )
    assert model.describe([IMAGE], [mixed]) == [["Together a.", "Alone speck.", "Together b."]]
    assert model.crops == ["speck"]


def test_boxes_are_stated_in_thousandths_or_in_pixels_as_the_model_sees_them():
    model, two = Model(), Layout(boxes=torch.tensor([[0, 0, 0.5, 1.0], [0.25, 0.1, 1, 0.9]]), labels=["a  b\n", ""])
    model.describe([IMAGE], [two], min_area=0)
    model.describe([IMAGE], [two], min_area=0, frame=lambda image: (56, 84), draw_boxes=True)
    first, second = (x.prompt for x in model.questions)
    assert "1: a b [0, 0, 500, 1000]\n2: something [250, 100, 1000, 900]\n" in first and "thousandths" in first
    assert "1: a b [0, 0, 42, 56]\n2: something [21, 6, 84, 50]\n" in second and "84 wide and 56 high" in second
    assert "drawn" in second and "drawn" not in first
    assert model.questions[0].picture is IMAGE and not torch.equal(model.questions[1].picture, IMAGE)


def test_numbers_are_drawn_on_the_boxes_and_the_image_is_left_alone():
    image = torch.full((3, 200, 300), 127, dtype=torch.uint8)
    drawn = draw_numbers(image, layout(3, side=0.3))
    assert drawn.shape == image.shape and drawn.dtype == torch.uint8 and (image == 127).all()
    changed = (drawn != image).any(0)
    assert changed[0, 0:90].all() and changed[0:60, 0].all()  # the first box's edges
    assert not changed[150:, :100].any()  # nothing lies there
    assert torch.equal(draw_numbers(image, Layout.empty()), image)
