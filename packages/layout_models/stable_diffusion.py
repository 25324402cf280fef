"""What models on a frozen Stable Diffusion have in common: its parts, latents, text features, precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenewright.layout import Images, Layout
from scenewright.layout_models.feature_cache import Entry, FeatureCache, key, weights_digest
from scenewright.layout_models.rich_context.text import TextFeatures


class StableDiffusionModel(nn.Module):
    """A frozen Stable Diffusion, of which a part of the UNet learns.

    Args:
        parts: of a pipeline, by diffusers' names.
        cache: a folder in which text features and latents are kept; None for none.
        cache_latents: latents too; worth it where images come framed the same way each time.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any

    def __init__(self, parts: Mapping[str, Any], *, cache: str | None, cache_latents: bool) -> None:
        super().__init__()
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if parts["vae"].config.force_upcast:  # its activations overflow in half precision
            parts["vae"].float()
        self.unet, self.vae = parts["unet"], parts["vae"]
        self.text_encoder, self.text_encoder_2 = parts["text_encoder"], parts.get("text_encoder_2")
        self.noising: Any = DDPMScheduler.from_config(parts["scheduler"].config)
        self.cell = 2 ** (len(self.vae.config.block_out_channels) - 1)
        usual = self.unet.config.sample_size
        sides = (usual, usual) if isinstance(usual, int) else usual
        self.height, self.width = (side * self.cell for side in sides)  # that it draws unless told otherwise
        self.cache = None if cache is None else FeatureCache(cache)
        self.text = TextFeatures.of(SimpleNamespace(**parts), self.cache)
        self._vae_weights = weights_digest(self.vae) if self.cache is not None and cache_latents else None

    def train(self, mode: bool = True) -> StableDiffusionModel:
        """The frozen parts stay in evaluation mode."""
        super().train(mode)
        for network in (self.vae, self.text_encoder, self.text_encoder_2):
            if network is not None:
                network.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Compute the UNet's blocks anew in the backward pass instead of remembering."""
        self.unet.enable_gradient_checkpointing()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the UNet's blocks, as ``torch.compile``; layouts are prepared outside, and differ in every batch."""
        self.unet.compile_repeated_blocks(*args, **options)

    @torch.no_grad()
    def encode(self, images: Images, posterior: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Latents of images, in float32, drawn with this noise from what the autoencoder says of them.

        One by one: its activations are the largest there are, and no image's depend on another's.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        def make(places: list[int]) -> list[Entry]:
            with torch.autocast(self.vae.device.type, enabled=False):
                pixels = [images[i : i + 1].to(self.vae.device, self.vae.dtype) / 127.5 - 1 for i in places]
                return [{"moments": self.vae.encode(x).latent_dist.parameters[0]} for x in pixels]

        if self._vae_weights is None:
            found = make(list(range(len(images))))
        else:
            assert self.cache is not None
            names = [key("latent", self._vae_weights, str(self.vae.dtype), image) for image in images]
            found = self.cache.fetch(names, make)
        moments = torch.stack([x["moments"] for x in found]).to(self.vae.device, torch.float32)
        known = DiagonalGaussianDistribution(moments)
        return (known.mean + known.std * posterior.to(moments.device)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c _h _w"]) -> Images:
        """Images of latents."""
        with torch.autocast(self.vae.device.type, enabled=False):
            pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _learn(self, freeze_base: Callable[[Any], None]) -> None:
        """Let the adapter that ``freeze_base`` leaves learn, and LoRA, in float32; nothing else."""
        from diffusers.training_utils import cast_training_params

        self.requires_grad_(False)
        freeze_base(self.unet)
        for name, parameter in self.unet.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(True)
        cast_training_params(self.unet, dtype=torch.float32)
        self.train(self.training)

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Raises: ValueError, the sides are not multiples of 8."""
        if height % 8 or width % 8:
            raise ValueError(f"height and width of images must be multiples of 8, got {height} and {width}")
        return self.unet.config.in_channels, height // self.cell, width // self.cell

    def _autocast(self) -> AbstractContextManager[Any]:
        """Half precision where the base has it; else whatever is set from outside."""
        if self.unet.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.unet.device.type, dtype=self.unet.dtype)


def check_counts(captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int]) -> None:
    """Raises: ValueError, there are not as many captions, layouts and seeds."""
    if not len(captions) == len(layouts) == len(seeds):
        raise ValueError(
            f"captions, layouts and seeds must be as many, got {len(captions)}, {len(layouts)} and {len(seeds)}"
        )
