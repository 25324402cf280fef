"""Tags become prompts, and what a detector says becomes boxes and names; part of it as reference data says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

from scenewright.annotators.prompts import Prompt, assign, chunks, distinct, joined, packed, phrases
from scenewright.annotators.suppression import suppress
from scenewright.layout import Layout

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, ",": 5, ".": 6, "?": 7}
WORDS = ["cat", "dog", "red", "bus", "arm", "##chair", "t", "-", "shirt", "st", "bernard", "'", "s", "rubik", "cube"]


@pytest.fixture(scope="module")
def bert():
    from transformers import BertTokenizer

    return BertTokenizer(vocab=SPECIAL | {word: 8 + i for i, word in enumerate(WORDS)}, do_lower_case=True)


@pytest.mark.golden
def test_captions_are_those_of_the_reference(golden):
    about, _ = golden("codecs/detector_text")
    for tags, caption in zip(about["tag_strings"], about["captions"], strict=True):
        assert joined(tags.split(" | ") if tags else []) == caption


@pytest.mark.golden
def test_suppression_is_that_of_the_reference(golden):
    about, tensors = golden("codecs/nms")
    for name, threshold in about["thresholds"].items():
        boxes, scores = tensors[f"boxes_{name}"], tensors[f"scores_{name}"]
        labels = [str(i) for i in range(len(boxes))]  # that tell which are kept; they rule each other out all the same
        kept = suppress(Layout(boxes=boxes, labels=labels, scores=scores), nms_threshold=threshold)
        assert [int(x) for x in kept.labels] == tensors[f"keep_{name}"].tolist(), name


@pytest.mark.golden
def test_boxes_are_those_of_the_reference(golden):
    about, tensors = golden("codecs/boxes")
    boxes = box_convert(tensors["cxcywh_normalized"], "cxcywh", "xyxy")
    layout = Layout(boxes=boxes, labels=[""] * len(boxes))
    found = layout.pixel_boxes(about["config"]["image_height"], about["config"]["image_width"])
    assert torch.allclose(found, tensors["xyxy_absolute"], rtol=0, atol=about["tolerance"]["xyxy_absolute"])


@pytest.mark.parametrize(
    ("tags", "caption"),
    [([], "."), (["cat", "dog"], "cat, dog."), ([" Cat."], "cat."), (["T-shirt"], "t-shirt."), (["a", ""], "a,.")],
)
def test_a_caption_is_lower_case_and_ends_in_a_period(tags, caption):
    assert joined(tags) == caption


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ([], []),
        ([" ", ""], []),
        (["Dog", "cat", "dog", " DOG "], ["Dog", "cat"]),
        (["red  bus", "Red bus"], ["red  bus"]),
    ],
)
def test_a_tag_is_asked_for_once_in_the_words_it_was_first_given(tags, kept):
    assert distinct(tags) == kept


@given(st.lists(st.text("ab", min_size=1, max_size=3)), st.integers(1, 4))
def test_chunks_lose_nothing_and_keep_the_order(tags, most):
    found = chunks(tags, max_tags=most)
    assert [tag for some in found for tag in some] == tags
    assert all(1 <= len(some) <= most for some in found)
    assert len(found) == -(-len(tags) // most)


def test_a_tag_that_fits_nowhere_is_alone():
    assert chunks(["aaaaa", "b", "cc", "d"], fits=lambda x: len("".join(x)) <= 3) == [["aaaaa"], ["b", "cc"], ["d"]]


def test_no_tags_need_no_prompt(bert):
    assert packed([], bert) == [] and packed([" "], bert) == []
    assert packed(["\u200b"], bert) == [], "a name that is no token to the text encoder"


def test_the_tokens_of_a_prompt_are_those_of_its_text(bert):
    (prompt,) = packed(["Cat", "Armchair", "red bus", "T-shirt"], bert)
    assert list(prompt.tokens) == bert("cat . armchair . red bus . t-shirt .")["input_ids"]
    (prompt,) = packed(["Cat", "Armchair"], bert, separator=", ")
    assert list(prompt.tokens) == bert("cat, armchair.")["input_ids"]


def test_spans_are_where_the_tags_are(bert):
    (prompt,) = packed(["Cat", "rubik's cube", "Armchair"], bert)
    words = bert.convert_ids_to_tokens(list(prompt.tokens))
    assert prompt.tags == ("Cat", "rubik's cube", "Armchair")
    spans = [words[start:stop] for start, stop in prompt.spans]
    assert spans == [["cat"], ["rubik", "'", "s", "cube"], ["arm", "##chair"]]


def test_a_border_inside_a_name_does_not_tear_it_apart(bert):
    (prompt,) = packed(["St. Bernard?", "[SEP]dog"], bert)
    words = bert.convert_ids_to_tokens(list(prompt.tokens))
    assert words[:5] == ["[CLS]", "st", "bernard", ".", "[UNK]"]
    assert words.count(".") == 2 and words.count("[SEP]") == 1 and "?" not in words
    assert prompt.tags == ("St. Bernard?", "[SEP]dog")


@given(st.lists(st.sampled_from(["cat", "dog", "red bus", "armchair", "st. bernard", "rubik's cube", "t-shirt"])))
def test_every_tag_is_asked_for_and_no_prompt_is_too_long(tags):
    from transformers import BertTokenizer

    bert = BertTokenizer(vocab=SPECIAL | {word: 8 + i for i, word in enumerate(WORDS)}, do_lower_case=True)
    prompts = packed(tags, bert, limit=9)
    assert [tag for prompt in prompts for tag in prompt.tags] == distinct(tags)
    assert all(len(prompt.tokens) <= 9 for prompt in prompts)


def test_a_name_longer_than_a_prompt_is_cut(bert):
    first, second = packed(["cat " * 50, "dog"], bert, limit=8)
    assert len(first.tokens) == 8 and first.spans == ((1, 6),)
    assert second.tags == ("dog",)


def test_hundreds_of_tags_are_all_asked_for(bert):
    names = [f"cat {'dog ' * (i // 30)}{'bus ' * (i % 30)}".strip() for i in range(300)]
    prompts = packed(names, bert)
    assert [tag for prompt in prompts for tag in prompt.tags] == names
    assert max(len(prompt.tokens) for prompt in prompts) <= 256


def test_a_query_has_the_tag_of_its_surest_token_and_no_other():
    prompt = Prompt(tokens=(2, 10, 6, 11, 12, 6, 3), tags=("a", "b"), spans=((1, 2), (3, 5)))
    probabilities = torch.tensor(
        [
            [0.9, 0.3, 0.9, 0.2, 0.4, 0.9, 0.9, 0.0],  # surest outside of all tags
            [0.0, 0.8, 0.0, 0.7, 0.7, 0.0, 0.0, 0.0],  # sure of both
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    scores, owners = assign(probabilities, prompt)
    assert owners[:2].tolist() == [1, 0]
    assert torch.equal(scores, torch.tensor([0.4, 0.8, 0.0])), "the token's own probability, in full"


def test_phrases_leave_out_the_first_and_the_last_position():
    probabilities = torch.tensor([[0.9, 0.1, 0.9, 0.3, 0.9], [0.9, 0.0, 0.0, 0.0, 0.9], [0.0, 0.2, 0.0, 0.0, 0.0]])
    before = probabilities.clone()
    assert phrases(probabilities, [100, 101, 102, 103, 104], 0.2) == [[102, 103], [], []]
    assert torch.equal(probabilities, before)
