"""Small random weights under the published names of RAM, RAM++ and Tag2Text; tests load this file by its path."""

from pathlib import Path

import torch
from torch import Tensor


def published(
    kind: str,
    *,
    classes: int = 6,
    descriptions: int = 51,
    embed_dim: int = 4,
    depths: tuple[int, ...] = (1, 2, 1, 1),
    heads: tuple[int, ...] = (1, 1, 2, 2),
    window: int = 2,
    width: int = 8,
    text_width: int = 16,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A state dict as upstream writes it, with buffers and parts that tagging does not need."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = scale * torch.randn(shape, generator=generator)

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        put(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        if bias:
            put(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str, size: int) -> None:
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        put(f"{name}.bias", size, scale=0.1)

    put("visual_encoder.patch_embed.proj.weight", embed_dim, 3, 4, 4, scale=0.2)
    put("visual_encoder.patch_embed.proj.bias", embed_dim)
    norm("visual_encoder.patch_embed.norm", embed_dim)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        size = embed_dim * 2**stage
        for block in range(depth):
            name = f"visual_encoder.layers.{stage}.blocks.{block}"
            norm(f"{name}.norm1", size)
            norm(f"{name}.norm2", size)
            put(f"{name}.attn.relative_position_bias_table", (2 * window - 1) ** 2, count)
            tensors[f"{name}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            tensors[f"{name}.attn_mask"] = torch.zeros(4, window**2, window**2)
            linear(f"{name}.attn.qkv", 3 * size, size)
            linear(f"{name}.attn.proj", size, size)
            linear(f"{name}.mlp.fc1", 4 * size, size)
            linear(f"{name}.mlp.fc2", size, 4 * size)
        if stage < len(depths) - 1:
            norm(f"visual_encoder.layers.{stage}.downsample.norm", 4 * size)
            linear(f"visual_encoder.layers.{stage}.downsample.reduction", 2 * size, 4 * size, bias=False)
    vision_width = embed_dim * 2 ** (len(depths) - 1)
    norm("visual_encoder.norm", vision_width)
    context = vision_width if kind == "Tag2Text" else text_width
    for layer in range(2):
        name = f"tagging_head.encoder.layer.{layer}"
        linear(f"{name}.crossattention.self.query", width, width)
        linear(f"{name}.crossattention.self.key", width, context)
        linear(f"{name}.crossattention.self.value", width, context)
        linear(f"{name}.crossattention.output.dense", width, width)
        norm(f"{name}.crossattention.output.LayerNorm", width)
        linear(f"{name}.intermediate.dense", 2 * width, width)
        linear(f"{name}.output.dense", width, 2 * width)
        norm(f"{name}.output.LayerNorm", width)
    if kind == "Tag2Text":
        put("label_embed.weight", classes, width)
        put("fc.W", 1, classes, width)
        put("fc.b", 1, classes)
    else:
        put("label_embed", classes * (descriptions if kind == "RAM++" else 1), text_width)
        linear("wordvec_proj", width, text_width)
        linear("image_proj", text_width, vision_width)
        linear("fc", 1, width)
    if kind == "RAM++":
        tensors["reweight_scale"] = torch.tensor(1.5)
    else:
        put("tag_encoder.embeddings.word_embeddings.weight", 3, width)
        put("text_decoder.cls.predictions.bias", 3)
    return tensors


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """The file as upstream writes it, beside what its training left in it."""
    torch.save({"model": tensors, "epoch": 4}, path)
    return path
