"""BLIP-2 with FLAN-T5 as LAVIS has it; runs where ``salesforce-lavis`` is installed."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035 for Python 3.8

import numpy as np
import torch
from lavis.models.blip2_models.blip2 import LayerNorm
from lavis.models.blip2_models.blip2_t5 import Blip2T5
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
from lavis.models.eva_vit import VisionTransformer, convert_weights_to_fp16, interpolate_pos_embed
from lavis.processors.blip_processors import BlipImageEvalProcessor
from PIL import Image

#: EVA-CLIP's ViT-g, as LAVIS builds it.
VISION = {"patch_size": 14, "embed_dim": 1408, "depth": 39, "num_heads": 16, "mlp_ratio": 4.3637, "qkv_bias": True}


def load(settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The network with all its weights, and what prepares images.

    Args:
        settings: ``checkpoint``, the file with the Q-Former; ``vision``, the file with the image encoder;
            ``language``, the folder with FLAN-T5; ``changes``, fields of "vision" and "qformer" that are not as
            published; ``image_size``; and those of ``generate``.

    Raises:
        ValueError: a file does not have all weights that it must have.
    """
    encoder = vision(settings)
    tensors = _read(settings["vision"])
    interpolate_pos_embed(encoder, tensors)
    _fill(encoder, tensors, settings["vision"])
    network = build(settings, encoder)
    # the image encoder and the language model are frozen, and not in LAVIS's own file
    _fill(network, _read(settings["checkpoint"]), settings["checkpoint"], apart=("visual_encoder.", "t5_model."))
    return network.eval(), BlipImageEvalProcessor(image_size=settings["image_size"]), settings


def vision(settings: dict[str, Any]) -> Any:
    """The image encoder, without weights."""
    return VisionTransformer(
        img_size=settings["image_size"],
        use_mean_pooling=False,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        **{**VISION, **settings["changes"].get("vision", {})},
    )


def build(settings: dict[str, Any], encoder: Any) -> Any:
    """The network around its image encoder; of the other parts, only the language model has its weights."""

    class BLIP2(Blip2T5):
        """Builds its parts without fetching weights that the checkpoint replaces."""

        @classmethod
        def init_tokenizer(cls) -> None:
            """The Q-Former reads no text here."""

        @classmethod
        def init_vision_encoder(cls, *_: Any) -> tuple[Any, Any]:
            return encoder, LayerNorm(encoder.num_features)

        @classmethod
        def init_Qformer(
            cls, num_query_token: int, vision_width: int, cross_attention_freq: int = 2
        ) -> tuple[Any, Any]:
            # without changes, BertConfig() is bert-base-uncased's
            config = BertConfig(**settings["changes"].get("qformer", {}))
            config.encoder_width, config.query_length = vision_width, num_query_token
            config.add_cross_attention, config.cross_attention_freq = True, cross_attention_freq
            queries = torch.nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
            return BertLMHeadModel(config), queries

    return BLIP2(img_size=settings["image_size"], t5_model=settings["language"])


def caption(
    loaded: tuple[Any, Any, dict[str, Any]], images: Sequence[np.ndarray], prompts: Sequence[str], device: str
) -> list[str]:
    """One text per image, each of which is a crop."""
    network, processor, settings = loaded
    if device == "cpu":  # LAVIS mixes precisions by autocast, which it has on a GPU only
        network.float()
    else:
        convert_weights_to_fp16(network.visual_encoder)
        network.t5_model.bfloat16()
    network.to(device)
    pictures = [processor(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    samples = {"image": torch.stack(pictures).to(device), "prompt": list(prompts)}
    with torch.inference_mode():
        texts = network.generate(
            samples,
            num_beams=settings["num_beams"],
            max_length=settings["max_new_tokens"],
            length_penalty=settings["length_penalty"],
        )
    return [text.strip() for text in texts]


def _read(path: str) -> dict[str, torch.Tensor]:
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return tensors.get("model", tensors)


def _fill(network: Any, tensors: dict[str, torch.Tensor], path: str, apart: tuple[str, ...] = ()) -> None:
    missing = network.load_state_dict(tensors, strict=False).missing_keys
    missing = [name for name in missing if not name.startswith(apart) and "position_ids" not in name]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} weights of {type(network).__name__}: {missing[0]}")
