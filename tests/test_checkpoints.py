"""Weights are found, or said to be missing in words that help; code in them is never run."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from scenewright.checkpoints import (
    Checkpoint,
    CheckpointError,
    MissingWeights,
    check,
    checkpoints_of,
    fill,
    read_tensors,
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


class Plain:
    def __init__(self, checkpoint, revision="main"):
        self.checkpoint, self.revision = checkpoint, revision


class Wraps:
    def __init__(self, inner, size=3):
        self.inner, self.size = inner, size


class Two:
    checkpoints = [Checkpoint("a/b", files=("b.pth",)), Checkpoint("c/d", "v1")]


@pytest.fixture
def tiny(tmp_path):
    """A CLIP of a few numbers, as a folder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    CLIPTextModel(config).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("plugin", "names"),
    [
        (object(), []),
        (Plain("x/y"), ["x/y"]),
        (Wraps(Plain("x/y")), ["x/y"]),
        (Wraps(Wraps(Two())), ["a/b", "c/d"]),
        (Wraps(torch.zeros(3)), []),
    ],
    ids=["none", "its own", "of an injected plugin", "declared, deep inside", "a tensor is no plugin"],
)
def test_a_plugins_checkpoints_are_found(plugin, names):
    assert [x.name for x in checkpoints_of(plugin)] == names


def test_a_folder_is_loaded(tiny):
    from transformers import CLIPTextModel

    checkpoint = Checkpoint(str(tiny), files=("config.json",))
    checkpoint.check()
    assert checkpoint.load(CLIPTextModel).config.hidden_size == 8 and checkpoint.commit is None


@pytest.mark.parametrize("content", [b"", b"no weights" * 9, None], ids=["empty", "another thing", "cut off"])
@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_broken_weights_are_no_fault_of_an_image(content, filename, tiny):
    from transformers import CLIPTextModel

    file = tiny / filename
    (tiny / "model.safetensors").rename(file)
    file.write_bytes(file.read_bytes()[:500] if content is None else content)
    with pytest.raises(CheckpointError, match="cannot be loaded|a pickle can run code"):
        Checkpoint(str(tiny)).load(CLIPTextModel, use_safetensors=None)


def test_weights_in_the_hubs_cache_are_loaded_and_their_commit_is_known(tiny, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from transformers import CLIPTextModel
    from transformers.utils import hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "snapshots" / "hub"))
    folder = tmp_path / "snapshots" / "hub" / "models--some--clip"
    commit = "0123456789" * 4
    (folder / "snapshots").mkdir(parents=True)
    os.rename(tiny, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr(hub, "constants", constants, raising=False)
    checkpoint = Checkpoint("some/clip", files=("config.json",))
    checkpoint.check()
    assert checkpoint.commit == commit and checkpoint.path("config.json").name == "config.json"
    network = checkpoint.load(CLIPTextModel, cache_dir=str(tmp_path / "snapshots" / "hub"))
    assert network.config.hidden_size == 8


def test_all_missing_weights_are_named_in_one_paragraph(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        check({"tagger": Two(), "detector": Wraps(Plain("x/y", "v2"))})
    message = str(caught.value)
    assert "\n" not in message and message.count("HF_HUB_OFFLINE") == 1
    for part in ("tagger Two: a/b", "b.pth", "c/d at revision v1", "detector Wraps: x/y", "model.safetensors"):
        assert part in message
    assert "hf download a/b --revision main b.pth" in message and str(tmp_path / "hub") in message


def test_what_a_plugin_checks_itself_is_said_with_the_rest():
    class Needs:
        def check(self):
            raise CheckpointError("the environment x is not there")

    with pytest.raises(MissingWeights, match="detector Wraps: the environment x is not there.*tagger Plain: x/y"):
        check({"tagger": Plain("x/y"), "detector": Wraps(Needs())})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "no file or folder here, and no id"),
        ("empty", "has no config.json; it must hold config.json"),
    ],
)
def test_a_path_that_holds_nothing_says_so(name, message, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingWeights, match=message):
        Checkpoint(name).check()


def test_a_network_of_diffusers_in_a_folder_of_a_folder_is_loaded_and_its_surplus_passed_over(tmp_path, caplog):
    from diffusers import UNet2DModel
    from safetensors.torch import load_file

    sizes = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    UNet2DModel(**sizes, norm_num_groups=4).save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "surplus": torch.zeros(3)}, file)
    checkpoint = Checkpoint(str(tmp_path), files=("unet/config.json",))
    network = checkpoint.load(UNet2DModel, subfolder="unet", dtype=torch.bfloat16)
    assert network.dtype == torch.bfloat16 and not caplog.text
    first, second, *_ = weights
    save_file({name: x for name, x in weights.items() if name not in (first, second)}, file)
    with pytest.raises(CheckpointError, match="2 of .* tensors of UNet2DModel are not in"):
        checkpoint.load(UNet2DModel, subfolder="unet")


def test_a_folder_of_another_kind_is_refused_with_what_it_lacks(tiny):
    from transformers import SamModel

    (tiny / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded: OSError: .*SamModel needs config.json"):
        Checkpoint(str(tiny)).load(SamModel)


def test_weights_of_another_network_are_refused_and_not_made_up(tiny):
    import json

    from transformers import CLIPTextModel, CLIPVisionModel

    with pytest.raises(CheckpointError, match="tensors of CLIPVisionModel are not in .*another network's"):
        Checkpoint(str(tiny)).load(CLIPVisionModel)
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(CheckpointError, match=r"\d+ of \d+ tensors of CLIPTextModel are not in"):
        Checkpoint(str(tiny)).load(CLIPTextModel)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/scenewright-was-here",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: torch.save({"model": Evil()}, p), "a pickle can run code when it is read"),
        (lambda p: p.write_bytes(pickle.dumps(Evil())), "a pickle can run code|cannot be read"),
        (lambda p: p.write_bytes(b"PK torn"), "cannot be read"),
        (lambda p: torch.save([1, 2], p), "holds no table of tensors, but a list"),
        (lambda p: torch.save({"model": {"a": 1}}, p), "holds no table of tensors"),
    ],
    ids=["code", "plain pickle of code", "torn", "a list", "numbers"],
)
def test_a_file_that_is_no_table_of_tensors_is_refused(write, message, tmp_path):
    write(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "x.pth")
    assert not os.path.exists("/tmp/scenewright-was-here")


@pytest.mark.parametrize("inside", [None, "model", "state_dict"])
def test_tensors_are_read_from_every_usual_place(inside, tmp_path):
    tensors = {"a": torch.arange(3.0)}
    torch.save(tensors if inside is None else {inside: tensors, "epoch": 3}, tmp_path / "x.pth")
    torch.save(torch.load(tmp_path / "x.pth"), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "x.safetensors")
    for name in ("x.pth", "old.pth", "x.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["a"], tensors["a"])


def test_a_network_takes_its_own_tensors_and_leaves_others():
    network = torch.nn.Linear(2, 3)
    fill(network, {"weight": torch.ones(3, 2), "bias": torch.zeros(3), "other": torch.ones(1)}, "x.pth")
    assert network.weight.min() == 1
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of Linear: 1 of 2 .* missing.* bias must be \(3,\), got nothing"
    ):
        fill(network, {"weight": torch.ones(3, 2)}, "x.pth")
    with pytest.raises(CheckpointError, match=r"1 have another shape; weight must be \(3, 2\), got \(2, 3\)"):
        fill(network, {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}, "x.pth")
