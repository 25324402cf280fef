"""GroundingDINO as its authors' package has it; runs where ``groundingdino-py`` is installed."""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
from typing import Any, Sequence  # noqa: UP035 for Python 3.8

import groundingdino
import groundingdino.datasets.transforms as transforms
import numpy as np
import torch
from groundingdino.models import build_model
from groundingdino.util import get_tokenlizer
from groundingdino.util.misc import clean_state_dict, nested_tensor_from_tensor_list
from groundingdino.util.slconfig import SLConfig
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, BertConfig, BertModel


def load(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The network with all its weights.

    Args:
        settings: ``checkpoint``, a file; ``text_encoder``, a folder with BERT's config and vocabulary (its weights are
            in the checkpoint); ``config``, the name of one of the package's configurations; ``changes`` to it; ``side``
            and ``max_side`` of what the network sees, in pixels; ``box_threshold``.

    Raises:
        ValueError: the checkpoint does not have all weights of this configuration.
    """
    folder = os.path.join(os.path.dirname(str(groundingdino.__file__)), "config")
    config = SLConfig.fromfile(os.path.join(folder, settings["config"] + ".py"))
    for name, value in {"use_checkpoint": False, "use_transformer_ckpt": False, **settings["changes"]}.items():
        setattr(config, name, value)
    config.text_encoder_type = settings["text_encoder"]
    # without fetching weights that the checkpoint replaces
    get_tokenlizer.get_pretrained_language_model = lambda path: BertModel(BertConfig.from_pretrained(path))
    network = build_model(config)
    tensors = torch.load(settings["checkpoint"], map_location="cpu", weights_only=True)
    missing = network.load_state_dict(clean_state_dict(tensors.get("model", tensors)), strict=False).missing_keys
    # a buffer that some versions of transformers keep in checkpoints and others do not
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing:
        raise ValueError(f"{settings['checkpoint']} lacks {len(missing)} weights of {settings['config']}: {missing[0]}")
    network.tokenizer = _encoded  # captions come as tokens
    return network.eval(), settings


def detect(
    loaded: tuple[Any, dict[str, Any]], images: Sequence[np.ndarray], captions: Sequence[Sequence[int]], device: str
) -> list[dict[str, Any]]:
    """The queries that score above the threshold: boxes as fractions of the image, and a probability for each token.

    Args:
        images: of one size, so that none is padded.
        captions: one per image, in tokens.
    """
    network, settings = loaded
    network.to(device)
    pictures = [_picture(image, settings["side"], settings["max_side"]) for image in images]
    with torch.inference_mode():
        outputs = network(nested_tensor_from_tensor_list(pictures).to(device), captions=captions)
    found = []
    for logits, boxes in zip(outputs["pred_logits"].float(), outputs["pred_boxes"].float()):  # noqa: B905
        probabilities = logits.sigmoid()
        kept = probabilities.max(1).values > settings["box_threshold"]
        x, y, w, h = boxes[kept].unbind(1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
        found.append({"boxes": corners, "probabilities": probabilities[kept]})
    return found


def _picture(image: np.ndarray, side: int, max_side: int) -> torch.Tensor:
    """Resized and normalised as the package does it."""
    picture, _ = transforms.resize(Image.fromarray(image.transpose(1, 2, 0)), None, side, max_side)
    picture, _ = transforms.ToTensor()(picture, None)
    return transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(picture, None)[0]


def _encoded(captions: Sequence[Sequence[int]], **_: Any) -> BatchEncoding:
    """What a tokenizer would make of captions, padded with BERT's 0."""
    rows = [torch.tensor(x) for x in captions]
    present = [torch.ones_like(row) for row in rows]
    tokens, mask = pad_sequence(rows, batch_first=True), pad_sequence(present, batch_first=True)
    return BatchEncoding({"input_ids": tokens, "token_type_ids": torch.zeros_like(tokens), "attention_mask": mask})
