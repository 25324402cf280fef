"""RAT-Diffusion's network: the reference's numbers, its sizes, where it begins, and what may be done to it."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from scenewright.layout_models.rat_dit.network import SIZES, RatTransformer, Size, TimeEmbedding, positions, time_code

SMALL = Size(depth=8, width=32, heads=4)


def built(size: Size = SMALL, patch: int = 2, channels: int = 4, grid: int = 8, *, random: bool = False, **settings):
    """A small network; ``random``: one that does not begin at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RatTransformer(size, patch, channels, grid, **settings)
        for parameter in network.parameters() if random else ():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return network


def inputs(batch: int = 2, side: int = 8):
    random = torch.Generator().manual_seed(1)
    noisy, text = torch.randn(batch, 4, side, side, generator=random), torch.randn(batch, 512, generator=random)
    return noisy, torch.tensor([7, 900, 31])[:batch], text


def run(network, noisy, timesteps, text):
    return network(noisy, timesteps, network.states(text))


@pytest.fixture
def reference(golden):
    """The reference's network with its weights, and what it was given."""
    about, tensors = golden("rat_dit/model")
    config = about["config"]
    size = Size(config["depth"], config["hidden_size"], config["num_heads"])
    network = RatTransformer(size, config["patch_size"], config["in_channels"], config["input_size"])
    weights = golden("rat_dit/model.weights")[1]
    network.load_state_dict({name: weights[name].float() for name in network.state_dict()})
    return about, tensors, network.eval().requires_grad_(False)


@pytest.mark.golden
def test_states_and_outputs_are_those_of_the_reference(reference):
    about, tensors, network = reference
    states = network.states(tensors["y"])
    tolerance = about["tolerance"]
    torch.testing.assert_close(states, tensors["lstm_hidden"], atol=tolerance["lstm_hidden"], rtol=0)
    found = network(tensors["x"], tensors["t"], states)
    torch.testing.assert_close(found, tensors["output"], atol=tolerance["output"], rtol=0)


@pytest.mark.golden
def test_in_double_precision_the_network_is_that_of_the_reference(reference, golden, monkeypatch):
    about, tensors, network = reference
    known, coded = (golden("rat_dit/time_embedding")[1][name] for name in ("t", "embedding"))
    # machines round an exponential differently in its last bit: take the reference's bits of the frequencies
    usual = time_code(torch.tensor([1]))[0, 128:].asin()
    some = [torch.exp(-torch.arange(128) * torch.log(torch.tensor(10000.0)) / 128)]
    assert torch.allclose(usual, some[0], atol=1e-4)
    for way in (0.0, 2.0):
        x = some[0]
        for _ in range(3):
            x = torch.nextafter(x, torch.tensor(way))
            some.append(x)
    tried = torch.stack([torch.cat([(known[:, None] * x).cos(), (known[:, None] * x).sin()], 1) for x in some])
    best = (tried - coded).abs().amax(1).unflatten(1, (2, 128)).amax(1).argmin(0)
    frequencies = torch.stack(some).gather(0, best[None])[0]

    def embedded(self: TimeEmbedding, timesteps: torch.Tensor) -> torch.Tensor:
        angles = timesteps[:, None].float() * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1).double())

    monkeypatch.setattr(TimeEmbedding, "forward", embedded)
    found = run(network.double(), tensors["x"].double(), tensors["t"], tensors["y"].double())
    torch.testing.assert_close(found, tensors["output_f64"], atol=about["tolerance"]["output_f64"], rtol=0)


@pytest.mark.golden
def test_positions_are_those_of_the_reference(golden):
    about, tensors = golden("rat_dit/position_embedding")
    tolerance = {"atol": about["tolerance"]["all"], "rtol": 0}
    for name, wanted in tensors.items():
        width, grid = wanted.shape[1], int(name.rsplit("grid", 1)[1])
        found = positions(width, grid, grid)
        found = found if name.startswith("full") else found[about["config"]["rows"]]
        torch.testing.assert_close(found, wanted, **tolerance)


@pytest.mark.golden
def test_codes_of_timesteps_are_those_of_the_reference(golden):
    about, tensors = golden("rat_dit/time_embedding")
    found = time_code(tensors["t"])
    torch.testing.assert_close(found, tensors["embedding"], atol=about["tolerance"]["embedding"], rtol=0)


def test_the_column_comes_before_the_row_and_the_sine_before_the_cosine():
    table = positions(1024, 2, 3)
    sine, cosine = 0.8414709848, 0.5403023059
    assert table.shape == (6, 1024)
    assert table[1, [0, 256, 512, 768]].tolist() == pytest.approx([sine, cosine, 0, 1])  # row 0, column 1
    assert table[3, [0, 256, 512, 768]].tolist() == pytest.approx([0, 1, sine, cosine])  # row 1, column 0


@pytest.mark.parametrize(
    ("size", "patch", "parameters"),
    [
        ("S", 2, 34_350_752),
        ("B", 2, 134_466_848),
        ("L", 2, 464_423_968),
        ("XL", 2, 682_830_752),
        (Size(16, 192, 16), 1, 11_760_968),
    ],
)
def test_the_parameters_are_as_many_as_published_with_the_table_of_positions(size, patch, parameters):
    with torch.device("meta"):
        network = RatTransformer(SIZES.get(size, size), patch)
    assert sum(x.numel() for x in network.parameters()) + network.pos_embed.numel() == parameters
    if size == "L":
        assert sum(x.numel() for x in network.lstm.parameters()) == 7_346_176


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_larger_patches_differ_only_where_pixels_come_in_and_go_out(patch):
    with torch.device("meta"):
        usual, network = RatTransformer(SIZES["S"], 2), RatTransformer(SIZES["S"], patch)
    differing = {k for k, x in network.state_dict().items() if usual.state_dict()[k].shape != x.shape}
    wanted = {"x_embedder.proj.weight", "final_layer.linear.weight", "final_layer.linear.bias"}
    assert differing == (set() if patch == 2 else wanted)


@pytest.mark.parametrize("depth", [1, 6, 18])
def test_a_depth_that_is_no_multiple_of_four_keeps_all_its_layers(depth):
    network = built(Size(depth, 16, 2), random=True)
    sizes = [len(group.blocks) for group in network.blocks]
    assert sum(sizes) == depth and set(sizes[:-1]) <= {4} and 1 <= sizes[-1] <= 4
    last = network.blocks[-1].blocks[-1].mlp.fc2.weight
    run(network, *inputs()).sum().backward()
    assert last.grad is not None and last.grad.abs().sum() > 0


@pytest.mark.parametrize("variant", ["shift", "affine"])
@pytest.mark.parametrize("zero_gates", [True, False])
def test_a_new_network_answers_zero(variant, zero_gates):
    found = run(built(variant=variant, zero_gates=zero_gates), *inputs())
    assert found.shape == (2, 8, 8, 8) and not found.any()


@pytest.mark.parametrize("zero_gates", [True, False])
def test_gates_begin_closed_unless_told_otherwise(zero_gates):
    layers = [layer for group in built(zero_gates=zero_gates).blocks for layer in group.blocks]
    assert len(layers) == 8
    for layer in layers:
        assert layer.adaLN_modulation[1].weight.any() == (not zero_gates)


@pytest.mark.parametrize(("variant", "told"), [("shift", True), ("affine", False)])
def test_the_affine_variant_begins_without_any_effect_of_the_text(variant, told):
    network = built(variant=variant, zero_gates=False)
    with torch.no_grad():  # else it answers zero
        network.final_layer.linear.weight.normal_()
    noisy, timesteps, text = inputs()
    found = run(network, noisy, timesteps, text)
    assert found.abs().max() > 0.1
    assert (not torch.equal(found, run(network, noisy, timesteps, text + 1))) == told
    if told:
        return
    plain = built(variant="shift", zero_gates=False)
    plain.load_state_dict({k: x for k, x in network.state_dict().items() if ".affine." not in k})
    silent = torch.zeros_like(plain.states(text))
    torch.testing.assert_close(found, plain(noisy, timesteps, silent))


def test_the_affine_variant_scales_shifts_and_gates_a_group():
    network = built(variant="affine", random=True)
    group, state = network.blocks[0], torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(2))
    tokens, time = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3)), torch.zeros(2, 1, 32)
    scale, shift, gate = group.affine(state).chunk(3, -1)
    wanted = (1 + scale) * tokens + shift
    for layer in group.blocks:
        wanted = layer(wanted, time)
    torch.testing.assert_close(group(tokens, time, state), wanted * (1 + gate))


def test_states_that_are_computed_up_front_are_those_of_one_step_after_another():
    network = built(random=True)
    text = inputs()[2]
    cell, weights = torch.nn.LSTMCell(512, 32), network.lstm
    with torch.no_grad():  # torch's order of gates is the same
        cell.weight_ih.copy_(weights.W.T)
        cell.weight_hh.copy_(weights.U.T)
        cell.bias_ih.copy_(weights.bias)
        cell.bias_hh.zero_()
    hidden, memory = weights.noise2h(text), weights.noise2c(text)
    for state in network.states(text):
        hidden, memory = cell(text, (hidden, memory))
        torch.testing.assert_close(state, hidden)


def test_one_timestep_for_all_is_that_timestep_for_each():
    network = built(random=True).eval()
    noisy, _, text = inputs()
    with torch.no_grad():
        one, each = (run(network, noisy, torch.tensor(x), text) for x in ([40], [40, 40]))
    torch.testing.assert_close(one, each)


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 8)])
def test_other_sizes_have_positions_too(size):
    height, width = size
    network = built(random=True)
    noisy = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(4))
    found = run(network, noisy, torch.tensor([3]), inputs(1)[2])
    assert found.shape == (1, 8, height, width)
    moved = run(network, noisy.flip(-1), torch.tensor([3]), inputs(1)[2]).flip(-1)
    assert not torch.allclose(found, moved, atol=1e-3)  # it knows left from right


def test_a_network_that_has_run_can_be_copied():
    network = built(random=True)
    first = run(network, *inputs())
    first.sum().backward()
    copy = deepcopy(network)
    assert torch.equal(run(copy, *inputs()), first)
    assert {x.data_ptr() for x in copy.parameters()}.isdisjoint(x.data_ptr() for x in network.parameters())


@pytest.mark.parametrize("variant", ["shift", "affine"])
def test_layers_that_are_computed_anew_give_the_same_gradients(variant):
    gradients = []
    for again in (False, True):
        network = built(variant=variant, random=True).train()
        network.gradient_checkpointing = again
        run(network, *inputs()).square().sum().backward()
        assert all(x.grad is not None for x in network.parameters())
        gradients.append([x.grad for x in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_it_compiles_in_one_piece_and_draws_and_learns_the_same():
    script = Path(__file__).parent / "scripts" / "compiled_rat_dit.py"  # no tracing through the tests' shape checks
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"drew": True, "learnt": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"variant": "scale"}, "shift, affine"), ({"size": Size(4, 30, 4)}, "multiple of the heads")],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        built(**settings)
