"""Weights in the authors' form: read without running code, one recurrent cell, and of this network."""

import argparse
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout_models.rat_dit.network import RatTransformer, Size
from scenewright.layout_models.rat_dit.published import load_published

SMALL = Size(depth=8, width=16, heads=2)


def network(seed: int = 0, **settings) -> RatTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = RatTransformer(**{"size": SMALL, "grid": 8, "zero_gates": False, **settings})
        for parameter in made.parameters():
            parameter.data.add_(torch.randn_like(parameter))
    return made


def table(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict as the authors' code has it: positions, and a copy of the cell for each group."""
    own = network(seed)
    tensors = {"pos_embed": own.pos_embed, **own.state_dict()}
    cell = {name: x for name, x in tensors.items() if name.startswith("lstm.")}
    return tensors | {f"blocks.{g}.{name}": x.clone() for g in range(2) for name, x in cell.items()}


def published(folder, **changes):
    """A file as the authors' training writes it."""
    whole = {"model": table(1), "ema": table(0), "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}}
    whole |= {"args": argparse.Namespace(model="DiT-L/2", image_size=256, ckpt=None)} | changes
    torch.save(whole, folder / "0000100.pt")
    return folder / "0000100.pt"


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())


def test_the_average_of_a_published_file_is_loaded(tmp_path):
    found = network(5)
    assert not same(found, network(0))
    load_published(found, published(tmp_path))
    assert same(found, network(0)) and found.pos_embed.shape == (1, 16, 16)


@pytest.mark.golden
def test_the_references_weights_are_loaded_with_their_copies(golden, tmp_path):
    about, config = golden("rat_dit/model.weights")[1], golden("rat_dit/model")[0]["config"]
    save_file(about, tmp_path / "reference.safetensors")
    size = Size(config["depth"], config["hidden_size"], config["num_heads"])
    made = RatTransformer(size, config["patch_size"], config["in_channels"], config["input_size"])
    load_published(made, tmp_path / "reference.safetensors")
    assert len(about) > len(made.state_dict())
    assert all(torch.equal(x, about[name].float()) for name, x in made.state_dict().items())


@pytest.mark.parametrize("kind", ["model alone", "table", "half precision", "safetensors", "no copies"])
def test_other_forms_are_loaded_too(kind, tmp_path):
    path = tmp_path / "x.pt"
    if kind == "model alone":
        torch.save({"model": table(0)}, path)
    elif kind == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file(table(0), path)
    else:
        tensors = {"no copies": network(0).state_dict()}.get(kind, table(0))
        torch.save({k: x.half() if kind == "half precision" else x for k, x in tensors.items()}, path)
    found = network(5)
    load_published(found, path)
    if kind == "half precision":
        assert all(x.dtype == torch.float32 for x in found.parameters())
        assert torch.equal(found.lstm.W, network(0).lstm.W.half().float())
    else:
        assert same(found, network(0))


def test_a_copy_of_the_cell_that_differs_is_refused(tmp_path):
    tensors = table(0)
    tensors["blocks.1.lstm.U"][0, 0] += 1
    with pytest.raises(CheckpointError, match=r"blocks\.1\.lstm\.U differs from lstm\.U.*share one recurrent cell"):
        load_published(network(), published(tmp_path, ema=tensors))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Settings(argparse.Namespace):
    """Another class than the one that is let in."""


@pytest.mark.parametrize("place", ["args", "opt", "inside the settings"])
def test_code_in_a_file_is_refused_and_never_run(place, tmp_path):
    bomb = Malicious(tmp_path / "made")
    changes = {"args": argparse.Namespace(x=bomb)} if place == "inside the settings" else {place: bomb}
    path = published(tmp_path, **changes)
    with pytest.raises(CheckpointError, match="can run code"):
        load_published(network(), path)
    assert not (tmp_path / "made").exists()


def test_no_other_class_than_the_plain_settings_is_let_in(tmp_path):
    with pytest.raises(CheckpointError, match="can run code"):
        load_published(network(), published(tmp_path, args=Settings(x=1)))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()  # nor afterwards anywhere else


def test_missing_and_unknown_tensors_and_other_shapes_are_named(tmp_path):
    tensors = table(0)
    tensors["extra.weight"] = tensors.pop("lstm.bias")
    tensors = {k: x for k, x in tensors.items() if not k.endswith("lstm.bias")}
    tensors["final_layer.linear.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_published(network(), published(tmp_path, ema=tensors))
    for said in ("1 missing (lstm.bias)", "1 unknown (extra.weight)", "another shape (final_layer.linear.bias)"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"size": Size(12, 16, 2)}, {"patch": 4}, {"variant": "affine"}, {"size": Size(8, 32, 2)}], ids=str
)
def test_weights_of_another_network_are_refused_and_nothing_is_changed(settings, tmp_path):
    made = network(5, **settings)
    with pytest.raises(CheckpointError, match="size, patch and variant"):
        load_published(made, published(tmp_path))
    assert same(made, network(5, **settings))


def test_positions_that_are_not_those_of_this_network_are_refused(tmp_path):
    tensors = table(0)
    tensors["pos_embed"] = tensors["pos_embed"].unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)  # the row first
    with pytest.raises(CheckpointError, match="column and row"):
        load_published(network(), published(tmp_path, ema=tensors))


def test_weights_of_another_image_size_are_loaded(tmp_path):
    made = network(5, grid=16)
    load_published(made, published(tmp_path))
    assert same(made, network(0)) and made.pos_embed.shape == (1, 64, 16)


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_what_is_no_file_of_weights_says_so(content, tmp_path):
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError if content else MissingWeights, match=r"x\.pt"):
        load_published(network(), path)


def test_a_training_run_gives_its_average_and_without_one_its_weights(tmp_path):
    made, folder = network(5), tmp_path / "run" / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    for name, seed in (("weights", 1), ("ema", 0)):
        tensors = {f"network.{x}": tensor for x, tensor in network(seed).state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    files = {x.name: x.stat().st_size for x in folder.iterdir()}
    (folder / "checkpoint.json").write_text(json.dumps({"files": files}))
    for path in (tmp_path / "run", folder, folder / "ema.safetensors"):
        load_published(made, path)
        assert same(made, network(0))
    (folder / "ema.safetensors").unlink()
    load_published(made, folder)
    assert same(made, network(1))
    with pytest.raises(MissingWeights, match="no whole checkpoint"):
        load_published(made, tmp_path / "run")
