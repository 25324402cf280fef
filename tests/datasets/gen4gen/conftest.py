"""Canvases with things on them, photos, and SDXLs of a few thousand random weights."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scenewright.datasets.gen4gen.records import Composition, Cutout, LayoutPlan, RepaintJob


@pytest.fixture
def job() -> Callable[..., RepaintJob]:
    """``job(seed=0, background=True, height=64, width=64)``: a red and a green disc of soft edges before a photo."""
    from scenewright.datasets.gen4gen.paster import Paster

    def made(seed: int = 0, background: bool = True, height: int = 64, width: int = 64, **rest: Any) -> RepaintJob:
        y, x = np.mgrid[-1:1:60j, -1:1:60j]
        alpha = torch.from_numpy(np.clip((1 - np.hypot(x, y)) * 10, 0, 1).astype(np.float32))
        random = np.random.default_rng(seed)
        cutouts = []
        for colour in ((200, 40, 40), (40, 180, 60)):
            image = np.array(colour)[:, None, None] + random.integers(-20, 20, (3, 60, 60))
            cutouts.append(Cutout(torch.from_numpy(image.astype(np.uint8)), alpha, "cat"))
        plan = LayoutPlan(torch.tensor([[0.02, 0.1, 0.55, 0.8], [0.45, 0.4, 0.98, 0.95]]))
        composition: Composition = Paster().compose(plan, cutouts, height, width, seed)
        return RepaintJob(composition, photo(seed) if background else None, f"a cat dog {seed}", seed, **rest)

    return made


def photo(seed: int = 0, height: int = 50, width: int = 90) -> torch.Tensor:
    """Smooth, bright at the top."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases = np.random.default_rng(seed).random(3)
    planes = [180 - 120 * y + 40 * np.sin(6 * (x + p)) for p in phases]
    return torch.from_numpy(np.stack(planes).astype(np.uint8))


@pytest.fixture(scope="session")
def tiny_inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an SDXL that takes a mask and what it hides, as 5 of 9 channels."""
    folder = tmp_path_factory.mktemp("inpainting")
    _pipeline(in_channels=9, cross_attention_dim=32, projection=16 + 6 * 4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a refiner: one text encoder, 4 channels, and it wants to know how beautiful a picture is."""
    folder = tmp_path_factory.mktemp("refiner")
    _pipeline(in_channels=4, cross_attention_dim=16, projection=16 + 5 * 4, refines=True).save_pretrained(folder)
    return folder


def _pipeline(in_channels: int, cross_attention_dim: int, projection: int, refines: bool = False) -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(in_channels)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=in_channels,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1),
            attention_head_dim=(1, 2),
            cross_attention_dim=cross_attention_dim,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=projection,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            force_upcast=False,
        )
        second = _text_encoder("CLIPTextModelWithProjection")
        first = None if refines else _text_encoder("CLIPTextModel")
    return StableDiffusionXLInpaintPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=None if refines else _tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        requires_aesthetics_score=refines,
        add_watermarker=False,
    )


def _text_encoder(kind: str) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=66,
        bos_token_id=64,
        eos_token_id=65,
        pad_token_id=65,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=16,
    )
    return getattr(transformers, kind)(config)


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + "0123,-"
    words = [*letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token="<|endoftext|>")
