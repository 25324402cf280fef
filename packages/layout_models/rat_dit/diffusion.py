"""What RAT-Diffusion learns: noise, and the variance of each denoising step between its two bounds.

The tables are in double precision; diffusers has schedulers for sampling, but not this objective.

Source: Ho et al. 2020, arXiv 2006.11239, sections 2 and 3.3; Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

#: Noise from the first timestep to the last, rising evenly.
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}

#: Half the distance of two neighbouring values of a byte, where bytes are from -1 to 1.
_HALF_BIN = 1 / 255

#: Values from here on count as the last byte, or as the first.
_EDGE = 0.999


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much noise there is at each of some timesteps; ``T`` of them, in float64.

    Attributes:
        timesteps: ``(T,)``, what a network is told; rising.
        alphas_cumprod: ``(T,)``, the share of the image in the variance.
    """

    timesteps: Int[Tensor, " T"]
    alphas_cumprod: Float64[Tensor, " T"]

    @classmethod
    def linear(cls) -> Schedule:
        """The schedule of ``BETAS``."""
        count = BETAS["num_train_timesteps"]
        betas = torch.linspace(BETAS["beta_start"], BETAS["beta_end"], int(count), dtype=torch.float64)
        return cls(torch.arange(count), (1 - betas).cumprod(0))

    def __len__(self) -> int:
        return len(self.timesteps)

    def respaced(self, timesteps: Int[Tensor, " S"]) -> Schedule:
        """The same noise at some of the timesteps, whatever their order."""
        kept = timesteps.sort().values
        return Schedule(self.timesteps[kept], self.alphas_cumprod[kept])

    def weights(self, most: float) -> Float64[Tensor, " T"]:
        """What an image's loss counts at each timestep, 1 in the mean.

        Where noise outweighs the image, the error of the noise counts as that of the image would, the ratio of their
        variances, but not more than ``most``. With 1 all timesteps count the same.

        Source: Salimans and Ho 2022, arXiv 2202.00512, section 4, truncated SNR.
        """
        weights = (1 / self.alphas_cumprod - 1).clamp(1.0, most)
        return weights / weights.mean()

    @cached_property
    def betas(self) -> Float64[Tensor, " T"]:
        """The variance that each step adds."""
        return 1 - self.alphas_cumprod / self._before

    @cached_property
    def posterior_log_variance(self) -> Float64[Tensor, " T"]:
        """Logarithm of the variance of a step back where the image is known; at the first one, that of the second."""
        variance = self.betas * (1 - self._before) / (1 - self.alphas_cumprod)
        return torch.cat([variance[1:2], variance[1:]]).log()

    @cached_property
    def posterior_mean_coefficients(self) -> tuple[Float64[Tensor, " T"], Float64[Tensor, " T"]]:
        """Shares of the image and of the noisy image in the mean of a step back."""
        rest = 1 - self.alphas_cumprod
        alphas = self.alphas_cumprod / self._before
        return self._before.sqrt() * self.betas / rest, alphas.sqrt() * (1 - self._before) / rest

    @cached_property
    def _before(self) -> Tensor:
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])


@dataclass(frozen=True, eq=False)
class Step:
    """A step back as a network predicts it: a normal distribution for each value.

    Attributes:
        mean: ``(b, c, h, w)``.
        log_variance: ``(b, c, h, w)``.
        image: ``(b, c, h, w)``, the latents without noise.
    """

    mean: Float[Tensor, "b c h w"]
    log_variance: Float[Tensor, "b c h w"]
    image: Float[Tensor, "b c h w"]


@dataclass(frozen=True, eq=False)
class Losses:
    """Of each image of a batch.

    Attributes:
        mse: ``(b,)``, mean squared error of the noise.
        variational_bound: ``(b,)``, in bits per value; only the variance gets a gradient of it.
    """

    mse: Float[Tensor, " b"]
    variational_bound: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        return self.mse + self.variational_bound


def add_noise(
    latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], indices: Int[Tensor, " b"], schedule: Schedule
) -> Float[Tensor, "b c h w"]:
    """Noisy latents; ``indices`` are places in the schedule, on the CPU."""
    kept = schedule.alphas_cumprod
    return _at(kept.sqrt(), indices, latents) * latents + _at((1 - kept).sqrt(), indices, latents) * noise


def step_back(
    output: Float[Tensor, "b k h w"], noisy: Float[Tensor, "b c h w"], indices: Int[Tensor, " b"], schedule: Schedule
) -> Step:
    """The step back that an output of the network means: its noise, and its variance between the bounds."""
    noise, fraction = output.chunk(2, 1)
    kept = schedule.alphas_cumprod
    image = _at(kept.rsqrt(), indices, noisy) * noisy - _at((1 / kept - 1).sqrt(), indices, noisy) * noise
    upper, lower = (
        _at(x, indices, noisy) for x in (schedule.betas.clamp(min=1e-20).log(), schedule.posterior_log_variance)
    )
    share = (fraction + 1) / 2
    return Step(_posterior_mean(image, noisy, indices, schedule), share * upper + (1 - share) * lower, image)


def learned_range_losses(
    output: Float[Tensor, "b k h w"],
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    noisy: Float[Tensor, "b c h w"],
    indices: Int[Tensor, " b"],
    schedule: Schedule,
) -> Losses:
    """The error of the noise, and the variational bound that teaches the variance.

    Args:
        output: of the network.
        latents: without noise.
        noise: that was added.
        noisy: what the network saw.
        indices: places in the schedule, on the CPU.
        schedule: of the training.
    """
    predicted, fraction = output.chunk(2, 1)
    mse = (noise - predicted).square().flatten(1).mean(1)
    step = step_back(torch.cat([predicted.detach(), fraction], 1), noisy, indices, schedule)
    true = Step(
        _posterior_mean(latents, noisy, indices, schedule),
        _at(schedule.posterior_log_variance, indices, noisy).expand_as(noisy),
        latents,
    )
    first = (indices == 0).to(latents.device)[:, None, None, None]
    bound = torch.where(first, _byte_surprise(latents, step), _divergence(true, step))
    return Losses(mse, bound.flatten(1).mean(1) / math.log(2))


def _posterior_mean(image: Tensor, noisy: Tensor, indices: Tensor, schedule: Schedule) -> Tensor:
    of_image, of_noisy = (_at(x, indices, noisy) for x in schedule.posterior_mean_coefficients)
    return of_image * image + of_noisy * noisy


def _divergence(true: Step, step: Step) -> Tensor:
    """Of Kullback and Leibler, of two normal distributions, in nats."""
    difference = true.log_variance - step.log_variance
    apart = (true.mean - step.mean).square() * (-step.log_variance).exp()
    return 0.5 * (difference.exp() - 1 - difference + apart)


def _byte_surprise(image: Tensor, step: Step) -> Tensor:
    """Nats that it takes to tell an image in bytes, whose values are from -1 to 1; the outermost ones are open."""
    deviation = (0.5 * step.log_variance).exp()
    above, below = ((image + side * _HALF_BIN - step.mean) / deviation for side in (1, -1))
    inside = _normal_cdf(above) - _normal_cdf(below)
    share = torch.where(image < -_EDGE, _normal_cdf(above), torch.where(image > _EDGE, _normal_cdf(-below), inside))
    return -share.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Approximately, as published losses have it: Page 1977, off by 2e-4 at most."""
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def _at(table: Float64[Tensor, " T"], indices: Int[Tensor, " b"], like: Tensor) -> Tensor:
    return table[indices].to(like.device, like.dtype)[:, None, None, None]
