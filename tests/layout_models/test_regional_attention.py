"""The regional layers are what they are defined to be, however their pixels are grouped."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.grounding import Canvas, canvas, ground
from scenewright.layout_models.rich_context.regional_attention import (
    Grounding,
    RegionalCrossAndSelfAttention,
    RegionalCrossAttention,
    group_pixels,
)

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SCENEWRIGHT_GOLDEN", ROOT / "tests" / "golden"))
#: A folder without any is a failing test.
FIXTURES = [
    f"regional_attention/{path.stem}"
    for path in sorted(FOLDER.glob("regional_attention/*.json"))
    if json.loads(path.read_text())["kind"] == "regional_attention"
] or ["regional_attention/none found"]
KINDS = {"ca": RegionalCrossAttention, "casa": RegionalCrossAndSelfAttention}
CONTEXT, DIM, HEADS = 12, 16, 4
#: Of a canvas of 128 x 192 pixels.
HEIGHT, WIDTH, GRIDS = 128, 192, [(16, 24), (8, 12), (4, 6)]
NO_LAYOUT = Layout.empty()


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


oracle = module("benchmarks/materials/dense_regional_attention.py")


class Words:
    """A token per word of fewer than nine letters, by its letters."""

    bos, eos, pad, separator, length = 1, 2, 0, 3, 21

    def tokens(self, text: str) -> list[int]:
        return [4 + sum(map(ord, word)) % 60 for word in text.split()]


def encode(ids: torch.Tensor) -> torch.Tensor:
    """Features that depend on a token and on all before it."""
    table = torch.randn(64, CONTEXT, generator=torch.Generator().manual_seed(1)).double()
    return (table[ids].cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None].sqrt()).float()


def encode_alone(ids: torch.Tensor) -> torch.Tensor:
    """Features that depend on a token alone."""
    return torch.randn(64, CONTEXT, generator=torch.Generator().manual_seed(1))[ids]


def layout(seed: int, count: int) -> Layout:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.9, (count, 2))
    size = np.exp(rng.uniform(np.log(0.01), np.log(0.9), (count, 2)))
    boxes = torch.from_numpy(np.concatenate([corner, np.minimum(corner + size, 1)], 1)).float()
    words = ["red", "small", "cup", "table", "of", "wood", "lamp", "and", "a"]
    labels = [" ".join(rng.choice(words, rng.integers(0, 7))) for _ in range(count)]
    return Layout(boxes=boxes.reshape(count, 4), labels=labels)


def canvases(layouts: Sequence[Layout | None], **options: Any) -> list[Canvas | None]:
    return [None if x is None else canvas(x, HEIGHT, WIDTH, GRIDS, Words(), **options) for x in layouts]


def grounded(prepared: Sequence[Canvas | None], encoder: Callable[..., Any] = encode, **options: Any) -> Grounding:
    grounding = ground(prepared, encoder, GRIDS, self_attention=True, **options)
    grounding.features = grounding.tokens
    return grounding


def layer_of(kind: str, dim: int = DIM, seed: int = 0, std: float = 0.3) -> Any:
    torch.manual_seed(seed)
    layer = KINDS[kind](dim, CONTEXT, HEADS, name=f"{kind} {dim}")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return layer


def pixels(count: int, level: int = 0, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    height, width = GRIDS[level]
    return torch.randn(count, height * width, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [[0], [1], [40], [5, 0, 3], [None, 4], [2, None, None, 12], [300]], ids=str)
def test_packed_attention_is_the_definition(kind, counts):
    layer, scale = layer_of(kind), 1.5
    prepared = canvases([None if n is None else layout(n + 7, n) for n in counts])
    grounding = grounded(prepared, attention_weight_scale=scale)
    for level in range(len(GRIDS) if max(n or 0 for n in counts) < 100 else 1, 0, -1):
        x = pixels(len(counts), level - 1)
        slots = oracle.slots(prepared, level - 1, lambda text: encode(text.ids), scale)
        assert (layer(x, grounding) - oracle.dense(layer, x, slots)).abs().max() <= 1e-5


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 14), min_size=1, max_size=3),
    kind=st.sampled_from(list(KINDS)),
    level=st.integers(0, 2),
    compat=st.booleans(),
    causal=st.booleans(),
)
def test_packed_attention_is_the_definition_for_any_layouts(seed, counts, kind, level, compat, causal):
    options = {"compat": True, "slots": 6, "seed": seed} if compat else {}
    prepared = canvases([layout(seed + i, n) for i, n in enumerate(counts)], **options)
    layer, x = layer_of(kind, seed=seed), pixels(len(counts), level, seed)
    slots = oracle.slots(prepared, level, lambda text: encode(text.ids))
    found = layer(x, grounded(prepared, causal=causal))
    wanted = oracle.dense(layer, x, slots).detach()
    assert (found - wanted).abs().max() <= 1e-5 * max(wanted.abs().max().item(), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_definition(kind):
    layer, prepared = layer_of(kind), canvases([layout(0, 6), None, layout(1, 3)])
    x, features = pixels(3, 1).requires_grad_(), encode_alone(torch.arange(64)).requires_grad_()
    packed = layer(x, grounded(prepared, lambda ids: features[ids]))
    dense = oracle.dense(layer, x, oracle.slots(prepared, 1, lambda text: features[text.ids]))
    wanted = [x, features, *layer.parameters()]
    found = [torch.autograd.grad((y * pixels(3, 1, seed=1)).sum(), wanted) for y in (packed, dense)]
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(float(theirs.abs().max()), 1)


def test_dropped_layouts_get_the_learnt_vector_and_those_without_any_pass_unchanged():
    layer, x = layer_of("ca"), pixels(3)
    prepared = canvases([None, None, layout(0, 3)])
    result = layer(x, grounded(prepared, dropped=[True, False, False]))
    assert torch.equal(result[0], x[0] + layer.null_text_feat) and torch.equal(result[1], x[1])
    assert (result[2] - x[2]).abs().amin(1).min() > 0
    nobody = grounded(canvases([None, None, None]), dropped=[True, False, True])
    assert torch.equal(layer(x, nobody)[1], x[1]) and torch.equal(layer(x, nobody)[0], x[0] + layer.null_text_feat)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_layer_and_one_that_is_switched_off_change_nothing(kind):
    x, prepared = pixels(3), canvases([layout(0, 5), None, NO_LAYOUT])
    assert torch.equal(KINDS[kind](DIM, CONTEXT, HEADS)(x, grounded(prepared)), x)
    grounding = grounded(prepared)
    grounding.enabled = False
    assert torch.equal(layer_of(kind)(x, grounding), x)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_touch_each_other(kind):
    layer, layouts = layer_of(kind), [layout(0, 4), None, NO_LAYOUT, layout(3, 9)]
    x, together = pixels(4), grounded(canvases(layouts))
    for i, one in enumerate(layouts):
        alone = layer(x[i : i + 1], grounded(canvases([one])))
        assert (layer(x, together)[i] - alone[0]).abs().max() <= 1e-5


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), kind=st.sampled_from(list(KINDS)))
def test_the_order_of_the_objects_does_not_matter_but_to_a_text_encoder(seed, count, kind):
    one = layout(seed, count)
    one = Layout(boxes=one.boxes, labels=[" ".join(x.split()[:1]) for x in one.labels])  # short enough not to be cut
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    other = Layout(boxes=one.boxes[order], labels=[one.labels[i] for i in order.tolist()])
    layer, x = layer_of(kind), pixels(1)
    first, second = (layer(x, grounded(canvases([y]), encode_alone, causal=False)) for y in (one, other))
    assert (first - second).abs().max() <= 1e-5


def test_how_the_regions_are_numbered_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    regions = torch.randint(-1, 9, (384,), generator=generator)
    lengths = torch.randint(1, 90, (9,), generator=generator)
    bias, features = (torch.randn(int(lengths.sum()), *more, generator=generator) for more in ((), (CONTEXT,)))
    order = torch.randperm(9, generator=generator)
    parts = torch.arange(len(bias)).split(lengths.tolist())
    entries = torch.cat([parts[i] for i in order.tolist()])
    starts = lengths.cumsum(0) - lengths
    number = torch.cat([order.argsort(), torch.tensor([-1])])[regions]
    shuffled = lengths[order]
    levels = [
        group_pixels(regions, starts, lengths, bias),
        group_pixels(number, shuffled.cumsum(0) - shuffled, shuffled, bias[entries], entries),
    ]
    layer, x = layer_of("ca"), pixels(1)
    first, second = (
        layer(
            x, Grounding(features, torch.zeros(len(bias), 4), {384: y}, None, torch.zeros(1, 1, 1), features=features)
        )
        for y in levels
    )
    assert (first - second).abs().max() <= 1e-5
    assert (first[0][regions < 0] == (x[0] + layer.null_text_feat)[regions < 0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_kept_keys_and_values_give_the_same_and_are_made_once(kind):
    layer, x = layer_of(kind), pixels(2)
    grounding = grounded(canvases([layout(0, 5), None]))
    once = layer(x, grounding)
    grounding.reuse = True
    with torch.no_grad():
        assert torch.equal(layer(x, grounding), once) and list(grounding.kept) == [layer.name]
        torch.nn.init.zeros_(layer.attn.to_k.weight)  # would be seen
        assert torch.equal(layer(x, grounding), once)
    assert not grounding.to("cpu", torch.float32).kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close_and_finite(dtype, whole, kind):
    layer, x = layer_of(kind, dim=32, std=0.1), pixels(3, dim=32)
    grounding = grounded(canvases([layout(0, 5), None, NO_LAYOUT]))
    exact = layer(x, grounding)
    if whole:
        layer, x, grounding = layer.to(dtype), x.to(dtype), grounding.to("cpu", dtype)
        grounding.features = grounding.tokens
    with torch.autocast("cpu", dtype, enabled=not whole):
        result = layer(x, grounding)
    assert result.dtype == (dtype if whole else torch.float32) and result.isfinite().all()
    error, unit = (result - exact).abs(), torch.finfo(dtype).eps * exact.std()
    assert error.mean() <= 4 * unit and error.max() <= 64 * unit


def test_another_grid_than_was_prepared_is_refused():
    with pytest.raises(ValueError, match=r"prepared for grids of \[24, 96, 384\] pixels, got 100"):
        layer_of("ca")(torch.zeros(1, 100, DIM), grounded(canvases([layout(0, 2)])))


@pytest.mark.golden
@pytest.mark.parametrize("name", FIXTURES)
def test_layers_are_those_of_the_reference(golden, name):
    about, tensors = golden(name)
    _, weights = golden(name + ".weights")
    config, tolerance = about["config"], about["tolerance"]
    kind = "casa" if any(key.startswith("self_attn.") for key in weights) else "ca"
    layer = KINDS[kind](config["query_dim"], config["context_dim"], config["n_heads"])
    layer.load_state_dict({key: x.float() for key, x in weights.items()})
    slots = oracle.published(tensors, config["grid"])
    grounding = oracle.packed([slots])
    grounding.features = grounding.tokens
    error = (layer(tensors["x"], grounding) - tensors["output"]).abs().amax(2)
    assert error.max() <= tolerance["output"]
    background = (slots.masks & (slots.bias == 0).all(2, keepdim=True)).any(1)
    # in casa what background pixels receive reaches those that attend to all of them: only the background does
    assert error[~background].max() <= tolerance["output_outside_background"]
    if "output_f64" in tensors:
        grounding = grounding.to("cpu", torch.float64)
        grounding.features = grounding.tokens
        exact = layer.double()(tensors["x"].double(), grounding)
        assert (exact - tensors["output_f64"]).abs().max() <= tolerance["output_f64"]
