"""Regional layers on a stock UNet of diffusers, through the hook that it has for GLIGEN.

The base is not changed: an adapter is one layer per transformer block and a grounding
encoder, and is saved alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scenewright.checkpoints import CheckpointError, read_tensors
from scenewright.layout_models.rich_context.grounding import GroundingEncoder
from scenewright.layout_models.rich_context.regional_attention import (
    RegionalCrossAndSelfAttention,
    RegionalCrossAttention,
)
from scenewright.layout_models.rich_context.regions import Grid

#: Names of the released code: regional cross-attention, and with regional self-attention after it.
LAYERS = {"ca": RegionalCrossAttention, "casa": RegionalCrossAndSelfAttention}

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


def attach(unet: Any, layers: str = "ca", *, boxes: bool = True) -> None:
    """Give every transformer block a regional layer, and the UNet a grounding encoder; it draws as before.

    Pass ``cross_attention_kwargs={"gligen": {"grounding": grounding}}`` to use them.

    Args:
        unet: a ``diffusers.UNet2DConditionModel``.
        layers: ``ca`` or ``casa``.
        boxes: False: labels without the boxes of their objects.

    Raises:
        ValueError: there are no such layers, or the UNet has no blocks that read text.
    """
    if layers not in LAYERS:
        raise ValueError(f"layers must be one of {', '.join(LAYERS)}, got {layers!r}")
    attach_layers(unet, LAYERS[layers], lambda width: GroundingEncoder(width, boxes=boxes))
    unet.regional_layers, unet.regional_boxes = layers, boxes


def attach_layers(
    unet: Any, layer: type[RegionalCrossAttention], grounding_encoder: Callable[[int], GroundingEncoder]
) -> None:
    """Give every transformer block a layer of this kind, and the UNet the encoder for its text's width.

    Raises:
        ValueError: the UNet has no blocks that read text.
    """
    blocks = list(_blocks(unet))
    if not blocks:
        raise ValueError(f"the UNet has no transformer blocks that read text: {unet.config.down_block_types}")
    width = blocks[0][1].attn2.to_k.in_features
    place = {"device": unet.conv_in.weight.device, "dtype": unet.conv_in.weight.dtype}
    for name, block in blocks:
        block.fuser = layer(block.attn1.to_q.in_features, width, block.attn1.heads, name=name).to(**place)
    unet.position_net = grounding_encoder(width).to(**place)


def _blocks(unet: Any) -> Iterator[tuple[str, Any]]:
    from diffusers.models.attention import BasicTransformerBlock

    for name, module in unet.named_modules():
        if isinstance(module, BasicTransformerBlock) and module.attn2 is not None:
            yield name, module


def is_adapter(name: str) -> bool:
    """Whether a parameter of a UNet, by its name, belongs to the adapter."""
    return name.startswith("position_net.") or ".fuser." in name


def adapter_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters, by their name in the UNet."""
    return {name: parameter for name, parameter in unet.named_parameters() if is_adapter(name)}


def attention_grids(unet: Any, height: int, width: int) -> list[Grid]:
    """The grids on which a UNet attends to text, for latents of ``height`` by ``width``, finest first."""
    grids = [(height, width)]
    for _ in unet.config.down_block_types[1:]:
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    levels = [i for i, kind in enumerate(unet.config.down_block_types) if "CrossAttn" in kind]
    if "CrossAttn" in (unet.config.mid_block_type or ""):
        levels.append(len(grids) - 1)
    return [grids[i] for i in sorted(set(levels))]


def save_adapter(unet: Any, folder: str | Path) -> None:
    """Write the adapter alone, as safetensors and a small JSON that says how to attach it."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(unet).items()}
    about = {"layers": unet.regional_layers, "boxes": unet.regional_boxes, "base": _about(unet)}
    text = json.dumps(about, indent=2) + "\n"
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(text)


def load_adapter(unet: Any, tensors: Mapping[str, Tensor] | str | Path) -> None:
    """Attach the layers that the weights are of, and fill them.

    Args:
        unet: a stock one, or one that has such layers.
        tensors: by name; other names than an adapter's are left aside, so a whole UNet of the released code will
            do. Or a folder of ``save_adapter``, or a file.

    Raises:
        CheckpointError: they belong to another base, or are not whole; the message names what differs.
    """
    if isinstance(tensors, (str, Path)):
        path = Path(tensors).expanduser()
        tensors = read_tensors(path / WEIGHTS if path.is_dir() else path)
    given = {name.removeprefix("unet."): x for name, x in tensors.items()}
    given = {name: x for name, x in given.items() if is_adapter(name)}
    if not given:
        raise CheckpointError("the weights hold no regional layers: no name has '.fuser.' or begins with position_net")
    boxes = "position_net.linears.0.weight" in given and _reads_boxes(unet, given["position_net.linears.0.weight"])
    attach(unet, "casa" if any(".fuser.self_attn." in name for name in given) else "ca", boxes=boxes)
    check_same(adapter_parameters(unet), given)
    unet.load_state_dict(given, strict=False)


def check_same(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Make sure that weights are those of a network of the same base.

    Raises:
        CheckpointError: names or shapes differ.
    """
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {'; '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("are missing", missing), ("are not of this base", extra), ("have other shapes", shapes))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"the weights were trained for another base; of {len(wanted)} tensors {', '.join(faults)}"
        )


def _reads_boxes(unet: Any, first: Tensor) -> bool:
    return first.shape[1] > next(_blocks(unet))[1].attn2.to_k.in_features


def _about(unet: Any) -> dict[str, Any]:
    names = ("block_out_channels", "cross_attention_dim", "transformer_layers_per_block")
    return {"name": str(unet.config.get("_name_or_path")), **{name: unet.config.get(name) for name in names}}


def freeze_base(unet: nn.Module) -> None:
    """Let only the adapter learn."""
    unet.requires_grad_(False)
    for name, parameter in adapter_parameters(unet).items():
        parameter.requires_grad_(name != "position_net.null_text_feature")


def count_parameters(unet: nn.Module) -> int:
    """How many numbers the adapter has."""
    return sum(parameter.numel() for parameter in adapter_parameters(unet).values())
