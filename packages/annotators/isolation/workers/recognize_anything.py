"""RAM and RAM++ as their authors' package has them; runs where ``recognize-anything`` is installed."""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Sequence  # noqa: UP035 for Python 3.8

import numpy as np
import ram.models
import ram.models.utils
import torch
from PIL import Image
from ram.transform import get_transform
from transformers import BertTokenizer

#: What an image goes through; everything else in a checkpoint is for training and captions.
PARTS = ("visual_encoder.", "image_proj.", "tagging_head.", "wordvec_proj.", "fc.", "label_embed")


def load(settings: dict[str, Any]) -> tuple[Any, int]:
    """The network with all weights that tagging needs, and its image size.

    Args:
        settings: ``checkpoint``, a file; ``model``: "ram" or "ram_plus"; ``text_encoder``, a folder with BERT's
            vocabulary; ``image_size`` and ``backbone`` as the package has them.

    Raises:
        ValueError: the checkpoint does not have all these weights.
    """
    # the package asks for both by name of a hub, and reads checkpoints as any pickle
    vocabulary = functools.partial(BertTokenizer.from_pretrained, settings["text_encoder"])
    ram.models.utils.BertTokenizer = SimpleNamespace(from_pretrained=lambda _: vocabulary())
    torch.load = functools.partial(torch.load, weights_only=True)
    path = settings["checkpoint"]
    given = {name.replace("vision_multi", "tagging_head") for name in torch.load(path, map_location="cpu")["model"]}
    build = getattr(ram.models, settings["model"])
    network = build(pretrained=path, image_size=settings["image_size"], vit=settings["backbone"])
    wanted = [name for name, _ in network.named_parameters() if name.startswith(PARTS)]
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(wanted)} weights of {settings['model']}: {missing[0]}")
    return network.eval(), settings["image_size"]


def tag(loaded: tuple[Any, int], images: Sequence[np.ndarray], device: str) -> list[list[str]]:
    """English tags in the order of the package's list."""
    network, side = loaded
    network.to(device)
    transform = get_transform(image_size=side)
    # squashed by Pillow's own filter first, as the reference pipelines do; then the transform has nothing to resize
    pictures = [transform(Image.fromarray(x.transpose(1, 2, 0)).resize((side, side))) for x in images]
    with torch.inference_mode():
        english, _ = network.generate_tag(torch.stack(pictures).to(device))
    return [[name for name in text.split(" | ") if name] for text in english]
