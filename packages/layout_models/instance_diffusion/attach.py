"""Gated self-attention, ScaleU and a grounding tokenizer on a stock UNet of diffusers.

The base is not changed: an adapter is one fuser per transformer block, two vectors per decoder block, and the
tokenizer, and is kept alone. Released weights come with the names of the original Stable Diffusion code, which
``from_published`` translates, those of the base included.

Source: arXiv 2402.03290 (InstanceDiffusion) and 2301.07093 (GLIGEN).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenewright.checkpoints import CheckpointError, read_tensors
from scenewright.layout_models.instance_diffusion import unifusion
from scenewright.layout_models.instance_diffusion.gated_attention import GatedSelfAttention
from scenewright.layout_models.instance_diffusion.scaleu import attach_scaleu

#: How the released weights call the vectors of decoder block k, and where they have their fusers.
_SCALEU = re.compile(r"scaleu_([bs])_(\d+)")
_FUSER = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:1\.)?(transformer_blocks\.\d+\.fuser\..*)")


def attach(unet: Any, position_net: nn.Module, *, scaleu: bool = True) -> None:
    """Give every transformer block a gated self-attention, and the UNet a tokenizer; it draws as before.

    Pass ``cross_attention_kwargs={"gligen": {"grounding": instances_or_tokens}}`` to use them.

    Args:
        unet: a ``diffusers.UNet2DConditionModel``.
        position_net: ``UniFusion`` or ``TextBoxes``, whose tokens are as wide as the UNet's text.
        scaleu: False: decoder blocks stay as they are, as in GLIGEN.

    Raises:
        ValueError: the UNet has no blocks that read text.
    """
    blocks = list(_blocks(unet))
    if not blocks:
        raise ValueError(f"the UNet has no transformer blocks that read text: {unet.config.down_block_types}")
    width = blocks[0].attn2.to_k.in_features
    place = {"device": unet.conv_in.weight.device, "dtype": unet.conv_in.weight.dtype}
    for block in blocks:
        asked = block.attn1.to_q
        heads = block.attn1.heads
        block.fuser = GatedSelfAttention(asked.in_features, width, heads, asked.out_features // heads).to(**place)
    unet.position_net = position_net.to(**place)
    if scaleu:
        attach_scaleu(unet)


def open_gates(unet: Any) -> None:
    """Let new gates begin open, and what they let through at zero: it draws as before, but learns far sooner.

    Behind a closed gate the layers learn nothing, and as long as they know nothing an open gate does harm: with steps
    as large as those of a training from nothing, gates stay where they begin, at zero.
    """
    with torch.no_grad():
        for block in _blocks(unet):
            block.fuser.alpha_attn.fill_(1.0)
            block.fuser.alpha_dense.fill_(1.0)
            for last in (block.fuser.attn.to_out[0], block.fuser.ff.net[-1]):
                last.weight.zero_()
                last.bias.zero_()


def _blocks(unet: Any) -> Iterator[Any]:
    from diffusers.models.attention import BasicTransformerBlock

    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock) and module.attn2 is not None:
            yield module


def is_adapter(name: str) -> bool:
    """Whether a parameter of a UNet, by its name, belongs to the adapter."""
    return name.startswith("position_net.") or ".fuser." in name or ".scaleu." in name


def adapter_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters, by their name in the UNet."""
    return {name: parameter for name, parameter in unet.named_parameters() if is_adapter(name)}


def freeze_base(unet: Any) -> None:
    """Let only the adapter learn; null vectors only if the tokenizer uses them."""
    unet.requires_grad_(False)
    packed = getattr(unet.position_net, "packed", False)
    for name, parameter in adapter_parameters(unet).items():
        parameter.requires_grad_(not (packed and ".null_" in name))


def load(unet: Any, tensors: Mapping[str, Tensor] | str | Path) -> None:
    """Fill the adapter of a UNet; its base stays.

    Args:
        unet: one that ``attach`` has seen.
        tensors: by the names of this module or by the released ones, in which case the base's may be among them, and
            are left aside. Or a file of them.

    Raises:
        CheckpointError: they are not whole, or of another base; the message names what differs.
    """
    if isinstance(tensors, (str, Path)):
        tensors = read_tensors(Path(tensors).expanduser())
    if is_published(tensors):
        tensors = from_published(tensors, unet.config)
    given = {name.removeprefix("unet."): x for name, x in tensors.items()}
    given = {name: x for name, x in given.items() if is_adapter(name)}
    wanted = adapter_parameters(unet)
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    shapes = [name for name in sorted(wanted.keys() & given.keys()) if wanted[name].shape != given[name].shape]
    faults = [
        f"{len(names)} {what}: {'; '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("are missing", missing), ("are unknown", extra), ("have other shapes", shapes))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"the weights are not those of this adapter; of {len(wanted)} tensors {', '.join(faults)}"
        )
    unet.load_state_dict(given, strict=False)


def is_published(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of the original Stable Diffusion code."""
    return any(_FUSER.fullmatch(name) for name in tensors)


def from_published(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of a whole UNet, or of its adapter alone, by diffusers' names.

    Args:
        tensors: by the released names: ``input_blocks.1.1.transformer_blocks.0.fuser.linear.weight``, ``scaleu_b_0``,
            ``position_net.…``.
        config: of the UNet, for its number of layers per block.

    Raises:
        CheckpointError: a name that has no place.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    names = {name: _diffusers_name(name, config["layers_per_block"] + 1) for name in tensors}
    base = {f"model.diffusion_model.{name}": x for name, x in tensors.items() if names[name] is None}
    found = convert_ldm_unet_checkpoint(base, config) if base else {}
    if len(found) != len(base):
        raise CheckpointError(f"{len(base) - len(found)} of {len(base)} released tensors have no place in this UNet")
    found |= {ours: tensors[name] for name, ours in names.items() if ours is not None}
    return unifusion.from_published(found)


def _diffusers_name(name: str, layers: int) -> str | None:
    """Where a tensor of the adapter belongs in a UNet of so many layers per decoder block; None for the base's."""
    if name.startswith("position_net."):
        return name
    if match := _SCALEU.fullmatch(name):
        block, layer = divmod(int(match[2]), layers)
        return f"up_blocks.{block}.resnets.{layer}.scaleu.{match[1]}"
    match = _FUSER.fullmatch(name)
    if match is None:
        return None
    part, number, rest = match.groups()
    if part == "middle_block":
        return f"mid_block.attentions.0.{rest}"
    # the first block of the encoder is a convolution
    block, layer = divmod(int(number) - (part == "input_blocks"), layers)
    return f"{'down' if part == 'input_blocks' else 'up'}_blocks.{block}.attentions.{layer}.{rest}"
