"""Reading a published file: which tagger it is, how large, and where each tensor belongs.

Sizes are read off the tensors, so Swin-B, Swin-L and what a test writes go the same way.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenewright.annotators.recognition.decoder import ClassLinear, QueryDecoder
from scenewright.annotators.recognition.network import FixedQueries, TaggingNetwork, TextQueries
from scenewright.annotators.recognition.position import resize_bias_table
from scenewright.checkpoints import CheckpointError, fill, read_tensors

#: Which tensors tell the three apart, and the plugin that reads them.
KINDS = {
    "RAM++": ("reweight_scale", "ram_plus"),
    "RAM": ("image_proj.weight", "ram"),
    "Tag2Text": ("fc.W", "tag2text"),
}

#: Descriptions of each tag in RAM++.
DESCRIPTIONS = 51

#: The published names, and those of the modules here. What matches none is not needed: the tag encoder and the text
#: decoder, and buffers that follow from the sizes.
NAMES = (
    (r"visual_encoder\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (r"visual_encoder\.patch_embed\.norm\.", "backbone.embeddings.norm."),
    (r"visual_encoder\.norm\.", "backbone.layernorm."),
    (r"visual_encoder\.layers\.(\d+)\.downsample\.", r"backbone.encoder.layers.\1.downsample."),
    (r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(?!attn_mask)", r"backbone.encoder.layers.\1.blocks.\2."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.crossattention\.self\.", r"decoder.layers.\1."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.crossattention\.output\.dense\.", r"decoder.layers.\1.output."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.crossattention\.output\.LayerNorm\.", r"decoder.layers.\1.attended."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"decoder.layers.\1.widen."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.output\.dense\.", r"decoder.layers.\1.narrow."),
    (r"tagging_head\.encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"decoder.layers.\1.fed."),
    (r"label_embed\.weight$", "queries.weight"),
    (r"(label_embed|reweight_scale)$", r"queries.\1"),
    (r"wordvec_proj\.", "queries.wordvec_proj."),
    (r"image_proj\.", "image_proj."),
    (r"fc\.", "score."),
)

#: Inside a block of the backbone: transformers 5 has other names than the published files.
BLOCK_NAMES = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
)

PATCH = "visual_encoder.patch_embed.proj.weight"
TABLE = "attn.relative_position_bias_table"


def read_network(
    path: str | Path,
    kind: str,
    image_size: int | None = None,
    *,
    heads: int = 4,
    eps: float = 1e-12,
    descriptions: int = DESCRIPTIONS,
) -> TaggingNetwork:
    """Build the network that a file holds and fill it.

    Args:
        kind: "RAM", "RAM++" or "Tag2Text".
        image_size: side of the picture in pixels, a multiple of 32; the one it was trained at if not given.
        heads: of the decoder's attention; no tensor tells.
        eps: of the decoder's normalisation.
        descriptions: of each tag, for RAM++.

    Raises:
        CheckpointError: the file cannot be read, is of another kind, or tensors are missing or have other shapes.
        ValueError: ``image_size`` does not fit the backbone.
    """
    tensors = {name.replace("vision_multi.", "tagging_head."): x for name, x in read_tensors(path).items()}
    _check_kind(tensors, kind, path)
    try:
        backbone = _backbone(tensors, image_size)
        network = _assemble(backbone, tensors, kind, heads, eps, descriptions if kind == "RAM++" else 1)
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is no checkpoint of {kind}: it has no {error.args[0]}") from error
    fill(network, _own_names(tensors, backbone.config.window_size), path)
    return network.requires_grad_(False).eval()


def _check_kind(tensors: Mapping[str, Tensor], kind: str, path: str | Path) -> None:
    found = next((name for name, (mark, _) in KINDS.items() if mark in tensors), None)
    if found is None or PATCH not in tensors:
        lacks = PATCH if found else " or ".join(mark for mark, _ in KINDS.values())
        some = ", ".join(list(tensors)[:4])
        raise CheckpointError(f"{path} is no checkpoint of {kind}: it has no {lacks}, but {some}, ...")
    if found != kind:
        raise CheckpointError(f"{path} holds {found}, not {kind}; read it with annotator/tagger={KINDS[found][1]}")


def _backbone(tensors: Mapping[str, Tensor], image_size: int | None) -> Any:
    """A Swin transformer as large as the tensors say; its last stage is one window."""
    from transformers import SwinConfig, SwinModel

    blocks = [re.match(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight", name) for name in tensors]
    places = [(int(x[1]), int(x[2])) for x in blocks if x]
    depths = [1 + max((block for stage, block in places if stage == i), default=-1) for i in range(4)]
    stages = [f"visual_encoder.layers.{i}.blocks.0." for i in range(4)]
    embed_dim, channels, patch, _ = tensors[PATCH].shape
    window = (round(len(tensors[stages[0] + TABLE]) ** 0.5) + 1) // 2
    step = patch * 2 ** (len(stages) - 1)
    if image_size is not None:
        if image_size < step or image_size % step:
            raise ValueError(f"image_size must be a multiple of {step}, got {image_size}")
        window = image_size // step
    config = SwinConfig(
        image_size=window * step,
        patch_size=patch,
        num_channels=channels,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=[tensors[stage + TABLE].shape[1] for stage in stages],
        window_size=window,
        mlp_ratio=tensors[stages[0] + "mlp.fc1.weight"].shape[0] / embed_dim,
        drop_path_rate=0.0,
    )
    return SwinModel(config, add_pooling_layer=False)


def _assemble(
    backbone: Any, tensors: Mapping[str, Tensor], kind: str, heads: int, eps: float, descriptions: int
) -> TaggingNetwork:
    layer = "tagging_head.encoder.layer.0."
    (inner, width), context = (
        tensors[f"{layer}intermediate.dense.weight"].shape,
        tensors[f"{layer}crossattention.self.key.weight"].shape[1],
    )
    depth = len({x[1] for x in (re.match(r"tagging_head\.encoder\.layer\.(\d+)\.", name) for name in tensors) if x})
    decoder = QueryDecoder(depth, width, context, inner, heads, eps)
    if kind == "Tag2Text":
        queries = FixedQueries(torch.zeros(len(tensors["label_embed.weight"]), width))
        return TaggingNetwork(backbone, nn.Identity(), queries, decoder, ClassLinear(*tensors["fc.W"].shape[1:]))
    rows, text_width = tensors["label_embed"].shape
    if rows % descriptions:
        raise CheckpointError(f"label_embed must have {descriptions} descriptions of each class, got {rows} in all")
    queries = TextQueries(rows, text_width, width, descriptions)
    image_proj = nn.Linear(backbone.num_features, context)
    return TaggingNetwork(backbone, image_proj, queries, decoder, nn.Linear(width, 1))


def _own_names(tensors: Mapping[str, Tensor], window: int) -> dict[str, Tensor]:
    """The tensors that are needed, under the names of the modules here."""
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = next((re.sub(f"^{old}", new, name) for old, new in NAMES if re.match(old, name)), None)
        if place is None:
            continue
        if ".attn.qkv." in place:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                own[place.replace(".attn.qkv.", f".attention.{part}_proj.")] = piece
            continue
        for old, new in BLOCK_NAMES:
            place = re.sub(old, new, place)
        own[place] = resize_bias_table(tensor.float(), window) if name.endswith(TABLE) else tensor
    return own
