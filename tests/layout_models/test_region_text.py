"""What regions say: every token keeps its own box, and compat says what the reference says."""

import json
import logging
import os
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout import Layout
from scenewright.layout_models.rich_context import region_text as module
from scenewright.layout_models.rich_context.compat import compat_text, draw
from scenewright.layout_models.rich_context.grounding import canvas
from scenewright.layout_models.rich_context.region_text import RegionText, Tokenizer, region_text
from scenewright.layout_models.rich_context.regions import Regions, partition

FOLDER = Path(os.environ.get("SCENEWRIGHT_GOLDEN", Path(__file__).parents[1] / "golden"))
#: Fixture and mode; a folder without any is a failing test.
FIXTURES = [
    (f"regions/{path.stem}", compat)
    for path, about in ((path, json.loads(path.read_text())) for path in sorted(FOLDER.glob("regions/*.json")))
    for compat in ((True, False) if about.get("mode_independent") else (True,))
    if about["kind"] == "region_slots"
] or [("regions/none found", True)]


class Bytes:
    """One token per byte but for blanks, so that all texts differ; punctuation before a separator merges with it."""

    bos, eos, pad, separator, length = 300, 301, 302, ord(";"), 77

    def tokens(self, text: str) -> list[int]:
        for mark in ".)'\"%(":
            text = text.replace(mark + ";", chr(200 + ord(mark) % 50))
        return [ord(x) for x in text if x != " "]


class Known:
    """The token ids that a fixture gives for its texts, alone and joined."""

    def __init__(self, about: dict[str, Any], ids: torch.Tensor) -> None:
        config = about["tokenizer"]
        self.bos, self.eos, self.pad = config["bos"], config["eos"], config["pad"]
        self.separator, self.length = config["separator_id"], config["length"]
        self.ids = {}
        for text, row, spans in zip(about["region_texts"], ids.tolist(), about["spans"], strict=True):
            self.ids[text] = row[1 : row.index(self.eos)]
            labels = text.split("; ")
            if len(spans) == len(labels):  # no separator was swallowed
                *before, (label, last) = zip(labels, spans, strict=True)
                self.ids |= {x + ";": [*row[slice(*span)], self.separator] for x, span in before}
                self.ids[label] = row[slice(*last)]

    def tokens(self, text: str) -> list[int]:
        return self.ids[text]


def squares(count: int, step: int = 16) -> Regions:
    """Each box lies in the one before it: region k has the first k of them."""
    side = 8 * (count + 1)
    corners = torch.tensor([[0, 0, side - 8 * i, side] for i in range(count)]).double()
    return partition(corners, side, side)


def spoken(text: RegionText, region: int) -> dict[int, list[int]]:
    """The tokens of each object, in order."""
    found: dict[int, list[int]] = {}
    for token, owner in zip(text.ids[region].tolist(), text.owner[region].tolist(), strict=True):
        if owner >= 0:
            found.setdefault(owner, []).append(token)
    return found


def test_a_canvas_without_boxes_says_nothing_and_is_attended_to_whole():
    regions = partition(torch.zeros(0, 4), 64, 64)
    text = region_text(regions, [], Bytes())
    assert text.ids.tolist() == [[300, 301] + [302] * 75]
    assert text.keys.all() and not text.bias().any() and (text.boxes == -1).all() and not text.weights.any()


def test_the_protocol_can_be_asked():
    assert isinstance(Bytes(), Tokenizer)


def test_labels_stand_in_order_around_the_separator_and_only_they_are_attended_to():
    regions = partition(torch.tensor([[0.0, 0, 64, 64], [0, 0, 32, 64]]), 64, 64)
    text = region_text(regions, ["a cup", "tea"], Bytes())
    both = int(regions.ids[0, 0])
    assert text.ids[both, :10].tolist() == [300, *b"acup", ord(";"), *b"tea", 301]
    assert (text.ids[both, 10:] == 302).all()
    assert text.owner[both, :10].tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, 1, -1]
    assert text.keys[both].tolist() == (text.owner[both] >= 0).tolist()
    assert text.bias(2.0)[both, 1:9].tolist() == [-1.0] * 4 + [0.0] * 4  # the larger one is half as loud
    assert not text.bias(0.0).any()
    assert text.boxes[both, 1].tolist() == [0, 0, 1, 1] and text.boxes[both, 6].tolist() == [0, 0, 0.5, 1]
    assert text.boxes[both, 5].tolist() == [-1] * 4


@pytest.mark.parametrize("mark", string.punctuation)
def test_labels_keep_their_own_boxes_whatever_they_end_in(mark):
    regions = squares(3)
    labels = [f"cup{mark}", f"red tea{mark}", f"box{mark}{mark}"]
    text = region_text(regions, labels, Bytes())
    for region, members in enumerate(regions.membership):
        expected = {i: Bytes().tokens(labels[i].replace(";", "")) for i in members.nonzero()[:, 0].tolist()}
        assert spoken(text, region) == expected
        for i in expected:
            assert (text.boxes[region, text.owner[region] == i] == regions.fractions[i].float()).all()
            assert (text.weights[region, text.owner[region] == i] == regions.weights[region, i].float()).all()


def test_a_mark_that_only_joins_the_separator_to_its_word_is_written_as_in_the_joined_text():
    class Words(Bytes):
        """A mark at the end of a word has a token of its own, as in byte-pair vocabularies."""

        def tokens(self, text: str) -> list[int]:
            found = [ord(x) for x in text]
            return found[:-1] + [found[-1] + 128] * (text[-1] != ";") + found[-1:] * (text[-1] == ";")

    regions = partition(torch.tensor([[0.0, 0, 64, 64], [0, 0, 32, 64]]), 64, 64)
    text = region_text(regions, ["no!", "why?"], Words())
    both, one = int(regions.ids[0, 0]), int(regions.ids[0, -1])
    assert spoken(text, both) == {0: [*b"no!"], 1: [*b"why", ord("?") + 128]}
    assert spoken(text, one) == {0: [*b"no", ord("!") + 128]}


def test_five_hundred_words_are_cut_to_what_fits_and_this_is_said_once(caplog):
    module._say_shortened.cache_clear()
    with caplog.at_level(logging.WARNING):
        text = [region_text(squares(1), ["word " * 500], Bytes()) for _ in range(3)][-1]
    assert len(caplog.records) == 1 and "longer than 75 tokens" in caplog.text
    assert text.ids[0, 0] == 300 or text.ids[0, 76] == 301
    assert len(spoken(text, int(text.owner.amax(1).argmax()))[0]) == 75


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(0, 120), min_size=1, max_size=45), positions=st.sampled_from([5, 12, 75]))
def test_long_labels_share_the_positions_fairly(lengths, positions):
    weights = np.linspace(0.1, 1, len(lengths))[None]
    wanted = np.array([lengths])
    shares = module._shares(wanted, weights, positions)[0]
    speaking = shares > 0
    used = int(shares.sum() + max(speaking.sum() - 1, 0))
    assert (shares <= lengths).all() and used <= positions
    most = (positions + 1) // 2
    # of more objects than there is room for, the loudest speak
    loudest = [i for i in reversed(range(len(lengths))) if lengths[i]][:most]
    assert sorted(loudest) == speaking.nonzero()[0].tolist()
    cut = speaking & (shares < lengths)
    if cut.any():
        # nothing is left over, who was cut got as much as anyone, up to the rest of a division
        assert used == positions and shares[cut].min() >= shares.max() - 1
    elif speaking.sum() == (np.array(lengths) > 0).sum():
        assert shares.tolist() == lengths


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 8))
def test_every_region_says_a_beginning_of_each_of_its_labels(seed, count):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (count, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(8, 256, (count, 2))], 1))
    labels = ["".join(rng.choice(list(string.printable), rng.integers(0, 40))) for _ in range(count)]
    regions = partition(boxes, 256, 256)
    text = region_text(regions, labels, Bytes())
    for region, members in enumerate(regions.membership):
        row, found = text.ids[region].tolist(), spoken(text, region)
        whole = {i: Bytes().tokens(labels[i].replace(";", "")) for i in members.nonzero()[:, 0].tolist()}
        whole = {i: tokens for i, tokens in whole.items() if tokens}
        assert found.keys() == whole.keys() and list(found) == sorted(found)
        assert all(whole[i][: len(tokens)] == tokens for i, tokens in found.items())
        joined = sum(([Bytes.separator, *tokens] for tokens in found.values()), [])[1:]
        assert row == [300, *joined, 301] + [302] * (75 - len(joined))


def test_labels_and_boxes_must_be_as_many():
    with pytest.raises(ValueError, match=r"labels must have one entry per box \(2\), got 1"):
        region_text(squares(2), ["one"], Bytes())


def test_compat_joins_before_it_tokenises_and_loses_the_separator():
    regions = partition(torch.tensor([[0.0, 0, 56, 56], [0, 0, 24, 56]]), 64, 64, compat=True)
    text = compat_text(*draw(regions), ["cup.", "tea"], Bytes())
    both = int(regions.ids[0, 0])
    assert set(text.owner[both].tolist()) == {-1, 0} and (text.boxes[both, 1:8] == regions.fractions[0].float()).all()


def test_a_draw_is_that_of_its_seed_and_none_where_the_slots_suffice():
    regions = partition(torch.rand(12, 4, generator=torch.Generator().manual_seed(0)).cumsum(1) * 200, 512, 512,
                        compat=True)  # fmt: skip
    assert len(regions) > 30
    some, order = draw(regions, 30, 1)
    assert int(some.kept.sum()) == 30 and sorted(order.tolist()) == some.kept.nonzero()[:, 0].tolist()
    assert torch.equal(order, draw(regions, 30, 1)[1]) and not torch.equal(order, draw(regions, 30, 2)[1])
    assert draw(regions, 200)[1].tolist() == list(range(len(regions)))


def test_a_canvas_in_compat_mode_is_drawn_and_joined_by_the_reference_rules():
    layout = Layout(boxes=torch.rand(12, 4, generator=torch.Generator().manual_seed(0)).cumsum(1).clamp(max=3) / 3,
                    labels=[f"thing {i}." for i in range(12)])  # fmt: skip
    prepared = canvas(layout, 512, 512, [(64, 64), (16, 16)], Bytes(), compat=True, slots=5, seed=3)
    regions, order = draw(partition(layout.pixel_boxes(512, 512), 512, 512, compat=True), 5, 3)
    assert torch.equal(prepared.regions.kept, regions.kept) and int(regions.kept.sum()) == 5
    assert torch.equal(prepared.ids[0], regions.ids) and torch.equal(prepared.ids[1], regions.ids[::4, ::4])
    expected = compat_text(regions, order, layout.labels, Bytes())
    assert torch.equal(prepared.text.ids, expected.ids) and torch.equal(prepared.text.boxes, expected.boxes)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "compat"), FIXTURES)
def test_slots_are_those_of_the_reference(golden, name, compat):
    about, tensors = golden(name)
    config, tolerance = about["config"], about["tolerance"]
    tokenizer = Known(about, tensors["input_ids"])
    assert tokenizer.ids
    regions = partition(tensors["boxes"], config["height"], config["width"], compat=compat)
    assert len(regions) == about["regions"]
    regions, order = draw(regions, config["slots"], config["numpy_seed"] or 0)
    assert order.tolist() == tensors["slot_to_region"].tolist()
    labels = about["labels"]
    text = compat_text(regions, order, labels, tokenizer) if compat else region_text(regions, labels, tokenizer)
    used = len(order)
    assert torch.equal(text.ids[order].int(), tensors["input_ids"])
    boxes = (text.boxes[order] - tensors["bbox_embeddings"][:used]).abs()
    assert boxes.max() <= tolerance["bbox_embeddings"] and (tensors["bbox_embeddings"][used:] == -1).all()
    silent = tensors["cross_attention_mask"].amin()
    bias = torch.where(text.owner >= 0, text.bias(config["attention_weight_scale"]), silent)[order]
    assert (bias - tensors["cross_attention_mask"][:used]).abs().max() <= tolerance["cross_attention_mask"]
    slot = torch.full((len(regions),), -1).scatter(0, order, torch.arange(used))
    assert torch.equal(slot[regions.ids].short(), tensors["slot_ids"])
    seen = np.packbits(regions.union[order][:, regions.ids.flatten()].numpy(), axis=1)
    assert np.array_equal(seen, tensors["union_masks_packed"][:used].numpy())
    assert tensors["object_masks"].sum() == used
