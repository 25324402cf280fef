"""From noise to latents, by one of diffusers' schedulers, with guidance by a sentence that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.layout_models.rat_dit.diffusion import BETAS

#: ddpm: ancestral, with the variance that was learnt; ddim and dpm need fewer steps and use the noise alone.
SOLVERS = ("ddpm", "ddim", "dpm")

#: Channels of the noise that the released code guides.
_COMPAT_CHANNELS = 3


def scheduler(solver: str, num_inference_steps: int) -> Any:
    """A scheduler of diffusers with its timesteps set.

    Raises:
        ValueError: there is no such solver, or the number of steps is not in [2, 1000].

    Source: Ho et al. 2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502; Lu et al. 2022, arXiv 2211.01095;
    "trailing", which begins where there is nothing but noise: Lin et al. 2024, arXiv 2305.08891.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    ancestral = {"variance_type": "learned_range", "clip_sample": False, "timestep_spacing": "linspace"}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddpm": (DDPMScheduler, ancestral),
        "ddim": (DDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}),
        "dpm": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    }
    if solver not in kinds:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    most = BETAS["num_train_timesteps"]
    if not 2 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps must be in [2, {most}], got {num_inference_steps}")
    kind, settings = kinds[solver]
    made = kind(**BETAS, **settings)
    made.set_timesteps(num_inference_steps)
    return made


def guided(
    network: Any,
    latents: Float[Tensor, "b c h w"],
    timestep: Tensor,
    states: Float[Tensor, "g b d"],
    null_states: Float[Tensor, "g 1 d"],
    scale: float,
    compat: bool = False,
) -> Float[Tensor, "b k h w"]:
    """What the network predicts with its texts, moved away from what it predicts with the text that says nothing.

    Args:
        network: a ``RatTransformer``.
        latents: with noise.
        timestep: of them all.
        states: of the texts.
        null_states: of the text that says nothing.
        scale: of the guidance; at 1 the other text is not looked at.
        compat: guide the first three channels only, as the released code does.

    Returns:
        The guided noise, and the variance with the texts.
    """
    time = timestep.reshape(1).to(latents.device)
    if scale == 1:
        return network(latents, time, states).float()
    both = torch.cat([states, null_states.expand(-1, len(latents), -1)], 1)
    said, null = network(torch.cat([latents, latents]), time, both).float().chunk(2)
    channels = _COMPAT_CHANNELS if compat else latents.shape[1]
    noise = null[:, :channels] + scale * (said[:, :channels] - null[:, :channels])
    return torch.cat([noise, said[:, channels:]], 1)


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Float[Tensor, "b c h w"],
    steps: Any,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "b c h w"]:
    """Latents without noise.

    Args:
        predict: noise and variance of latents at a timestep.
        latents: nothing but noise.
        steps: made by ``scheduler``.
        generators: one per image, for what is drawn on the way.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    ancestral = isinstance(steps, DDPMScheduler)
    options = {"generator": list(generators)} if ancestral else {}
    for timestep in steps.timesteps:
        output = predict(latents, timestep)
        if not ancestral:
            output = output[:, : latents.shape[1]]
        latents = steps.step(output, timestep, latents, **options)[0]
    return latents
