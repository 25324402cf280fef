"""ScaleU: what a decoder block reads is rescaled, and nothing else."""

import copy

import pytest
import torch

from scenewright.layout_models.instance_diffusion.scaleu import (
    ScaleU,
    attach_scaleu,
    decoder_blocks,
    scale_channels,
    scale_low_frequencies,
)


def small_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=16,
    ).eval()


INPUTS = (torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1)), 3, torch.zeros(1, 2, 16))


@pytest.mark.golden
@pytest.mark.parametrize("size", ["8x8", "16x16", "12x20", "7x5", "2x2"])
def test_features_are_scaled_as_in_the_reference(golden, size):
    about, tensors = golden("instance_diffusion/scaleu")
    close = {"atol": about["tolerance"]["all"], "rtol": 0}
    decoder, skip = tensors[f"h_{size}"], tensors[f"skip_{size}"]
    torch.testing.assert_close(scale_channels(decoder, tensors["b"]), tensors[f"h_out_{size}"], **close)
    torch.testing.assert_close(scale_low_frequencies(skip, tensors["s"]), tensors[f"skip_out_{size}"], **close)
    layer = ScaleU(decoder.shape[1])
    layer.load_state_dict({"b": tensors["b"], "s": tensors["s"]})
    wanted = torch.cat([tensors[f"h_out_{size}"], tensors[f"skip_out_{size}"]], 1)
    torch.testing.assert_close(layer(torch.cat([decoder, skip], 1)), wanted, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_new_one_changes_nothing_bit_for_bit(dtype):
    x = torch.randn(2, 7, 5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(ScaleU(4).to(dtype)(x), x)


def test_a_unet_draws_as_before_and_then_each_number_counts():
    unet = small_unet()
    before = unet(*INPUTS).sample
    attach_scaleu(unet)
    assert torch.equal(unet(*INPUTS).sample, before)
    unet(*INPUTS).sample.square().sum().backward()
    found = {name: p for name, p in unet.named_parameters() if ".scaleu." in name}
    assert [len(p) for name, p in found.items() if name.endswith(".b")] == [32, 32, 32, 16]
    assert all(p.grad.abs().min() > 0 for p in found.values())


def test_the_channels_are_those_from_below_not_those_of_the_skip():
    unet = small_unet()
    attach_scaleu(unet)
    seen = []
    for resnet, channels in decoder_blocks(unet):
        skip = resnet.conv1.in_channels - channels
        resnet.scaleu.b.data.fill_(-20)  # nothing from below
        resnet.norm1.register_forward_pre_hook(lambda _, x, n=channels, k=skip: seen.append((x[0], n, k)))
    unet(*INPUTS)
    assert [skip for _, _, skip in seen] == [32, 16, 16, 16]
    for feature, channels, _ in seen:
        assert not feature[:, :channels].any() and feature[:, channels:].abs().amax((0, 2, 3)).min() > 0


def test_attaching_again_scales_once_and_a_copy_is_its_own():
    unet = small_unet()
    attach_scaleu(unet)
    attach_scaleu(unet)
    assert all(len(resnet._forward_pre_hooks) == 1 for resnet, _ in decoder_blocks(unet))
    other = copy.deepcopy(unet)
    for resnet, _ in decoder_blocks(other):
        resnet.scaleu.b.data.fill_(0.5)
    before = small_unet()(*INPUTS).sample
    assert torch.equal(unet(*INPUTS).sample, before)
    assert not torch.allclose(other(*INPUTS).sample, before, atol=1e-3)


def test_it_is_differentiable_under_gradient_checkpointing():
    grads = []
    for checkpointing in (False, True):
        unet = small_unet().train()
        attach_scaleu(unet)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(*INPUTS).sample.square().sum().backward()
        grads.append([p.grad.clone() for name, p in unet.named_parameters() if ".scaleu." in name])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)
