"""UniFusion: tokens of what is known of each instance, of no more, and as the released weights arrange them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.layout_models.instance_diffusion.fourier import fourier_code, frequencies
from scenewright.layout_models.instance_diffusion.unifusion import (
    KINDS,
    TYPES,
    Instances,
    UniFusion,
    from_published,
    to_published,
)

SMALL: dict[str, Any] = {"in_dim": 6, "out_dim": 10, "mid_dim": 8, "depths": (1, 1, 1, 1), "dims": (4, 4, 4, 8)}
FLAGS = {"box": [1, 1, 0, 0], "mask": [1, 1, 0, 1], "point": [0, 1, 0, 0], "scribble": [1, 1, 1, 1]}


def small(**options: Any) -> UniFusion:
    torch.manual_seed(0)
    network = UniFusion(**{**SMALL, "resolution": 128, **options}).eval()
    for name, parameter in network.named_parameters():
        if name.startswith("null_") or parameter.ndim > 1:  # as after training: nulls differ from zero
            parameter.data.normal_(0, 0.2)
        if "layer_scale" in name:
            parameter.data.fill_(1.0)
    return network


def instances(counts: list[int], seed: int = 0, slots: int = 0, scribble: bool = True, masks: bool = True) -> Instances:
    """So many instances in each image; unused slots are zeros."""
    slots = slots or max(counts)
    random = torch.Generator().manual_seed(seed)
    valid = torch.arange(slots) < torch.tensor(counts)[:, None]

    def drawn(*shape: int) -> torch.Tensor:
        x = 0.05 + 0.9 * torch.rand(len(counts), slots, *shape, generator=random)
        return x * valid.view(*valid.shape, *[1] * len(shape))

    text, boxes, points = drawn(6), drawn(4), drawn(2)
    scribbles, polygons, pixels = drawn(40), drawn(512), drawn(16, 16) > 0.6
    return Instances(
        text=text,
        boxes=boxes,
        valid=valid,
        points=points,
        scribbles=scribbles if scribble else None,
        polygons=polygons if masks else None,
        masks=pixels if masks else None,
    )


def take(whole: Instances, image: int, count: int) -> Instances:
    """One image of a batch, without padding."""
    names = ("text", "boxes", "valid", "points", "scribbles", "polygons", "masks")
    given = {name: getattr(whole, name) for name in names}
    cut = {name: None if x is None else x[image : image + 1, :count] for name, x in given.items()}
    return Instances(**cut, kept=None if whole.kept is None else whole.kept[image : image + 1])


@pytest.mark.golden
def test_fourier_codes_are_those_of_the_reference(golden):
    about, tensors = golden("instance_diffusion/fourier")
    close = {"atol": about["tolerance"]["all"], "rtol": 0}
    torch.testing.assert_close(frequencies(about["config"]["num_freqs"]), tensors["frequencies"], **close)
    for name in ("boxes", "points", "scribbles"):
        torch.testing.assert_close(fourier_code(tensors[name]), tensors[f"{name}_code"], **close)


def test_a_fourier_code_is_band_by_band_sines_before_cosines():
    code = fourier_code(torch.tensor([0.0, 0.5]))
    assert code.shape == (64,)
    assert code[:4].tolist() == pytest.approx([0, 0.479426, 1, 0.877583], abs=1e-5)
    assert code[32:36].tolist() == pytest.approx([0, -0.958924, 1, 0.283662], abs=1e-4), "frequency 10"
    assert frequencies()[[0, 1, 8, 15]].tolist() == pytest.approx([1, 1.33352, 10, 74.98942], abs=1e-4)


@pytest.fixture
def published(golden):
    about, tensors = golden("instance_diffusion/unifusion")
    _, weights = golden("instance_diffusion/unifusion.weights")
    config = about["config"]
    sizes = {name: config[name] for name in ("in_dim", "out_dim", "mid_dim")}
    network = UniFusion(**sizes, **config["convnext"], compat=True).eval()
    network.load_state_dict(from_published({name: x.float() for name, x in weights.items()}))
    given = Instances(
        text=tensors["text_embeddings"],
        boxes=tensors["boxes"],
        valid=tensors["masks"].bool(),
        points=tensors["points"],
        scribbles=tensors["scribbles"],
        polygons=tensors["polygons"].float(),
        masks=tensors["segs"],
    )
    return about, tensors, network, given


def flagged(given: Instances, name: str) -> Instances:
    return replace(given, kept=torch.tensor([FLAGS[name]] * len(given), dtype=torch.bool))


@pytest.mark.golden
def test_tokens_are_those_of_the_reference(published):
    about, tensors, network, given = published
    null = Instances(
        **{
            name: torch.zeros_like(getattr(given, name))
            for name in ("text", "boxes", "valid", "points", "scribbles", "polygons", "masks")
        }
    )
    cases = {f"output_{name}": flagged(given, name) for name in FLAGS}
    cases |= {"output_null": flagged(null, "mask"), "output_box_center": flagged(replace(given, points=None), "box")}
    nothing = replace(given, kept=torch.zeros(len(given), 4, dtype=torch.bool))
    with torch.no_grad():
        assert torch.equal(network(nothing).tokens, network(flagged(null, "mask")).tokens)
    for name, flags in about["config"]["flags"].items():
        assert [not flags[f"test_drop_{x}"] for x in ("boxes", "points", "scribbles", "masks")] == FLAGS[name]
    with torch.no_grad():
        for name, case in cases.items():
            found = network(case)
            assert found.valid is None and found.rows is None
            torch.testing.assert_close(found.tokens, tensors[name], atol=about["tolerance"]["outputs"], rtol=0)


@pytest.mark.golden
def test_the_backbone_is_that_of_the_reference(published):
    about, tensors, network, given = published
    with torch.no_grad():
        found = network.backbone_features(given.masks != 0)
    torch.testing.assert_close(
        found, tensors["backbone_features"], atol=about["tolerance"]["backbone_features"], rtol=0
    )


@pytest.mark.golden
def test_the_reference_differs_only_where_instance_and_location_are_not_both_there(published):
    about, tensors, network, given = published
    network.compat = False
    with torch.no_grad():
        found = network(flagged(given, "scribble")).tokens
    differs = (found - tensors["output_scribble"]).abs().amax(-1) > about["tolerance"]["outputs"]
    for slots, coordinates in ((slice(60, 90), given.scribbles), (slice(90, 120), given.polygons)):
        one_of_both = given.valid ^ (coordinates != 0).any(-1)
        assert one_of_both.any() and torch.equal(differs[:, slots], one_of_both)
    assert not differs[:, :60].any() and not differs[:, 120:].any()


@pytest.mark.golden
def test_renaming_goes_both_ways(golden):
    _, weights = golden("instance_diffusion/unifusion.weights")
    ours = from_published(weights)
    assert ours.keys() != weights.keys() and to_published(ours).keys() == weights.keys()
    prefixed = {f"position_net.{name}": x for name, x in weights.items()}
    assert to_published(from_published(prefixed)).keys() == prefixed.keys()


def test_the_published_sizes_are_those_of_the_paper():
    with torch.device("meta"):
        network = UniFusion()
    millions = [sum(p.numel() for p in mlp.parameters()) / 1e6 for mlp in network.linears_list]
    assert millions == pytest.approx([14.6, 14.4, 18.1, 64.5, 21.2], abs=0.05)
    assert sum(millions) == pytest.approx(132.7, abs=0.1)
    backbone = sum(p.numel() for p in network.convnext_tiny_backbone.parameters())
    assert backbone == 27_818_592, "a ConvNeXt-tiny without its classifier"
    assert network.pos_embedding.shape == (1, 64, 3072) and network.in_conv.weight.shape == (3, 30, 3, 3)


def test_packed_tokens_are_those_of_the_arrangement_that_are_there():
    network = small()
    given = replace(instances([3, 0, 1], slots=4), kept=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]]).bool())
    packed = network(given)
    network.packed = False
    arranged = network(given).tokens
    assert arranged.shape == (3, 4 * 4 + 4, 10)
    assert packed.rows.tolist() == [0, 2]
    assert packed.valid.sum(1).tolist() == [4 * 3 + 4, 2 + 4]
    full = [slot + 4 * kind for kind in range(4) for slot in range(3)] + [16, 17, 18, 19]
    one = [0, 12, 16, 17, 18, 19]
    torch.testing.assert_close(packed.tokens[0], arranged[0, full])
    torch.testing.assert_close(packed.tokens[1, :6], arranged[2, one])
    assert not packed.tokens[1, 6:].any()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 999), st.booleans(), st.booleans())
@settings(max_examples=12)
def test_tokens_of_an_image_do_not_depend_on_the_others(counts, seed, scribble, masks):
    network = small(resolution=64)
    random = torch.Generator().manual_seed(seed)
    whole = instances(counts, seed, slots=max(max(counts), 1), scribble=scribble, masks=masks)
    whole = replace(whole, kept=torch.rand(len(counts), 4, generator=random) < 0.7)
    with torch.no_grad():
        together = network(whole)
        rows = range(len(counts)) if together.rows is None else together.rows.tolist()
        for i, count in enumerate(counts):
            alone = network(take(whole, i, max(count, 1)))
            if i not in rows:
                assert alone.empty
                continue
            row = list(rows).index(i)
            length = alone.tokens.shape[1]
            assert together.valid is None or together.valid[row].sum() == length
            torch.testing.assert_close(together.tokens[row, :length], alone.tokens[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compat", [False, True])
def test_an_instance_without_a_scribble_is_one_at_the_corner_only_in_the_reference(compat):
    network = small(packed=False, compat=compat)
    given = instances([2], scribble=False)
    null = network.null_scribble_feature if not compat else fourier_code(torch.zeros(40))
    text = given.text[0]
    wanted = network.linears_list[2](torch.cat([text, null.expand(2, -1)], -1))
    torch.testing.assert_close(network(given).tokens[0, 4:6], wanted)


def test_points_are_the_centres_of_boxes_unless_given():
    network = small()
    given = instances([2])
    centres = replace(given, points=(given.boxes[..., :2] + given.boxes[..., 2:]) / 2)
    assert torch.equal(network(replace(given, points=None)).tokens, network(centres).tokens)


def test_owners_follow_their_tokens():
    network = small()
    cells = {9: torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(0)) < 0.5}
    given = replace(instances([3, 2], slots=3), cells=cells)
    given.polygons[0, 1] = 0
    objects = network(given).objects
    assert objects.owners[0].tolist() == [0, 1, 2, -1, -1, -1, -1, -1, -1, 0, 2, -1, -1, -1, -1]
    assert objects.owners[1].tolist() == [0, 1, -1, -1, -1, -1, 0, 1, -1, -1, -1, -1, -1, -1, -1]
    assert torch.equal(objects.cells[9][0], cells[9][0])
    assert not objects.cells[9][1, 2].any(), "padding is no object"
    network.packed = False
    assert network(given).objects.owners[0].tolist() == [0, 1, 2] + [-1] * 6 + [0, 1, 2] + [-1] * 4


def test_an_image_that_shows_neither_boxes_nor_masks_is_not_restricted():
    cells = {9: torch.ones(2, 2, 9, dtype=torch.bool)}
    kept = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]).bool()
    objects = small()(replace(instances([2, 2]), cells=cells, kept=kept)).objects
    assert not objects.cells[9][0].any() and objects.cells[9][1].all()


def test_more_masks_than_the_backbone_reads_are_left_out_and_said_so():
    network = small(channels=2)
    given = instances([4])
    with pytest.warns(UserWarning, match="reads 2 masks, an image has 4"):
        found = network(given)
    assert found.tokens.shape[1] == 4 * 4 + 4
    fewer = replace(given, masks=given.masks.clone())
    fewer.masks[:, 2:] = False
    assert torch.equal(network(fewer).tokens, found.tokens)


def test_what_is_made_already_is_given_back():
    network = small()
    tokens = network(instances([1]))
    assert network(tokens) is tokens


def test_all_that_packed_tokens_come_from_learns_in_any_batch():
    network = small()
    given = instances([2], scribble=False, masks=False)
    network(given).tokens.square().sum().backward()
    unused = {name for name, p in network.named_parameters() if p.grad is None}
    assert unused == {name for name, _ in network.named_parameters() if name.startswith("null_")}
    assert {null for _, _, null, _ in KINDS} < unused and len(TYPES) == 4


def test_half_precision_is_for_texts_and_coordinates_stay_exact():
    given = replace(instances([2]), cells={9: torch.ones(1, 2, 9, dtype=torch.bool)})
    half = given.to("cpu", torch.bfloat16)
    assert half.text.dtype == torch.bfloat16 and torch.equal(half.boxes, given.boxes)
    found = small().bfloat16()(half)
    assert found.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(found.tokens.float(), small()(given).tokens, atol=0.05, rtol=0.05)
    elsewhere = given.to("meta")
    assert elsewhere.cells[9].is_meta and elsewhere.masks.is_meta and elsewhere.kept is None
    assert found.to("meta").objects.owners.is_meta and found.to("cpu", torch.float32).tokens.dtype == torch.float32
