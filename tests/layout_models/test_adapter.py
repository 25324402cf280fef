"""Regional layers on stock UNets: what they add, what they leave alone, and what is saved of them."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from scenewright.checkpoints import CheckpointError
from scenewright.layout import Layout
from scenewright.layout_models.rich_context.adapter import (
    adapter_parameters,
    attach,
    attention_grids,
    count_parameters,
    freeze_base,
    is_adapter,
    load_adapter,
    save_adapter,
)
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SCENEWRIGHT_GOLDEN", ROOT / "tests" / "golden"))
#: A folder without any is a failing test.
FIXTURES = [f"unet/{path.stem}" for path in sorted(FOLDER.glob("unet/*.json"))] or ["unet/none found"]
TINY = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=4,
)
#: Of the published bases, as far as it decides shapes.
SDXL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    attention_head_dim=[5, 10, 20],
    block_out_channels=[320, 640, 1280],
    cross_attention_dim=2048,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    projection_class_embeddings_input_dim=2816,
    sample_size=128,
    transformer_layers_per_block=[1, 2, 10],
    use_linear_projection=True,
)
SD15 = dict(attention_head_dim=8, cross_attention_dim=768, sample_size=64)
# base, layers, parameters of base, of a layer by width, of the encoder, and of all that is trained
BASES = {
    "sdxl": (SDXL, 70, 2_567_463_684, {640: 3_441_920, 1280: 8_522_240}, 2_397_248, 548_150_848),
    "sd15": (SD15, 16, 859_520_964, {320: 696_960, 640: 1_803_520, 1280: 5_245_440}, 1_083_968, 45_059_008),
}


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


oracle = module("benchmarks/materials/dense_regional_attention.py")


class Words:
    bos, eos, pad, separator, length = 1, 2, 0, 3, 9

    def tokens(self, text: str) -> list[int]:
        return [4 + sum(map(ord, word)) % 60 for word in text.split()]


def encode(ids: torch.Tensor) -> torch.Tensor:
    return torch.randn(64, 12, generator=torch.Generator().manual_seed(1))[ids].cumsum(1)


def unet_of(*, seed: int = 0, std: float | None = 0.2, layers: str = "ca", **changes: Any) -> Any:
    """A tiny UNet; with regional layers of that spread, fresh ones for 0, none for None."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**{**TINY, **changes})
    if std is not None:
        attach(unet, layers)
    for parameter in adapter_parameters(unet).values() if std else ():
        torch.nn.init.normal_(parameter, std=std or 0)
    return unet.eval()


def grounding_of(unet: Any, samples: Sequence[int | None], side: int = 16, **options: Any) -> Grounding:
    grids = attention_grids(unet, side, side)
    generator = torch.Generator().manual_seed(0)
    canvases = []
    for count in samples:
        corner = torch.rand(count or 0, 2, generator=generator) * 0.7
        boxes = torch.cat([corner, corner + torch.rand(count or 0, 2, generator=generator) * 0.3], 1)
        layout = Layout(boxes=boxes, labels=[f"thing {i}" for i in range(count or 0)])
        canvases.append(None if count is None else canvas(layout, 8 * side, 8 * side, grids, Words()))
    return ground(canvases, encode, grids, self_attention=True, **options)


def draw(unet: Any, grounding: Grounding | None, count: int = 3, seed: int = 0, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(count, 4, side, side, generator=generator).to(unet.dtype)
    text = torch.randn(count, 5, 12, generator=generator).to(unet.dtype)
    more = {} if grounding is None else {"cross_attention_kwargs": {"gligen": {"grounding": grounding}}}
    return unet(sample, torch.arange(count) * 100, text, **more).sample


@pytest.mark.parametrize("name", BASES)
def test_adapters_of_the_published_bases_have_their_layers_parameters_and_names(name):
    config, layers, base, per_layer, encoder, trained = BASES[name]
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**config)
        assert sum(x.numel() for x in unet.parameters()) == base
        attach(unet)
    freeze_base(unet)
    shapes = {key: tuple(x.shape) for key, x in adapter_parameters(unet).items()}
    fusers = {key.rsplit(".fuser.", 1)[0] for key in shapes if ".fuser." in key}
    assert len(fusers) == layers and count_parameters(unet) == trained
    context = config["cross_attention_dim"]
    for block in fusers:
        dim = shapes[f"{block}.fuser.null_text_feat"][0]
        expected = {"attn.to_q.weight": (dim, dim), "attn.to_k.weight": (dim, context)}
        expected |= {"attn.to_v.weight": (dim, context), "attn.to_out.0.weight": (dim, dim)}
        expected |= {"attn.to_out.0.bias": (dim,), "null_text_feat": (dim,)}
        found = {key.split(".fuser.")[1]: x for key, x in shapes.items() if key.startswith(f"{block}.fuser.")}
        assert found == expected and ".transformer_blocks." in block
        assert sum(torch.Size(x).numel() for x in found.values()) == per_layer[dim]
    rest = {key: x for key, x in shapes.items() if key.startswith("position_net.")}
    width = context + 64
    assert rest == {
        "position_net.linears.0.weight": (512, width),
        "position_net.linears.0.bias": (512,),
        "position_net.linears.2.weight": (512, 512),
        "position_net.linears.2.bias": (512,),
        "position_net.linears.4.weight": (context, 512),
        "position_net.linears.4.bias": (context,),
        "position_net.null_text_feature": (width,),
    }
    assert sum(torch.Size(x).numel() for x in rest.values()) == encoder
    # every parameter of the adapter learns but for one that nothing reads, and none of the base
    learning = {key for key, x in unet.named_parameters() if x.requires_grad}
    assert learning == shapes.keys() - {"position_net.null_text_feature"}


@pytest.mark.parametrize("layers", ["ca", "casa"])
@pytest.mark.parametrize("samples", [[None, None, None], [30, None, 0]], ids=str)
def test_a_freshly_attached_unet_is_bit_for_bit_the_base(layers, samples):
    base = draw(unet_of(std=None), None)
    unet = unet_of(std=0, layers=layers)
    assert torch.equal(draw(unet, grounding_of(unet, samples)), base) and torch.equal(draw(unet, None), base)


def test_the_layout_is_heard_where_there_is_one_and_nowhere_else():
    unet = unet_of()
    base, told = draw(unet, None), draw(unet, grounding_of(unet, [4, None, None], dropped=[False, False, True]))
    assert (told[0] - base[0]).abs().max() > 1e-2 and (told[2] - base[2]).abs().max() > 1e-2
    assert (told[1] - base[1]).abs().max() <= 1e-6
    alone = draw(unet, grounding_of(unet, [4, None, None]), seed=0)
    assert (alone[0] - told[0]).abs().max() <= 1e-6


def test_attaching_again_replaces_the_layers_and_keeps_the_base():
    unet = unet_of()
    names = set(unet.state_dict())
    attach(unet, boxes=False)
    assert set(unet.state_dict()) == names and torch.equal(draw(unet, grounding_of(unet, [2] * 3)), draw(unet, None))


@pytest.mark.parametrize("layers", ["self", ""])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(ValueError, match="layers must be one of ca, casa, got"):
        attach(unet_of(std=None), layers)


def test_a_unet_that_reads_no_text_is_refused():
    plain = unet_of(std=None, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
                    mid_block_type=None)  # fmt: skip
    with pytest.raises(ValueError, match="no transformer blocks that read text"):
        attach(plain)


@pytest.mark.parametrize("side", [16, 12, (10, 14)])
@pytest.mark.parametrize("changes", [{}, {"mid_block_type": None}, {"down_block_types": ("CrossAttnDownBlock2D",
    "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}])  # fmt: skip
def test_grids_are_those_on_which_the_unet_attends(side, changes):
    unet = unet_of(**changes)
    height, width = side if isinstance(side, tuple) else (side, side)
    met: set[int] = set()
    for block in unet.modules():
        if hasattr(block, "fuser"):
            block.fuser.register_forward_pre_hook(lambda _, x: met.add(x[0].shape[1]))
    grids = attention_grids(unet, height, width)
    empty = ground([None], encode, grids)
    unet(torch.zeros(1, 4, height, width), 0, torch.zeros(1, 5, 12),
         cross_attention_kwargs={"gligen": {"grounding": empty}})  # fmt: skip
    assert met == {h * w for h, w in grids} and grids == sorted(grids, reverse=True)


@pytest.mark.parametrize(("layers", "boxes"), [("ca", True), ("casa", False)])
def test_a_saved_adapter_comes_back_without_its_base(tmp_path, layers, boxes):
    unet = unet_of(std=0)
    attach(unet, layers, boxes=boxes)
    for parameter in adapter_parameters(unet).values():
        torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(unet, tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    assert (about["layers"], about["boxes"]) == (layers, boxes) and about["base"]["cross_attention_dim"] == 12
    for place in (tmp_path / "adapter", tmp_path / "adapter" / "adapter.safetensors"):
        other = unet_of(std=None)
        load_adapter(other, place)
        assert torch.equal(draw(other, grounding_of(other, [3, 0, None])), draw(unet, grounding_of(unet, [3, 0, None])))
    size = (tmp_path / "adapter" / "adapter.safetensors").stat().st_size
    assert size < 4 * count_parameters(unet) + 20_000  # and nothing of the base


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_whole_unet_file_of_the_published_kind_is_read(tmp_path, prefix):
    unet = unet_of()
    save_file(
        {prefix + key: x.half().contiguous() for key, x in unet.state_dict().items()}, tmp_path / "whole.safetensors"
    )
    other = unet_of(std=None)
    load_adapter(other, tmp_path / "whole.safetensors")
    grounding = grounding_of(unet, [3, 1, 0])
    assert (draw(other, grounding_of(other, [3, 1, 0])) - draw(unet, grounding)).abs().max() <= 1e-2


def test_weights_of_another_base_are_refused_with_what_differs(tmp_path):
    save_adapter(unet_of(cross_attention_dim=20), tmp_path)
    unet = unet_of(std=None)
    with pytest.raises(
        CheckpointError, match=r"another base; of \d+ tensors \d+ have other shapes: .*to_k.weight is \("
    ):
        load_adapter(unet, tmp_path)
    deeper = unet_of(transformer_layers_per_block=2)
    save_adapter(deeper, tmp_path)
    with pytest.raises(CheckpointError, match=r"are not of this base: .*transformer_blocks.1.fuser"):
        load_adapter(unet, tmp_path)
    with pytest.raises(CheckpointError, match=r"are missing: .*transformer_blocks.1.fuser"):
        load_adapter(unet_of(std=None, transformer_layers_per_block=2), adapter_parameters(unet_of()))
    with pytest.raises(CheckpointError, match="no regional layers"):
        load_adapter(unet, {"conv_in.weight": torch.zeros(1)})


class NoSync(TorchDispatchMode):
    """Refuses what waits for a device: numbers as Python's, and shapes that depend on numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        forbidden = (
            "_local_scalar_dense",
            "item",
            "nonzero",
            "masked_select",
            "unique",
            "bincount",
            "equal",
            "is_nonzero",
        )
        if name.startswith(forbidden) or name.startswith("_unique"):
            raise AssertionError(f"{name} waits for the device")
        if name in ("_to_copy", "copy_") and (kwargs or {}).get("device") is not None:
            raise AssertionError(f"{name} moves between devices")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layers", ["ca", "casa"])
@pytest.mark.parametrize("reuse", [True, False])
def test_the_layout_makes_no_step_wait_for_the_device(layers, reuse):
    unet = unet_of(layers=layers)
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        torch.ones(2).nonzero()
    grounding = grounding_of(unet, [4, None, 0], dropped=[False, True, False])
    grounding.reuse = reuse
    with torch.no_grad(), NoSync():
        for _ in range(2):
            assert draw(unet, grounding).shape == (3, 4, 16, 16)


def gradients(unet: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    unet.zero_grad(set_to_none=True)
    loss.backward()
    return {name: x.grad for name, x in unet.named_parameters() if x.grad is not None}


def test_gradients_reach_the_adapter_and_nothing_else():
    unet = unet_of()
    freeze_base(unet)
    found = gradients(unet, draw(unet, grounding_of(unet, [4, None, 0], dropped=[False, True, False])).square().mean())
    trained = {name for name in adapter_parameters(unet) if name != "position_net.null_text_feature"}
    assert found.keys() == trained and all(x.isfinite().all() and x.any() for x in found.values())
    # without any layout only the learnt vectors are asked, without any drop all but these
    nobody = gradients(unet, draw(unet, grounding_of(unet, [None] * 3)).square().mean())
    assert nobody.keys() == {name for name in trained if name.endswith("null_text_feat")}
    everybody = gradients(unet, draw(unet, grounding_of(unet, [4, 1, 2])).square().mean())
    assert everybody.keys() == {name for name in trained if not name.endswith("null_text_feat")}


@pytest.mark.parametrize("layers", ["ca", "casa"])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(layers):
    unet = unet_of(layers=layers).train()
    freeze_base(unet)
    plain = draw(unet, grounding_of(unet, [4, None, 0])).square().mean()
    wanted = gradients(unet, plain)
    unet.enable_gradient_checkpointing()
    calls = []
    unet.position_net.register_forward_hook(lambda *_: calls.append(1))
    checkpointed = draw(unet, grounding_of(unet, [4, None, 0])).square().mean()
    found = gradients(unet, checkpointed)
    assert torch.equal(checkpointed, plain) and found.keys() == wanted.keys() and calls == [1]
    assert all((found[name] - x).abs().max() <= 1e-6 * max(float(x.abs().max()), 1e-3) for name, x in wanted.items())


def test_lora_on_the_base_leaves_the_regional_layers_alone():
    from peft import LoraConfig

    unet = unet_of()
    freeze_base(unet)
    before = draw(unet, grounding_of(unet, [4, None, 0]))
    # a suffix such as "to_q" would meet the regional layers too
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=r".*\.attn[12]\.(to_[qkv]|to_out\.0)"))
    added = [name for name, _ in unet.named_parameters() if "lora_" in name]
    assert (
        added and not any(is_adapter(name) for name in added) and all(".attn1." in x or ".attn2." in x for x in added)
    )
    after = draw(unet, grounding_of(unet, [4, None, 0]))
    assert (after - before).abs().max() <= 1e-6
    assert set(added) <= gradients(unet, after.square().mean()).keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "autocast"])
def test_half_precision_is_close(dtype, whole):
    unet = unet_of()
    exact = draw(unet, grounding_of(unet, [4, None, 0]))
    unet = unet.to(dtype) if whole else unet
    with torch.autocast("cpu", dtype, enabled=not whole):
        grounding = grounding_of(unet, [4, None, 0])
        half = draw(unet, grounding.to("cpu", dtype) if whole else grounding)
    assert half.isfinite().all()
    assert (half.float() - exact).abs().mean() <= 16 * torch.finfo(dtype).eps * exact.std()


@pytest.mark.slow
def test_compiled_blocks_draw_and_learn_the_same():
    # in a process of its own: the checks of types that tests switch on are no code to compile
    script = ROOT / "tests" / "layout_models" / "scripts" / "compiled_unet.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"same": True}


@pytest.mark.golden
@pytest.mark.parametrize("name", FIXTURES)
def test_unets_are_those_of_the_reference(golden, name):
    about, tensors = golden(name)
    _, weights = golden(name + ".weights")
    config, tolerance = about["config"]["unet"], about["tolerance"]
    unet: Any = UNet2DConditionModel(**config)
    base = {key: x.float() for key, x in weights.items() if not is_adapter(key)}
    assert len(base) == about["stock_keys"] and len(weights) - len(base) == about["adapter_keys"]
    unet.load_state_dict(base)
    load_adapter(unet, {key: x.float() for key, x in weights.items()})
    assert sum(x.numel() for x in unet.parameters()) == about["parameters"]
    grids = attention_grids(unet, *tensors["sample"].shape[-2:])
    slots = [oracle.published(tensors, grid, "text_embeddings") for grid in grids]
    for dtype, suffix in ((torch.float32, ""), (torch.float64, "_f64")):
        inputs = {name: tensors[name].to(dtype) for name in ("text_embeds", "time_ids") if name in tensors}
        unet.to(dtype)

        def predict(told: bool, dtype: torch.dtype = dtype, inputs: dict[str, Any] = inputs) -> torch.Tensor:
            grounding = oracle.packed(slots, tensors["bbox_embeddings"]).to("cpu", dtype)
            return unet(
                tensors["sample"].to(dtype),
                tensors["timestep"],
                tensors["encoder_hidden_states"].to(dtype),
                cross_attention_kwargs={"gligen": {"grounding": grounding}} if told else None,
                added_cond_kwargs=inputs or None,
            ).sample

        with torch.no_grad():
            assert (predict(True) - tensors["output" + suffix]).abs().max() <= tolerance["output" + suffix]
            if not suffix:
                assert (predict(False) - tensors["output_no_layout"]).abs().max() <= tolerance["output_no_layout"]
