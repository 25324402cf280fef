"""The parts of InstanceDiffusion and GLIGEN on stock UNets, with their released names and sizes."""

from typing import Any

import pytest
import torch

from scenewright.checkpoints import CheckpointError
from scenewright.layout_models.instance_diffusion.attach import (
    adapter_parameters,
    attach,
    freeze_base,
    from_published,
    is_published,
    load,
)
from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens
from scenewright.layout_models.instance_diffusion.gligen import TextBoxes
from scenewright.layout_models.instance_diffusion.object_masks import on_grids
from scenewright.layout_models.instance_diffusion.unifusion import Instances, UniFusion, to_published

SMALL: dict[str, Any] = {
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": 24,
}


def unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(**{**SMALL, **settings}).eval()


def unifusion(**options: Any) -> UniFusion:
    torch.manual_seed(1)
    return UniFusion(24, 24, 8, resolution=64, depths=(1, 1, 1, 1), dims=(4, 4, 4, 8), **options).eval()


def ready() -> Any:
    """A UNet whose gates are open."""
    network = unet()
    attach(network, unifusion())
    for name, parameter in adapter_parameters(network).items():
        if "alpha_" in name or ".scaleu." in name:
            parameter.data.fill_(0.6)
    return network


def instances(boxes: list[list[float]], **fields: Any) -> Instances:
    random = torch.Generator().manual_seed(len(boxes))
    text = torch.randn(1, len(boxes), 24, generator=random)
    return Instances(
        text=text, boxes=torch.tensor([boxes]), valid=torch.ones(1, len(boxes), dtype=torch.bool), **fields
    )


def draw(network: Any, grounding: Any, size: int = 16, batch: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(9)
    latents = torch.randn(batch, 4, size, size, generator=random)
    context = torch.randn(batch, 5, 24, generator=random)
    options = None if grounding is None else {"gligen": {"grounding": grounding}}
    with torch.no_grad():
        return network(latents, 7, context, cross_attention_kwargs=options).sample


BOXES = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "scale"), [("output", 1.0), ("output_scale_0", 0.0)])
def test_the_unet_is_that_of_the_reference(golden, name, scale):
    about, tensors = golden("instance_diffusion/unet")
    _, weights = golden("instance_diffusion/unet.weights")
    network = unet()
    attach(network, unifusion())
    renamed = from_published({key: x.float() for key, x in weights.items()}, network.config)
    assert len(renamed) == len(weights)
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    assert not unexpected and all(key.startswith("position_net.") for key in missing)
    grounding = GroundingTokens(tensors["objs"], scale=scale)
    with torch.no_grad():
        found = network(
            tensors["x"],
            tensors["timesteps"],
            tensors["context"],
            cross_attention_kwargs={"gligen": {"grounding": grounding}},
        ).sample
    torch.testing.assert_close(found, tensors[name], atol=about["tolerance"][name], rtol=0)


@pytest.fixture(scope="module")
def sd15() -> Any:
    """Stable Diffusion 1.5 with InstanceDiffusion, without any number."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=768)
        attach(network, UniFusion())
    return network


def test_the_published_sizes_are_those_of_the_paper(sd15):
    def count(part: str) -> int:
        return sum(p.numel() for name, p in adapter_parameters(sd15).items() if part in name)

    assert sum(name.endswith("fuser.alpha_attn") for name in adapter_parameters(sd15)) == 16
    assert count(".fuser.") / 1e6 == pytest.approx(208, abs=1)
    vectors = [len(p) for name, p in adapter_parameters(sd15).items() if name.endswith("scaleu.b")]
    assert vectors == [1280] * 7 + [640] * 3 + [320] * 2 and count(".scaleu.") == 11_532
    assert {block.attn.heads for name, block in sd15.named_modules() if name.endswith(".fuser")} == {8}


def test_released_names_of_the_published_size_all_have_a_place(sd15):
    blocks = [*(f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)), "middle_block.1"]
    blocks += [f"output_blocks.{i}.1" for i in range(3, 12)]
    sizes = {"input": (320, 320, 640, 640, 1280, 1280), "output": (1280,) * 3 + (640,) * 3 + (320,) * 3}
    widths = [*sizes["input"], 1280, *sizes["output"]]
    released = {f"scaleu_s_{k}": torch.empty(1, device="meta") for k in range(12)}
    below = [1280] * 7 + [640] * 3 + [320] * 2
    released |= {f"scaleu_b_{k}": torch.empty(width, device="meta") for k, width in enumerate(below)}
    fuser = {name: x for name, x in sd15.mid_block.attentions[0].transformer_blocks[0].fuser.state_dict().items()}
    for block, width in zip(blocks, widths, strict=True):
        for name, x in fuser.items():
            shape = [width if n == 1280 else n * width // 1280 if n in (5120, 10240) else n for n in x.shape]
            released[f"{block}.transformer_blocks.0.fuser.{name}"] = torch.empty(shape, device="meta")
    net = to_published({f"position_net.{name}": x for name, x in sd15.position_net.state_dict().items()})
    found = from_published(released | net, sd15.config)
    wanted = adapter_parameters(sd15)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if wanted[name].shape != found[name].shape] == []


def test_attached_parts_change_nothing_at_first():
    network = unet()
    before = draw(network, None)
    attach(network, unifusion())
    assert torch.equal(draw(network, None), before)
    assert torch.equal(draw(network, instances(BOXES)), before)


def test_grounding_counts_and_scale_zero_leaves_it_out():
    network = ready()
    plain, tokens = draw(network, None), network.position_net(instances(BOXES))
    assert not torch.allclose(draw(network, tokens), plain, atol=1e-3)
    assert torch.equal(draw(network, tokens), draw(network, instances(BOXES)))
    assert torch.equal(draw(network, tokens.at(0.0)), plain)


def test_other_images_of_a_batch_draw_as_before():
    network = ready()
    tokens = network.position_net(instances(BOXES))
    second = GroundingTokens(tokens.tokens, rows=torch.tensor([1]))
    found, plain = draw(network, second, batch=2), draw(network, None, batch=2)
    torch.testing.assert_close(found[0], plain[0])
    assert not torch.allclose(found[1], plain[1], atol=1e-3)


def test_attention_is_restricted_to_objects_on_each_grid_of_the_unet():
    network = ready()
    cells = {size: x[None] for size, x in on_grids(torch.tensor(BOXES), [(16, 12), (8, 6)]).items()}
    free, masked = (draw_oblong(network, instances(BOXES, cells=x)) for x in (None, cells))
    assert not torch.allclose(free, masked, atol=1e-4)


def draw_oblong(network: Any, grounding: Instances) -> torch.Tensor:
    latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        options = {"gligen": {"grounding": grounding}}
        return network(latents, 7, torch.zeros(1, 5, 24), cross_attention_kwargs=options).sample


def test_an_adapter_is_loaded_by_either_name_and_from_a_file(tmp_path):
    from safetensors.torch import save_file

    trained = ready()
    adapter = {name: p.detach() for name, p in adapter_parameters(trained).items()}
    save_file(adapter, tmp_path / "adapter.safetensors")
    wanted = draw(trained, instances(BOXES))
    for source in (adapter, tmp_path / "adapter.safetensors", released(adapter)):
        network = unet()
        attach(network, unifusion())
        load(network, source)
        assert torch.equal(draw(network, instances(BOXES)), wanted)


def released(adapter: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names of the small fixture's code."""
    places = {"down_blocks.1.attentions.0": "input_blocks.3.1", "mid_block.attentions.0": "middle_block.1"}
    places |= {f"up_blocks.0.attentions.{i}": f"output_blocks.{i}.1" for i in range(2)}
    places |= {f"up_blocks.{k // 2}.resnets.{k % 2}.scaleu.{x}": f"scaleu_{x}_{k}" for k in range(4) for x in "bs"}
    found = {}
    for name, x in to_published(adapter).items():
        for ours, theirs in places.items():
            if name.startswith(ours):
                name = name.replace(ours, theirs)
        found[name] = x
    assert is_published(found) and not is_published(adapter)
    return found


def test_weights_of_another_base_are_refused_by_name():
    other = unet(cross_attention_dim=16)
    attach(other, UniFusion(24, 16, 8, resolution=64, depths=(1,) * 4, dims=(4,) * 4))
    network = unet()
    attach(network, unifusion())
    adapter = dict(adapter_parameters(other))
    with pytest.raises(CheckpointError, match="have other shapes"):
        load(network, adapter)
    adapter.pop("mid_block.attentions.0.transformer_blocks.0.fuser.alpha_attn")
    with pytest.raises(CheckpointError, match="1 are missing: mid_block"):
        load(network, adapter)
    with pytest.raises(CheckpointError, match="1 of 1 released tensors have no place"):
        from_published({"input_blocks.77.0.in_layers.0.weight": torch.zeros(1)}, network.config)


def test_only_the_adapter_learns_and_all_that_it_uses():
    network = ready()
    freeze_base(network)
    random = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"gligen": {"grounding": instances(BOXES)}}
    network(random, 7, torch.zeros(1, 5, 24), cross_attention_kwargs=options).sample.square().sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {name for name in adapter_parameters(network) if ".null_" not in name}


def test_a_unet_that_reads_no_text_is_refused():
    plain = unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None)
    with pytest.raises(ValueError, match="no transformer blocks"):
        attach(plain, unifusion())


@pytest.fixture
def text_boxes() -> TextBoxes:
    torch.manual_seed(2)
    network = TextBoxes(24, 24, 8)
    network.null_positive_feature.data.normal_()
    network.null_position_feature.data.normal_()
    return network


def test_gligens_tokens_are_those_of_diffusers(text_boxes):
    given = Instances(
        text=torch.randn(3, 3, 24, generator=torch.Generator().manual_seed(0)),
        boxes=torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(1)),
        valid=torch.tensor([[True, True, False], [False] * 3, [True, False, False]]),
    )
    theirs = super(TextBoxes, text_boxes).forward(given.boxes, given.valid.float(), given.text)
    found = text_boxes(given)
    assert found.rows.tolist() == [0, 2] and torch.equal(found.valid, given.valid[[0, 2]])
    torch.testing.assert_close(found.tokens[found.valid], theirs[given.valid])
    text_boxes.packed = False
    whole = text_boxes(given)
    assert whole.rows is None and whole.valid is None and torch.equal(whole.tokens, theirs)


def test_gligen_draws_with_boxes(text_boxes):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    stock = UNet2DConditionModel(**SMALL, attention_type="gated").eval()
    network = unet()
    attach(network, text_boxes, scaleu=False)
    assert not any("scaleu" in name for name in adapter_parameters(network))
    for name, parameter in stock.named_parameters():
        if "alpha_" in name:
            parameter.data.fill_(0.5)
    stock.position_net = TextBoxes(24, 24, 8, packed=False)
    network.load_state_dict(stock.state_dict())
    given = instances(BOXES)
    theirs = stock.position_net(given)
    stock.position_net.forward = lambda grounding: theirs.tokens
    torch.testing.assert_close(draw(network, given), draw(stock, given), atol=1e-5, rtol=0)
    cells = {size: x[None] for size, x in on_grids(torch.tensor(BOXES), [(16, 16), (8, 8)]).items()}
    tokens = network.position_net(instances(BOXES, cells=cells))
    assert tokens.objects.owners.tolist() == [[0, 1]]
    assert not torch.allclose(draw(network, tokens), draw(network, given), atol=1e-4)
