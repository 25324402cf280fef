"""Stable Diffusions of a few thousand random weights, saved as diffusers saves them."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewright.layout import Batch, Frame, Layout


def tokenizer(pad_token: str) -> Any:
    """CLIP's, with single letters and three words."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + ".;,!"
    marks = ["<|startoftext|>", "<|endoftext|>"]
    words = [*letters, *(x + "</w>" for x in letters), "re", "ca", "do", "red</w>", "cat</w>", "dog</w>", *marks]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad_token)


def text_encoder(kind: str, **settings: Any) -> Any:
    import transformers

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    ids = {"vocab_size": 68, "bos_token_id": 66, "eos_token_id": 67, "pad_token_id": 67}
    config = transformers.CLIPTextConfig(**small, **ids, max_position_embeddings=77, projection_dim=16, **settings)
    return getattr(transformers, kind)(config)


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        force_upcast=False,
    )


def unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        **settings,
    )


def sdxl(folder: Path, **scheduler: Any) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder("CLIPTextModel"),
        text_encoder_2=text_encoder("CLIPTextModelWithProjection", hidden_act="gelu"),
        tokenizer=tokenizer("<|endoftext|>"),
        tokenizer_2=tokenizer("!"),
        unet=unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(1, 2),
            cross_attention_dim=32,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=16 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", **scheduler
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def sd15(folder: Path, **scheduler: Any) -> Path:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(1)
    StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder("CLIPTextModel"),
        tokenizer=tokenizer("<|endoftext|>"),
        unet=unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            cross_attention_dim=16,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
            **scheduler,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an SDXL: two text encoders, sizes of the picture, regional layers at one of two levels."""
    return sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def tiny_sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Stable Diffusion 1.5."""
    return sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def make_sdxl() -> Callable[..., Path]:
    """``make_sdxl(folder, prediction_type="v_prediction")``: another one."""
    return sdxl


@pytest.fixture
def layouts() -> list[Layout]:
    """Two objects that overlap, one with a caption, none."""
    return [
        Layout(boxes=torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 0.9]]), labels=["red cat.", "dog"]),
        Layout(boxes=torch.tensor([[0.1, 0.0, 0.6, 0.95]]), labels=["cat"], captions=["a cat, red!"]),
        Layout.empty(),
    ]


@pytest.fixture
def batch(layouts: list[Layout]) -> Callable[..., Batch]:
    """``batch(1, 0)``: these of three images with their layouts, all if none are named."""

    def chosen(*numbers: int) -> Batch:
        numbers = numbers or (0, 1, 2)
        random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8, generator=random)
        captions, sizes = ["a red cat", "dog", "a"], [(32, 48), (640, 480), (100, 200)]
        return Batch(
            images=images[list(numbers)],
            captions=[captions[i] for i in numbers],
            layouts=[layouts[i] for i in numbers],
            frames=[Frame(sizes[i], (3 * i, 5 * i)) for i in numbers],
            seeds=[10 + i for i in numbers],
        )

    return chosen
