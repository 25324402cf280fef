"""RAT-Diffusion: text to image with a diffusion transformer; there is no layout in it.

Paper: Ye and Liu 2024, arXiv 2410.01638.
Weights: the authors' (senmaoy/RAT-Diffusion), for academic research only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenewright.checkpoints import check
from scenewright.layout import Batch, Images, Layout
from scenewright.layout_models.feature_cache import Entry, FeatureCache, key
from scenewright.layout_models.objective import draw
from scenewright.layout_models.rat_dit.diffusion import Schedule, add_noise, learned_range_losses
from scenewright.layout_models.rat_dit.latents import Autoencoder, Codec
from scenewright.layout_models.rat_dit.network import SIZES, RatTransformer
from scenewright.layout_models.rat_dit.published import load_published
from scenewright.layout_models.rat_dit.sampler import denoise, guided, scheduler
from scenewright.layout_models.rat_dit.text_features import CLIPText, TextEncoder
from scenewright.layout_models.stable_diffusion import check_counts


class RatDiffusion(nn.Module):
    """A ``RatTransformer`` with what it needs to learn and to draw; the network alone has weights that learn.

    Args:
        network: that denoises.
        codec: makes latents of images, and images of them.
        text_encoder: makes features of texts.
        side: of the images, in pixels, unless told otherwise.
        null_text: says nothing but what all images are; guidance leads away from it.
        caption_drop: share of the images that say ``null_text`` in training.
        num_inference_steps: of the sampler.
        guidance_scale: how far away; 1 is no guidance.
        solver: of the sampler, see ``sampler.SOLVERS``.
        compat: guide the first three channels only, as the released code does.
        cache: keeps text features; None computes them each time.
        noise_weight: the most that noisy timesteps count in the loss, see ``Schedule.weights``; 1: as published.
    """

    #: Settings that a run may change its mind about: no weight depends on them.
    changeable = ("num_inference_steps", "guidance_scale", "solver", "gradient_checkpointing", "compat")

    def __init__(
        self,
        network: RatTransformer,
        codec: Codec,
        text_encoder: TextEncoder,
        *,
        side: int,
        null_text: str,
        caption_drop: float,
        num_inference_steps: int,
        guidance_scale: float,
        solver: str,
        compat: bool,
        cache: FeatureCache | None = None,
        noise_weight: float = 1.0,
    ) -> None:
        scheduler(solver, num_inference_steps)
        if noise_weight < 1:
            raise ValueError(f"noise_weight must be at least 1, got {noise_weight}")
        super().__init__()
        self.network, self.codec, self.text_encoder, self.cache = network, codec, text_encoder, cache
        self.height = self.width = side
        self.null_text, self.caption_drop = null_text, caption_drop
        self.num_inference_steps, self.guidance_scale, self.solver = num_inference_steps, guidance_scale, solver
        self.compat, self.schedule = compat, Schedule.linear()
        self._weights = self.schedule.weights(noise_weight).float()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the network, as ``torch.compile``."""
        self.network.compile(*args, **options)

    def enable_gradient_checkpointing(self) -> None:
        """Compute the layers anew in the backward pass instead of remembering."""
        self.network.gradient_checkpointing = True

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """Error of the noise and variational bound, mean over the batch; layouts are ignored.

        A sample's own text feature takes the place of its caption's.

        Raises:
            ValueError: the size does not fit into patches, or a text feature has another width than the network reads.
        """
        shape = self._latent_shape(*batch.images.shape[2:])
        draws = draw(batch.seeds, shape, len(self.schedule), layout_drop=0.0, caption_drop=self.caption_drop)
        latents = self.codec.encode(batch.images.to(self._device), draws.posterior)
        noise = draws.noise.to(self._device)
        noisy = add_noise(latents, noise, draws.timesteps, self.schedule)
        captions = [self.null_text if x else y for x, y in zip(draws.caption_dropped, batch.captions, strict=True)]
        given = [None if x else y for x, y in zip(draws.caption_dropped, batch.text_features, strict=True)]
        states = self.network.states(self._read(captions, given))
        output = self.network(noisy, draws.timesteps.to(self._device), states).float()
        losses = learned_range_losses(output, latents, noise, noisy, draws.timesteps, self.schedule).total
        return (losses * self._weights[draws.timesteps].to(self._device)).mean()

    @torch.no_grad()
    def sample(
        self,
        captions: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
        *,
        height: int,
        width: int,
        text_features: Sequence[Tensor | None] = (),
    ) -> Images:
        """One image per caption, each from its own seed; layouts are ignored.

        Args:
            captions: of the images.
            layouts: as many; nothing is read of them.
            seeds: one per image.
            height: of the images, in pixels.
            width: of the images, in pixels.
            text_features: where given, they take the place of captions.

        Raises:
            ValueError: the size does not fit into patches, or there are not as many captions, layouts and seeds.
        """
        check_counts(captions, layouts, seeds)
        shape = self._latent_shape(height, width)
        if not seeds:
            return torch.zeros(0, 3, height, width, dtype=torch.uint8)
        features = self._read([*captions, self.null_text], [*(text_features or [None] * len(captions)), None])
        states, null_states = self.network.states(features).split([len(captions), 1], 1)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=x) for x in generators]).to(self._device)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            scale = self.guidance_scale
            return guided(self.network, latents, timestep, states, null_states, scale, self.compat)

        steps = scheduler(self.solver, self.num_inference_steps)
        return self.codec.decode(denoise(predict, noise, steps, generators))

    @property
    def _device(self) -> torch.device:
        return self.network.pos_embed.device

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Raises: ValueError, the size does not fit into patches."""
        multiple = self.codec.cell * self.network.patch
        if height % multiple or width % multiple:
            raise ValueError(f"height and width of images must be multiples of {multiple}, got {height} and {width}")
        return self.codec.channels, height // self.codec.cell, width // self.codec.cell

    def _read(self, captions: Sequence[str], given: Sequence[Tensor | None]) -> Float[Tensor, "b c"]:
        """The feature of each text, or the one that is given; each text is encoded once."""
        texts = list(dict.fromkeys(text for text, x in zip(captions, given, strict=True) if x is None))
        encoded = self._encode(texts)
        where = {text: i for i, text in enumerate(texts)}
        rows = [encoded[where[text]] if x is None else x for text, x in zip(captions, given, strict=True)]
        for row in rows:
            if row.shape != (self.network.text_width,):
                raise ValueError(
                    f"a text feature must have {self.network.text_width} values, as the network reads, got "
                    f"{tuple(row.shape)}; was it made by another text encoder?"
                )
        return torch.stack([row.to(self._device, torch.float32) for row in rows])

    def _encode(self, texts: list[str]) -> Sequence[Tensor]:
        def make(places: list[int]) -> list[Entry]:
            found = self.text_encoder.encode([texts[i] for i in places], self._device)
            return [{"feature": x} for x in found]

        if self.cache is None or not texts:
            return [x["feature"] for x in make(list(range(len(texts))))]
        names = [key("text feature", self.text_encoder.fingerprint(), text) for text in texts]
        return [x["feature"] for x in self.cache.fetch(names, make)]


class RatDiT(RatDiffusion):
    """Draws what a caption says, in the latents of Stable Diffusion's autoencoder.

    Args:
        size: of the network: S, B, L or XL.
        patch: latents per side of a token: 2, 4 or 8.
        variant: ``shift``, as the released code and weights have it, or ``affine``, as the paper has it.
        zero_gates: new layers begin as the identity; False: as in the released code.
        image_size: in pixels: 256 or 512 as published.
        weights: a file of the authors' form, or a training run, whose average is taken; None for new ones.
        text_encoder: makes features of 512 values of texts; CLIP's ViT-B/32 if not given.
        vae: the autoencoder, a folder or hub id in diffusers' layout.
        vae_revision: of that.
        latent_scale: that latents are multiplied by: 1 over their deviation on the authors' images.
        null_text: what guidance leads away from; "a picture of bird" where all images are of birds.
        caption_drop: share of the images that say ``null_text`` in training; none as published.
        gradient_checkpointing: compute anew in the backward pass instead of remembering.
        cache: a folder for text features.
        cache_latents: what the autoencoder says of images too; worth it where they come framed the same way each time.
        num_inference_steps: of the sampler: 250 for ddpm, 25 to 50 for the others.
        guidance_scale: 1 is none.
        solver: ``ddpm``, ``ddim`` or ``dpm``.
        compat: guide the first three of the four channels only, as the released code does.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is built.
        CheckpointError: the weights are of another network.
        ValueError: a setting is none of those that there are.

    Source: Ye and Liu 2024, arXiv 2410.01638.
    """

    changeable = (*RatDiffusion.changeable, "cache", "cache_latents")

    def __init__(
        self,
        size: str = "L",
        patch: int = 2,
        variant: str = "shift",
        zero_gates: bool = True,
        image_size: int = 256,
        weights: str | None = None,
        text_encoder: TextEncoder | None = None,
        vae: str = "stabilityai/sd-vae-ft-ema",
        vae_revision: str = "main",
        latent_scale: float = 0.23126199671607967,
        null_text: str = "a picture",
        caption_drop: float = 0.0,
        gradient_checkpointing: bool = False,
        cache: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 250,
        guidance_scale: float = 1.5,
        solver: str = "ddpm",
        compat: bool = False,
    ) -> None:
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        folder = None if cache is None else FeatureCache(cache)
        codec = Autoencoder(vae, vae_revision, latent_scale, folder if cache_latents else None)
        text_encoder = CLIPText() if text_encoder is None else text_encoder
        check({"layout_model.vae": codec, "layout_model.text_encoder": text_encoder})
        if image_size % (codec.cell * patch):
            raise ValueError(f"image_size must be a multiple of {codec.cell * patch}, got {image_size}")
        network = RatTransformer(
            SIZES[size],
            patch,
            codec.channels,
            image_size // codec.cell,
            variant=variant,
            zero_gates=zero_gates,
        )
        super().__init__(
            network,
            codec,
            text_encoder,
            side=image_size,
            null_text=null_text,
            caption_drop=caption_drop,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            solver=solver,
            compat=compat,
            cache=folder,
        )
        self.untrained = weights is None
        if weights is not None:
            load_published(network, weights)
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
