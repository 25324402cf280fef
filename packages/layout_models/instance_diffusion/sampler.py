"""Drawing with PLMS, and with the multi-instance sampler: each instance alone at first, then all together.

An image has one input for its whole layout and may have one for each of its instances. In the first steps every input
is denoised for itself, from the same noise. Then the latents of an image are averaged, and its whole layout goes on
with the history that it has.

For S steps, M of which are made apart, n instances cost ``(n + 1) (M + 1) + (S - M)`` evaluations: the first step of
PLMS takes two. Without instances it is ``S + 1``.

Source: Wang et al. 2024, arXiv 2402.03290, section 3.4 (multi-instance sampler); PLMS is that of Liu et al. 2022,
arXiv 2202.09778.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Predict(Protocol):
    """What a model makes of noisy latents, guidance included."""

    def __call__(
        self, latents: Float[Tensor, "k c h w"], timestep: int, inputs: Int[Tensor, " k"], gate: float
    ) -> Float[Tensor, "k c h w"]:
        """The noise in the latents of these inputs.

        Args:
            latents: one for each of ``inputs``.
            timestep: of the noise, 0 to 999.
            inputs: their numbers: 0 to b - 1 are the whole layouts, those of single instances follow.
            gate: what the gates of grounding are multiplied by.
        """
        ...


def gate(alpha: Sequence[float] = (0.8, 0.0, 0.2), steps: int = 50) -> list[float]:
    """The scale of grounding at each step: 1, then decaying in a line, then 0.

    Args:
        alpha: the shares of the steps of these three parts, which sum to 1.
        steps: of the sampler.

    Raises:
        ValueError: they are not three shares of a whole.

    Source: arXiv 2301.07093, section 3.3 (scheduled sampling).
    """
    if len(alpha) != 3 or min(alpha) < 0 or abs(sum(alpha) - 1) > 1e-6:
        raise ValueError(f"alpha must be three shares of 1, got {tuple(alpha)}")
    full, decaying = int(alpha[0] * steps), int(alpha[1] * steps)
    decay = [1 - (i + 1) / decaying for i in range(decaying)]
    return [1.0] * full + decay + [0.0] * (steps - full - decaying)


def plms_scheduler(steps: int) -> Any:
    """PLMS over the noise of Stable Diffusion 1, as diffusers has it."""
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def sample(
    predict: Predict,
    noise: Float[Tensor, "b c h w"],
    instances_of: Sequence[int] = (),
    *,
    steps: int = 50,
    mis: float = 0.36,
    alpha: Sequence[float] = (0.8, 0.0, 0.2),
    max_batch: int | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents without noise.

    Args:
        predict: the model.
        noise: of each image; the inputs of its instances begin with the same.
        instances_of: the image of each input of a single instance, in the order of their numbers.
        steps: of the sampler.
        mis: the share of steps that inputs make apart; 0 leaves single instances out.
        alpha: of ``gate``.
        max_batch: how many inputs are evaluated at once; None for all.

    Raises:
        ValueError: ``mis`` is no share, ``max_batch`` is not positive, or an instance is of no image.
    """
    if not 0 <= mis <= 1:
        raise ValueError(f"mis is a share of the steps, from 0 to 1, got {mis}")
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch must be at least 1, got {max_batch}")
    if any(not 0 <= image < len(noise) for image in instances_of):
        raise ValueError(f"instances are of images 0 to {len(noise) - 1}, got {sorted(set(instances_of))}")
    apart = int(steps * mis)
    images = torch.tensor([*range(len(noise)), *(instances_of if apart else ())], device=noise.device)
    scales, scheduler = gate(alpha, steps), plms_scheduler(steps)
    latents = noise[images]
    # the first step takes two evaluations, at the first two of these times
    for call, timestep in enumerate(scheduler.timesteps.tolist()):
        if call == apart + 1 and len(latents) > len(noise):
            latents = _together(latents, images, len(noise), scheduler)
        found = _predicted(predict, latents, timestep, scales[max(call - 1, 0)], max_batch)
        latents = scheduler.step(found, timestep, latents).prev_sample
    return latents if len(latents) == len(noise) else _together(latents, images, len(noise), scheduler)


def _predicted(
    predict: Predict, latents: Float[Tensor, "k c h w"], timestep: int, scale: float, max_batch: int | None
) -> Float[Tensor, "k c h w"]:
    inputs = torch.arange(len(latents), device=latents.device)
    size = max_batch or len(latents)
    parts = zip(latents.split(size), inputs.split(size), strict=True)
    return torch.cat([predict(part, timestep, chosen, scale) for part, chosen in parts])


def _together(
    latents: Float[Tensor, "k c h w"], images: Int[Tensor, " k"], count: int, scheduler: Any
) -> Float[Tensor, "b c h w"]:
    """The mean of each image's latents; the scheduler goes on with the history of its whole layout."""
    scheduler.ets = [x[:count] for x in scheduler.ets]
    total = latents.new_zeros(count, *latents.shape[1:]).index_add(0, images, latents)
    return total / images.bincount(minlength=count)[:, None, None, None]
