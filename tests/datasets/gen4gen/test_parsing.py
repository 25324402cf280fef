"""What language models say: read where it can be, refused where not, never run."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenewright.datasets.gen4gen.planner.parsing import parse_backgrounds, parse_boxes, parse_ratios

CAT, PLANT = ("cat", (21.0, 181.0, 211.0, 159.0)), ("house plant", (269.0, 181.0, 209.0, 160.0))

LAYOUTS = {
    "as the examples": "[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]",
    "JSON": '[["cat", [21, 181, 211, 159]], ["house plant", [269, 181, 209, 160]]]',
    "a code fence": "```python\n[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]\n```",
    "a code fence on one line": "```[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]```",
    "text around": "Sure (of course)! Objects: [('cat', [21, 181, 211, 159]), "
    "('house plant', [269, 181, 209, 160])]\nI hope that (x) helps [1].",
    "an apostrophe before": "The cat's and dog's place: [('cat', [21, 181, 211, 159]), "
    "('house plant', [269, 181, 209, 160])]",
    "a background": "[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]\n"
    "Background prompt: a garden with ('bee', [1, 2, 3, 4])",
    "more examples after it": "[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]\n\n"
    "    Caption: one cow.\n    Objects: [('cow', [1, 2, 300, 400])]",
    "thoughts before": "<think>maybe [('cat', [1, 2, 3, 4])]?</think>\n"
    "[('cat', [21, 181, 211, 159]), ('house plant', [269, 181, 209, 160])]",
    "objects": '{"objects": [{"name": "cat", "box": [21, 181, 211, 159]}, '
    '{"name": "house plant", "box": [269, 181, 209, 160]}], "background prompt": "in the garden"}',
    "other keys": "[{'label': 'cat', 'Bounding box': [21, 181, 211, 159]}, "
    "{'object': 'house plant', 'x': 269, 'y': 181, 'width': 209, 'height': 160}]",
    "a mapping": '{"cat": [21, 181, 211, 159], "house plant": [[269, 181, 209, 160]]}',
    "tuples": "(('cat', (21, 181, 211, 159)), ('house plant', (269, 181, 209, 160)))",
    "flat": "[('cat', 21, 181, 211, 159), ['house plant', 269, 181, 209, 160]]",
    "numbers as strings": '[["cat", ["21", "181", "211px", " 159 "]], ["house plant", [269.0, 181.0, 2.09e2, 160]]]',
    "no quotes": "[(cat, [21, 181, 211, 159]), (house plant, [269, 181, 209, 160])]",
    "one per line": "('cat', [21, 181, 211, 159])\n('house plant', [269, 181, 209, 160])",
    "a list of points": "- **cat**: [21, 181, 211, 159]\n- **house plant**: (269, 181, 209, 160)",
}


@pytest.mark.parametrize("reply", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_layout_is_read_however_it_is_written(reply):
    assert parse_boxes(reply) == [CAT, PLANT]


def test_a_name_may_occur_more_than_once():
    assert [x for x, _ in parse_boxes("[('cat', [1, 2, 3, 4]), ('dog', [1, 2, 3, 4]), ('cat', [5, 6, 7, 8])]")] == [
        *("cat", "dog", "cat")
    ]
    assert parse_boxes('{"cat": [[1, 2, 3, 4], [5, 6, 7, 8]]}') == [("cat", (1, 2, 3, 4)), ("cat", (5, 6, 7, 8))]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no list of"),
        ("I am sorry, but I cannot draw.", "no list of"),
        ("[]", "no list of"),
        ("[('cat', [1, 2, 3])]", r"must be \[x, y, width, height\], got \[1, 2, 3\]"),
        ("[('cat', [1, 2, 3, 'wide'])]", r"must be \[x, y, width, height\]"),
        ("[('cat', [1, 2, True, 4])]", r"must be \[x, y, width, height\]"),
        ('[["cat", [1, 2, NaN, 4]]]', "finite"),
        ('[["cat", [1, 2, Infinity, 4]]]', "finite"),
        (f"[('cat', [1, 2, 1{'0' * 400}, 4])]", "finite"),
        ('{"name": "cat"}', r"must be \[x, y, width, height\]"),
        ("[('cat', [1, 2, 3, 4])]" + " " * 20_000, "characters, more than"),
    ],
)
def test_what_is_no_layout_is_refused_with_what_is_wrong(reply, reason):
    with pytest.raises(ValueError, match=reason):
        parse_boxes(reply)


@pytest.mark.parametrize("parse", [parse_boxes, parse_backgrounds, lambda x: parse_ratios(x, 2)])
def test_an_answer_is_never_run(parse, tmp_path):
    victim = tmp_path / "ran"
    for reply in (
        f"__import__('pathlib').Path({str(victim)!r}).touch()",
        f"[('cat', [1, 2, 3, __import__('pathlib').Path({str(victim)!r}).touch() or 4])]",
        f"[('cat', [open({str(victim)!r}, 'w') and 1, 2, 3, 4])]",
        f"{{'ratios': [open({str(victim)!r}, 'w'), 1], 'backgrounds': [open({str(victim)!r}, 'w')]}}",
    ):
        try:
            parse(reply)
        except ValueError:
            pass
    assert not victim.exists()


#: Pieces of answers, put together in any order.
PIECES = st.sampled_from(
    ["[", "]", "(", ")", "{", "}", "'", '"', ",", ":", "\\", "\n", "```", "`", "cat", "'cat', [1, 2, 3, 4]"]
    + ["Background:", "Background prompt:", "Ratio:", "<think>", "</think>", " in the garden"]
    + ["1", "-0.5", "NaN", "1e999", "0x" + "f" * 300]
    + ["name", '"box":', "None", "True", "*", "- ", "1. ", "\\x", "é", "猫", "\x00", "f'{x}'", "b'x'", "1j"]
)  # fmt: skip


@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200)))
def test_whatever_is_said_is_read_or_refused(reply):
    for parse in (parse_boxes, parse_backgrounds, lambda x: parse_ratios(x, 2)):
        try:
            found = parse(reply)
        except ValueError as refusal:
            assert str(refusal)
        else:
            assert found


@pytest.mark.parametrize(
    "unit",
    ["[", "(", "{", "{'a':", "a", " ", "\n", "'", "1", "1,", "a,", "[1,", "cat: [1", "Background:", "-", "```\n"],
)
@pytest.mark.parametrize("end", ["", "]", "x: ["])
def test_long_nonsense_takes_no_time(unit, end):
    reply = (unit * 20_000)[: 20_000 - len(end)] + end
    start = time.process_time()
    for parse in (parse_boxes, parse_backgrounds, lambda x: parse_ratios(x, 2)):
        try:
            parse(reply)
        except ValueError:
            pass
    assert time.process_time() - start < 2


BACKGROUNDS = {
    "as the examples": "garden, forest\n    Background: in the garden, on the grass",
    "labels": "Scene: garden, forest\nBackground: in the garden, on the grass",
    "marks": "**Scene:** garden\n**Background:** In the garden, on the grass.",
    "no label": "garden, forest\nin the garden, on the grass",
    "alone": "in the garden, on the grass",
    "a list of points": "Backgrounds:\n- in the garden\n- on the grass\n",
    "JSON": '```json\n{"scenes": ["garden"], "backgrounds": ["in the garden", "on the grass"]}\n```',
    "a list": '["in the garden", "on the grass"]',
    "more examples after it": "garden\nBackground: in the garden, on the grass\n\n"
    "Caption: a cow.\nScene: farm\nBackground: on the farm, in the barn",
    "said twice, and one that is no place": "Background: in the garden, garden, in  the garden, on the grass",
}


@pytest.mark.parametrize("reply", BACKGROUNDS.values(), ids=BACKGROUNDS.keys())
def test_backgrounds_are_read_however_they_are_written(reply):
    assert [x.lower() for x in parse_backgrounds(reply)] == ["in the garden", "on the grass"]


@pytest.mark.parametrize(
    "reply", ["", "\n", "garden, forest", "Background:", "I cannot do that.", "Background: garden"]
)
def test_an_answer_without_backgrounds_is_refused(reply):
    with pytest.raises(ValueError, match="no line 'Background"):
        parse_backgrounds(reply)


RATIOS = {
    "as the examples": "0.8, 1.0, 0.75",
    "a label": "Ratio: 0.8, 1.0, 0.75.",
    "a sentence": "Sure! Here are the 3 ratios: 0.8, 1, .75\n\nObjects: cat\nRatio: 1.0",
    "names": "cat: 0.8, dog2: 1.0, house plant: 0.75",
    "lines": "cat: 0.8\ndog: 1.0\nhouse plant: 0.75",
    "numbered lines": "1. cat 0.8\n2. dog 1.0\n3. house plant 0.75",
    "a fence": "```\n[0.8, 1.0, 0.75]\n```",
    "JSON": '{"ratios": [0.8, 1.0, 0.75]}',
    "another unit": "4, 5, 3.75",
}


@pytest.mark.parametrize("reply", RATIOS.values(), ids=RATIOS.keys())
def test_ratios_are_read_however_they_are_written(reply):
    assert parse_ratios(reply, 3) == pytest.approx([0.8, 1.0, 0.75])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        *[("", "got 0"), ("0.8, 1.0", "expected 3 numbers .*, got 2"), ("1, 1, 1, 1", "got 4"), ("big", "got 0")],
        *[("0, 1, 0.5", "above 0"), ("-0.5, 1, 0.5", "above 0"), (f"1{'0' * 400}, 1, 1", "above 0")],
    ],
)
def test_wrong_ratios_are_refused_with_what_is_wrong(reply, reason):
    with pytest.raises(ValueError, match=reason):
        parse_ratios(reply, 3)
