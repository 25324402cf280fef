"""Layouts to what the layers attend to: each token once, with its own box, for whichever samples have a layout."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.grounding import Canvas, GroundingEncoder, box_code, canvas, ground

FOLDER = Path(os.environ.get("SCENEWRIGHT_GOLDEN", Path(__file__).parents[1] / "golden"))
#: A folder without any is a failing test.
FIXTURES = [
    f"regional_attention/{path.stem}"
    for path in sorted(FOLDER.glob("regional_attention/*.json"))
    if json.loads(path.read_text())["kind"] == "position_net"
] or ["regional_attention/none found"]
GRIDS = [(8, 12), (4, 6)]


class Letters:
    bos, eos, pad, separator, length = 1, 2, 0, 3, 17

    def tokens(self, text: str) -> list[int]:
        return [4 + ord(x) % 60 for x in text if x != " "]


class Encoder:
    """Features that depend on a token and all before it, and a list of what was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked += ids.tolist()
        table = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        return table[ids].cumsum(1)


def prepared(boxes: list[list[float]], labels: list[str], **options: Any) -> Canvas:
    layout = Layout(boxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)
    return canvas(layout, 64, 96, GRIDS, Letters(), **options)


def random_canvas(seed: int, count: int) -> Canvas:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.8, (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(0.05, 0.9, (count, 2)), 1)], 1)
    return prepared(boxes.tolist(), ["".join(rng.choice(list("abcdefg"), rng.integers(1, 7))) for _ in range(count)])


def seen(grounding: Any, level: int) -> list[list[tuple[float, ...]]]:
    """For each pixel what it attends to: bias, box and feature of each token, in order."""
    found = grounding.levels[level]
    rows = []
    for group in found.groups:
        for row, tokens in enumerate(group.tokens):
            real = group.bias[row, 0, 0] > -torch.inf
            index = tokens[real] if found.tokens is None else found.tokens[tokens[real]]
            said = torch.cat([group.bias[row, 0, 0][real, None], grounding.boxes[index], grounding.tokens[index]], 1)
            rows += [[tuple(x) for x in said.tolist()]] * group.pixels.shape[1]
    return [rows[i] for i in found.place.tolist()]


def test_without_layouts_nothing_is_encoded_and_all_may_be_dropped():
    encoder = Encoder()
    grounding = ground([None, None], encoder, GRIDS)
    assert encoder.asked == [] and grounding.rows is not None and not len(grounding.rows)
    assert grounding.dropped.flatten().tolist() == [1, 1] and set(grounding.levels) == {96, 24}
    assert ground([None, None], encoder, GRIDS, dropped=[False, True]).dropped.flatten().tolist() == [0, 1]
    assert not len(GroundingEncoder(5)(grounding).features)


def test_an_object_says_its_caption_and_its_label_where_it_has_none():
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    layout = Layout(boxes=boxes, labels=["cup", "tea"], captions=["a red cup", ""])
    text = canvas(layout, 64, 96, GRIDS, Letters()).text
    said = [row[(owner >= 0).nonzero()[:, 0]].tolist() for row, owner in zip(text.ids, text.owner, strict=True)]
    assert sorted(said) == sorted([Letters().tokens("a red cup"), Letters().tokens("tea")])


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 7), min_size=1, max_size=2), causal=st.booleans())
def test_each_pixel_attends_to_the_tokens_of_its_region_and_their_boxes(seed, counts, causal):
    canvases = [random_canvas(seed + i, n) for i, n in enumerate(counts)]
    grounding = ground(canvases, Encoder(), GRIDS, attention_weight_scale=2.0, causal=causal)
    for number, (h, w) in enumerate(GRIDS):
        pixels = seen(grounding, h * w)
        for i, one in enumerate(canvases):
            features = Encoder()(one.text.ids)
            for cell, region in enumerate(one.ids[number].flatten().tolist()):
                keys = one.text.keys[region]
                said = torch.cat([one.text.bias(2.0)[region, keys, None], one.text.boxes[region, keys],
                                  features[region, keys]], 1)  # fmt: skip
                assert pixels[i * h * w + cell] == [tuple(x) for x in said.tolist()]


def test_what_sequences_begin_with_in_common_is_encoded_and_projected_once():
    nested = [[0.0, 0, 1, 1], [0, 0, 0.75, 1], [0, 0, 0.5, 1], [0, 0, 0.25, 1]]
    one = prepared(nested, ["aaa", "bb", "c", "dd"])
    encoder = Encoder()
    assert len(ground([one, one], encoder, GRIDS).tokens) == 2 * 8 and len(encoder.asked) == 1
    encoder = Encoder()
    assert len(ground([one, one], encoder, GRIDS, causal=False).tokens) == 2 * (3 + 5 + 6 + 8)
    assert len(encoder.asked) == 4


def test_objects_of_one_name_keep_their_boxes_and_background_is_encoded_once():
    apart = [[0.0, 0, 0.25, 0.5], [0.5, 0, 0.75, 0.5]]
    encoder = Encoder()
    grounding = ground([prepared(apart, ["cup", "cup"])] * 3, encoder, GRIDS)
    assert len(encoder.asked) == 2  # "cup" and nothing
    assert len(grounding.tokens) == 3 * 2 * 3 + Letters.length
    assert len(grounding.boxes.unique(dim=0)) == 3


def test_a_grid_has_only_the_tokens_that_its_regions_say():
    corner = [[0.0, 0, 1, 1], [0, 0, 0.05, 0.05], [0.1, 0.15, 0.15, 0.2]]  # on the coarse grid the small ones meet
    grounding = ground([prepared(corner, ["aaa", "bb", "cc"])], Encoder(), GRIDS)
    fine, coarse = (grounding.levels[h * w].tokens for h, w in GRIDS)
    assert fine is not None and coarse is not None and set(fine.tolist()) != set(coarse.tolist())
    assert set(fine.tolist()) | set(coarse.tolist()) == set(range(len(grounding.tokens)))


def test_a_moved_grounding_has_the_asked_precision_and_no_features_of_before():
    grounding = ground([prepared([[0.0, 0, 0.5, 1]], ["cup"]), None], Encoder(), GRIDS, self_attention=True)
    GroundingEncoder(5)(grounding)
    moved = grounding.to("cpu", torch.bfloat16)
    assert grounding.features is not None and moved.features is None and moved.boxes.dtype == torch.float32
    assert {moved.tokens.dtype, moved.dropped.dtype, moved.levels[96].groups[0].bias.dtype} == {torch.bfloat16}
    assert moved.levels[96].sees is not None


def test_features_that_are_there_are_kept():
    grounding, encoder = ground([random_canvas(0, 3)], Encoder(), GRIDS), GroundingEncoder(5)
    first = encoder(grounding).features
    assert first is not None and encoder(grounding).features is first


def test_what_a_grid_attends_to_is_picked_once_for_all_its_layers():
    grounding = ground([random_canvas(1, 4)], Encoder(), GRIDS)
    picked = [grounding.features_on(h * w) for h, w in GRIDS if GroundingEncoder(5)(grounding)]
    for (h, w), features in zip(GRIDS, picked, strict=True):
        assert grounding.features_on(h * w) is features and grounding.features is not None
        tokens = grounding.levels[h * w].tokens
        assert torch.equal(features, grounding.features if tokens is None else grounding.features[tokens])


def test_the_box_code_is_that_of_the_published_numbers():
    code = box_code(torch.tensor([0.25, 0.5, 0.75, 1.0]))
    expected = [0.247404, 0.479426, 0.681639, 0.841471, 0.968912, 0.877583, 0.731689, 0.540302]
    expected += [0.430070, 0.776530, 0.972026, 0.978553, 0.902796, 0.630080, 0.234872, -0.205998]
    assert code.shape == (64,) and (code[:16] - torch.tensor(expected)).abs().max() < 1e-6
    half = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(box_code(half), box_code(half.float()))


def test_without_boxes_the_encoder_reads_words_alone():
    encoder, tokens = GroundingEncoder(5, boxes=False), torch.randn(3, 5)
    assert torch.equal(encoder.encode(tokens, torch.zeros(3, 4)), encoder.encode(tokens, torch.ones(3, 4)))
    assert encoder.null_text_feature.shape == (5,) and not encoder.null_text_feature.requires_grad


@pytest.mark.golden
@pytest.mark.parametrize("name", FIXTURES)
def test_the_grounding_encoder_is_that_of_the_reference(golden, name):
    about, tensors = golden(name)
    config, tolerance, origin = about["config"], about["tolerance"], about["weights_of"]
    _, weights = golden(origin["fixture"] + ".weights")
    encoder = GroundingEncoder(config["text_feat_dim"], hidden=config["hidden"], frequencies=config["fourier_freqs"])
    prefix = origin["prefix"]
    encoder.load_state_dict({k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)})
    found = encoder.encode(tensors["text_embeddings"].float(), tensors["bbox_embeddings"])
    told = tensors["object_masks"].bool()  # the others are padding, and here nothing is padded
    assert told.any() and (found - tensors["text_feat"])[told].abs().max() <= tolerance["text_feat"]
    slots, positions = 2, tensors["fourier_sample"].shape[1]
    code = box_code(tensors["bbox_embeddings"][0, :slots, :positions], config["fourier_freqs"])
    assert (code - tensors["fourier_sample"]).abs().max() <= tolerance["fourier_sample"]
    # what a padded slot is given: the null vector in place of word and box
    null = encoder.linears(encoder.null_text_feature)
    assert (null - tensors["text_feat"][~told]).abs().max() <= tolerance["text_feat"]
