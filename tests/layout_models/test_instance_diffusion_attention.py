"""Gated self-attention: what grounding adds to a pixel, which tokens and pixels it may see, and that of nobody else."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout_models.instance_diffusion.gated_attention import (
    GatedSelfAttention,
    GroundingTokens,
    ObjectMasks,
)
from scenewright.layout_models.instance_diffusion.object_masks import on_grids, rasterize_boxes, rasterize_masks

DIM, CONTEXT = 16, 12


def fuser(seed: int = 0, gate: float = 0.7) -> GatedSelfAttention:
    torch.manual_seed(seed)
    layer = GatedSelfAttention(DIM, CONTEXT, 2, DIM // 2).eval()
    layer.alpha_attn.data.fill_(gate)
    layer.alpha_dense.data.fill_(-gate)
    return layer


def loaded(about: dict, weights: dict) -> GatedSelfAttention:
    sizes = {name: about["config"][name] for name in ("query_dim", "context_dim", "n_heads", "d_head")}
    layer = GatedSelfAttention(**sizes).eval()
    layer.load_state_dict({name: x.float() for name, x in weights.items()})
    return layer


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.golden
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_the_layer_is_that_of_the_reference(golden, scale):
    about, tensors = golden("instance_diffusion/gated_fuser")
    layer = loaded(about, golden("instance_diffusion/gated_fuser.weights")[1])
    with torch.no_grad():
        found = layer(tensors["x"], GroundingTokens(tensors["objs"], scale=scale))
    torch.testing.assert_close(found, tensors[f"output_scale_{scale:g}"], atol=about["tolerance"]["outputs"], rtol=0)


def published_owners(objects: int) -> torch.Tensor:
    """Box n, point n, scribble n, polygon n, and 64 of the segmentation."""
    each, none = torch.arange(objects), torch.full((objects,), -1)
    return torch.cat([each, none, none, each, torch.full((64,), -1)])[None]


@pytest.mark.golden
def test_masked_attention_is_that_of_the_reference(golden):
    about, tensors = golden("instance_diffusion/gated_fuser_masked")
    layer = loaded(about, golden("instance_diffusion/gated_fuser_masked.weights")[1])
    objects = ObjectMasks(
        {4096: tensors["att_masks"].bool().flatten(2)}, published_owners(tensors["att_masks"].shape[1]), False
    )
    masked = GroundingTokens(tensors["objs"], objects=objects)
    with torch.no_grad():
        found = layer(tensors["x"].float(), masked)[:, ::3]
        free = layer(tensors["x"].float(), replace(masked, objects=None))[:, ::7]
    torch.testing.assert_close(found, tensors["output"], atol=about["tolerance"]["outputs"], rtol=0)
    torch.testing.assert_close(free, tensors["output_drop_box_mask"], atol=about["tolerance"]["outputs"], rtol=0)


@pytest.mark.golden
def test_boxes_are_rasterised_as_in_the_reference_when_asked_for(golden):
    about, tensors = golden("instance_diffusion/box_attention_masks")
    size = about["config"]["size"]
    boxes = tensors["boxes"]
    found = rasterize_boxes(boxes, size, size, compat=True)
    assert torch.equal(found, tensors["att_masks"].bool())
    upright = rasterize_boxes(boxes, size, size)
    there = found.flatten(1).any(1)
    assert there.any() and torch.equal(upright[there], found.transpose(1, 2)[there])


def test_the_parameters_are_those_of_diffusers_layer():
    from diffusers.models.attention import GatedSelfAttentionDense

    theirs = GatedSelfAttentionDense(DIM, CONTEXT, 2, 8)
    ours = fuser()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(fuser(3).state_dict())
    ours.load_state_dict(theirs.state_dict())
    x, tokens = random(2, 9, DIM), random(2, 5, CONTEXT, seed=1)
    torch.testing.assert_close(ours(x, GroundingTokens(tokens)), theirs(x, tokens), atol=1e-5, rtol=0)


def test_a_new_layer_changes_nothing():
    layer = GatedSelfAttention(DIM, CONTEXT, 2, 8)
    x = random(2, 9, DIM)
    assert torch.equal(layer(x, GroundingTokens(random(2, 5, CONTEXT))), x)


@pytest.mark.parametrize(
    "nothing",
    [
        GroundingTokens(torch.randn(2, 5, CONTEXT), scale=0.0),
        GroundingTokens(torch.zeros(2, 0, CONTEXT)),
        GroundingTokens(torch.zeros(0, 5, CONTEXT), rows=torch.zeros(0, dtype=torch.long)),
    ],
    ids=["scale 0", "no tokens", "no sample"],
)
def test_without_grounding_pixels_pass_bit_for_bit(nothing):
    x = random(2, 9, DIM)
    assert fuser()(x, nothing) is x


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=15)
def test_a_sample_is_as_it_is_alone_whatever_it_is_padded_to(lengths, seed):
    layer, longest = fuser(), max(lengths)
    x = random(len(lengths) + 1, 9, DIM, seed=seed)
    tokens = 50 * random(len(lengths), longest, CONTEXT, seed=seed + 1)
    valid = torch.arange(longest) < torch.tensor(lengths)[:, None]
    rows = torch.arange(len(lengths)) + 1
    with torch.no_grad():
        together = layer(x, GroundingTokens(tokens, valid, rows))
        for i, length in enumerate(lengths):
            alone = layer(x[i + 1 : i + 2], GroundingTokens(tokens[i : i + 1, :length]))
            torch.testing.assert_close(together[i + 1], alone[0], atol=1e-5, rtol=0)
    assert torch.equal(together[0], x[0])


def test_gradients_reach_the_layer_and_both_inputs():
    layer = fuser()
    x, tokens = random(2, 9, DIM).requires_grad_(), random(1, 5, CONTEXT).requires_grad_()
    layer(x, GroundingTokens(tokens, rows=torch.tensor([1]))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert tokens.grad.abs().sum() > 0
    assert torch.equal(x.grad[0], 2 * x.detach()[0])


def test_a_layer_in_float32_gives_back_what_precision_it_was_given():
    layer = fuser()
    x = random(1, 9, DIM).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, GroundingTokens(random(1, 5, CONTEXT))).dtype == torch.bfloat16


def brute_force(cells: torch.Tensor, owners: list[int], background: bool) -> torch.Tensor:
    """Of one sample, pair by pair."""
    n, size = cells.shape
    of = [{o for o in range(n) if cells[o, i]} for i in range(size)]
    rows = []
    for i in range(size):
        pixels = [i == j or bool(of[i] & of[j]) or (background and not of[i] and not of[j]) for j in range(size)]
        rows.append(pixels + [o < 0 or o in of[i] for o in owners])
    return torch.tensor(rows)


@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans())
@settings(max_examples=25)
def test_who_sees_whom_is_what_the_rule_says(seed, count, background):
    random = torch.Generator().manual_seed(seed)
    cells = torch.rand(2, count, 12, generator=random) < 0.3
    owners = torch.randint(-1, count, (2, 5), generator=random)
    found = ObjectMasks({12: cells}, owners, background).allowed(12)
    if not cells.any():
        assert found is None
        return
    for i in range(2):
        assert torch.equal(found[i, 0], brute_force(cells[i], owners[i].tolist(), background))


def test_objects_restrict_every_grid_and_padding_stays_unseen():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    cells = {size: x[None] for size, x in on_grids(boxes, [(8, 8), (4, 4), (2, 2)]).items()}
    tokens = 3 * random(1, 3, CONTEXT, seed=1)
    valid = torch.tensor([[True, True, False]])
    grounding = GroundingTokens(tokens, valid, objects=ObjectMasks(cells, torch.tensor([[0, 1, -1]])))
    layer = fuser()
    for side in (8, 4, 2):
        x = random(1, side * side, DIM, seed=side)
        allowed = grounding.allowed(side * side)
        assert not allowed[..., -1].any()
        other = replace(grounding, tokens=tokens.clone().index_fill_(1, torch.tensor([0, 2]), 9.0))
        changed = (layer(x, grounding) - layer(x, other)).abs().amax(-1)[0].reshape(side, side) > 1e-6
        assert changed[:, : side // 2].all() and not changed[:, side // 2 :].any()
    assert grounding.allowed(9).shape == (1, 1, 1, 12), "a grid without masks hides the padding only"


def test_a_sample_without_masks_is_not_restricted_by_those_of_another():
    cells = torch.zeros(2, 1, 9, dtype=torch.bool)
    cells[0, 0, :4] = True
    grounding = GroundingTokens(random(2, 3, CONTEXT), objects=ObjectMasks({9: cells}, torch.full((2, 3), -1)))
    x, layer = random(2, 9, DIM, seed=2), fuser()
    free = layer(x, replace(grounding, objects=None))
    masked = layer(x, grounding)
    torch.testing.assert_close(masked[1], free[1], atol=1e-6, rtol=0)
    assert not torch.allclose(masked[0], free[0], atol=1e-4)


@pytest.mark.parametrize("grid", [(64, 64), (8, 8), (6, 10)])
@pytest.mark.parametrize("box", [[0.1, 0.6, 0.9, 0.8], [0.501, 0.501, 0.502, 0.502], [0.999, 0.0, 1.0, 1.0]])
def test_boxes_are_rasterised_upright_and_never_vanish(grid, box):
    height, width = grid
    (cells,) = rasterize_boxes(torch.tensor([box]), height, width)
    rows, columns = cells.nonzero().T
    assert len(rows) > 0
    for found, size, low, high in ((columns, width, box[0], box[2]), (rows, height, box[1], box[3])):
        assert found.min() >= math.floor(low * size - 0.5) and found.max() < math.ceil(high * size + 0.5)
    assert len(rows) == len(set(rows.tolist())) * len(set(columns.tolist())), "a full rectangle"


def test_masks_are_rasterised_by_the_half_of_a_cell_and_never_vanish():
    masks = torch.zeros(3, 32, 64, dtype=torch.bool)
    masks[0, 8:24, 0:40] = True
    masks[1, 5, 50] = True
    found = rasterize_masks(masks, 4, 8)
    wanted = torch.zeros(3, 4, 8, dtype=torch.bool)
    wanted[0, 1:3, 0:5] = True
    wanted[1, 0, 6] = True
    assert torch.equal(found, wanted)
    assert rasterize_masks(masks[:0], 4, 8).shape == (0, 4, 8)


def test_grids_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="number of pixels"):
        on_grids(torch.zeros(1, 4), [(2, 8), (4, 4)])
    with pytest.raises(ValueError, match="square"):
        rasterize_boxes(torch.zeros(1, 4), 2, 3, compat=True)
