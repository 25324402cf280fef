"""What the network draws: latents of an autoencoder, or pixels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.layout import Images
from scenewright.layout_models.feature_cache import Entry, FeatureCache, key, weights_digest


@runtime_checkable
class Codec(Protocol):
    """From images to what the network draws, and back; runs where its tensors are.

    Attributes:
        channels: of a latent.
        cell: pixels per side of a latent.
    """

    channels: int
    cell: int

    def encode(self, images: Images, posterior: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Latents; ``posterior`` is normal noise for those that draw them."""
        ...

    def decode(self, latents: Float[Tensor, "b c _h _w"]) -> Images: ...


class Pixels:
    """No autoencoder: pixels from -1 to 1."""

    channels, cell = 3, 1

    def encode(self, images: Images, posterior: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Nothing is drawn."""
        return images.float() / 127.5 - 1

    def decode(self, latents: Float[Tensor, "b c _h _w"]) -> Images:
        return _bytes(latents)


class Autoencoder:
    """Stable Diffusion's autoencoder, frozen, in float32; images one by one, as its activations are large.

    Args:
        checkpoint: a folder or hub id in diffusers' layout.
        revision: of that.
        scale: that latents are multiplied by, so that their deviation is about 1.
        cache: keeps what the autoencoder says of images; None computes it each time.
    """

    channels, cell = 4, 8

    def __init__(self, checkpoint: str, revision: str, scale: float, cache: FeatureCache | None = None) -> None:
        self.checkpoint, self.revision, self.scale, self.cache = checkpoint, revision, scale, cache

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Where its weights come from."""
        return [Checkpoint(self.checkpoint, self.revision, ("config.json", "diffusion_pytorch_model.safetensors"))]

    @torch.no_grad()
    def encode(self, images: Images, posterior: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Latents, drawn with this noise from what the autoencoder says of the images.

        Raises:
            CheckpointError: its weights are not there, or are of another kind of autoencoder.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        def make(places: list[int]) -> list[Entry]:
            network = self._network.to(images.device)
            with torch.autocast(images.device.type, enabled=False):
                pixels = [images[i : i + 1].float() / 127.5 - 1 for i in places]
                return [{"moments": network.encode(x).latent_dist.parameters[0]} for x in pixels]

        found = make(list(range(len(images)))) if self.cache is None else self._remembered(images, make, self.cache)
        known = DiagonalGaussianDistribution(torch.stack([x["moments"] for x in found]).to(images.device))
        return (known.mean + known.std * posterior.to(images.device)) * self.scale

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c _h _w"]) -> Images:
        """Raises: CheckpointError, its weights are not there, or are of another kind of autoencoder."""
        network = self._network.to(latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([_bytes(network.decode(x[None].float() / self.scale).sample) for x in latents])

    def _remembered(self, images: Images, make: Any, cache: FeatureCache) -> Sequence[Entry]:
        return cache.fetch([key("latent", self._digest, image) for image in images], make)

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self._network)

    @cached_property
    def _network(self) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        network = self.checkpoints[0].load(AutoencoderKL).float().eval().requires_grad_(False)
        kind = network.config.latent_channels, 2 ** (len(network.config.block_out_channels) - 1)
        if kind != (self.channels, self.cell):
            raise CheckpointError(
                f"{self.checkpoint} must have {self.channels} channels and {self.cell} pixels per latent, got {kind}"
            )
        return network


def _bytes(pixels: Float[Tensor, "b 3 h w"]) -> Images:
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
