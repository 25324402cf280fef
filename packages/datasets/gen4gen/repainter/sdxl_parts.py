"""An SDXL inpainting pipeline of diffusers, put together from checked parts."""

from __future__ import annotations

import importlib
import json
from typing import Any

from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.networks import precision

_INDEX, _SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
_SETTINGS = ("requires_aesthetics_score", "force_zeros_for_empty_prompt")

#: Classes and, of networks, the file with their weights.
_PARTS = {
    "unet": ("diffusers.UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("diffusers.AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("transformers.CLIPTextModel", "model"),
    "text_encoder_2": ("transformers.CLIPTextModelWithProjection", "model"),
    "tokenizer": ("transformers.CLIPTokenizer", ""),
    "tokenizer_2": ("transformers.CLIPTokenizer", ""),
}

#: What a refiner has of its own; it shares the rest with the base.
REFINER = ("unet", "tokenizer_2")


def sdxl_checkpoint(
    name: str, revision: str, variant: str | None, parts: tuple[str, ...] = tuple(_PARTS)
) -> Checkpoint:
    """A folder or repository with these parts of an SDXL.

    Args:
        variant: of its networks' files, such as "fp16"; None for those without such a name.
    """
    middle = f".{variant}" if variant else ""
    files = [_INDEX, _SCHEDULER]
    for part in parts:
        weights = _PARTS[part][1]
        texts = ("tokenizer_config.json", "vocab.json", "merges.txt")
        own = ("config.json", f"{weights}{middle}.safetensors") if weights else texts
        files += [f"{part}/{file}" for file in own]
    return Checkpoint(name, revision, tuple(files))


def load_pipeline(checkpoint: Checkpoint, variant: str | None, dtype: str, **given: Any) -> Any:
    """The pipeline on the CPU, without a watermark and progress bars.

    Args:
        dtype: of the networks.
        given: parts that are there already, None for those that are not needed.

    Raises:
        CheckpointError: it is not there, or another kind's.
    """
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
        StableDiffusionXLInpaintPipeline,
    )

    index = json.loads(checkpoint.path(_INDEX).read_text())
    parts = given | {name: _load(checkpoint, name, variant, dtype) for name in _PARTS if name not in given}
    pipeline = StableDiffusionXLInpaintPipeline(
        **parts,
        scheduler=_load_scheduler(checkpoint),
        add_watermarker=False,
        **{name: index[name] for name in _SETTINGS if name in index},
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # one image at a time: its activations are the largest there are
    return pipeline


def _load(checkpoint: Checkpoint, name: str, variant: str | None, dtype: str) -> Any:
    path, weights = _PARTS[name]
    library, kind = path.split(".")
    options: dict[str, Any] = {"dtype": precision(dtype)} if weights else {}
    options |= {"variant": variant} if weights and variant else {}
    part = checkpoint.load(getattr(importlib.import_module(library), kind), subfolder=name, **options)
    return part.eval() if weights else part


def _load_scheduler(checkpoint: Checkpoint) -> Any:
    import diffusers

    settings = json.loads(checkpoint.path(_SCHEDULER).read_text())
    kind = getattr(diffusers, settings.get("_class_name", ""), None)
    if kind is None:
        raise CheckpointError(f"{checkpoint.name} names no scheduler of diffusers, but {settings.get('_class_name')!r}")
    return kind.from_config(settings)
