"""What a diffusion model is asked for: noise, timestep and dropping drawn per image, the target, its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """What was drawn for the images of a batch, each from its own seed; on the CPU, in float32.

    Attributes:
        noise: ``(b, c, h, w)``, standard normal, with the offset if there is one.
        posterior: ``(b, c, h, w)``, standard normal, for an autoencoder that samples.
        timesteps: ``(b,)``, uniform.
        layout_dropped: ``(b,)``, whose layout is taken away.
        caption_dropped: ``(b,)``, whose caption is.
        label_only: ``(b,)``, uniform in [0, 1), for models that sometimes read labels in place of captions.
    """

    noise: Float[Tensor, "b c h w"]
    posterior: Float[Tensor, "b c h w"]
    timesteps: Int[Tensor, " b"]
    layout_dropped: list[bool]
    caption_dropped: list[bool]
    label_only: list[float]


def draw(
    seeds: Sequence[int],
    shape: Sequence[int],
    num_timesteps: int,
    *,
    layout_drop: float = 0.1,
    caption_drop: float = 0.1,
    noise_offset: float = 0.0,
) -> Draws:
    """Draw for each image from its own seed, so that neither batch size nor device change what it gets.

    Args:
        seeds: one per image.
        shape: channels, height and width of a latent.
        num_timesteps: timesteps are in [0, num_timesteps).
        layout_drop: share of the layouts that are taken away.
        caption_drop: share of the captions that are taken away; independent of the layouts.
        noise_offset: standard deviation of a constant that is added to each channel of the noise.

    Source: noise offset: N. Guttenberg 2023, "Diffusion with Offset Noise".
    """
    noise, posterior, timesteps, chances = [], [], [], []
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        chances.append(torch.rand(3, generator=random).tolist())
        timesteps.append(torch.randint(num_timesteps, (), generator=random))
        noise.append(torch.randn(tuple(shape), generator=random))
        if noise_offset:
            noise[-1] += noise_offset * torch.randn(shape[0], 1, 1, generator=random)
        posterior.append(torch.randn(tuple(shape), generator=random))
    return Draws(
        noise=torch.stack(noise),
        posterior=torch.stack(posterior),
        timesteps=torch.stack(timesteps),
        layout_dropped=[x[0] < layout_drop for x in chances],
        caption_dropped=[x[1] < caption_drop for x in chances],
        label_only=[x[2] for x in chances],
    )


def target(
    scheduler: Any, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timesteps: Int[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """What a scheduler of diffusers asks its model for: the noise, the velocity or the sample.

    Raises:
        ValueError: it asks for something else.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {kind!r}")


def diffusion_loss(
    prediction: Float[Tensor, "b c h w"],
    wanted: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    scheduler: Any,
    snr_gamma: float | None = None,
    snr_floor: float = 0.0,
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error, each image weighted by its timestep's signal-to-noise ratio if ``snr_gamma`` is given.

    Args:
        prediction: of the network.
        wanted: what it should have been.
        timesteps: of the images.
        scheduler: says what is predicted.
        snr_gamma: the highest weight, in units of the sample's error.
        snr_floor: the lowest; 1 also lets the network learn at timesteps where hardly anything is seen.
        weights: of the images, besides; None: all count the same.

    Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting", arXiv 2303.09556, section 3.4; the
    floor, "truncated SNR": Salimans and Ho 2022, arXiv 2202.00512, section 4.
    """
    errors = (prediction.float() - wanted.float()).square().flatten(1).mean(1)  # (b,)
    if snr_gamma is not None:
        from diffusers.training_utils import compute_snr

        snr = compute_snr(scheduler, timesteps).to(errors)
        weight = snr.clamp(snr_floor, snr_gamma)
        # in units of the sample's error, whatever is predicted
        kinds = {"epsilon": weight / snr, "v_prediction": weight / (snr + 1), "sample": weight}
        errors = errors * kinds[scheduler.config.prediction_type]
    return errors.mean() if weights is None else (errors * weights.to(errors)).mean()
