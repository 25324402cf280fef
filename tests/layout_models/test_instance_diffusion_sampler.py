"""Sampling: the reference's numbers and costs, whatever is evaluated at once."""

import math
from typing import Any

import pytest
import torch

from scenewright.layout_models.instance_diffusion.sampler import gate, plms_scheduler, sample

ALWAYS = (1.0, 0.0, 0.0)


class Model:
    """A formula with a context for each input, and a list of what it was asked."""

    def __init__(self, contexts: torch.Tensor, uncond: torch.Tensor | None = None, guidance: float = 1.0) -> None:
        self.contexts, self.uncond, self.guidance = contexts, uncond, guidance
        self.asked: list[tuple[int, list[int], float]] = []
        self.evaluations = 0

    def __call__(self, latents: torch.Tensor, timestep: int, inputs: torch.Tensor, gate: float) -> torch.Tensor:
        self.asked.append((timestep, inputs.tolist(), gate))
        self.evaluations += len(inputs)
        found = self.formula(latents, timestep, self.contexts[inputs])
        if self.uncond is None or self.guidance == 1:
            return found
        self.evaluations += len(inputs)
        plain = self.formula(latents, timestep, self.uncond)
        return plain + self.guidance * (found - plain)

    @staticmethod
    def formula(x: torch.Tensor, timestep: int, context: torch.Tensor) -> torch.Tensor:
        return 0.8 * x + 0.1 * x.tanh() + 0.3 * math.sin(timestep / 100) + context


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.golden
@pytest.mark.parametrize("run", ["full", "guided", "instances", "fifty"])
def test_latents_and_evaluations_are_those_of_the_reference(golden, run):
    about, tensors = golden("instance_diffusion/plms")
    config: dict[str, Any] = about["config"]["runs"][run]
    model = Model(tensors["contexts"][:, 0], tensors["uc"], float(config["guidance"]))
    found = sample(
        model,
        tensors["x"],
        [0] * (config["inputs"] - 1),
        steps=config["steps"],
        mis=float(config["mis"]),
        alpha=ALWAYS,
    )
    torch.testing.assert_close(found, tensors[f"output_{run}"], atol=about["tolerance"]["outputs"], rtol=0)
    assert model.evaluations == config["model_calls"]
    assert sorted({timestep for timestep, *_ in model.asked}) == config["timesteps"]


@pytest.mark.golden
def test_the_noise_is_that_of_the_reference(golden):
    _, tensors = golden("instance_diffusion/plms")
    scheduler = plms_scheduler(50)
    times = scheduler.timesteps.unique()
    alphas = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(alphas[times], tensors["alphas_50"], atol=1e-6, rtol=0)
    before = torch.cat([scheduler.final_alpha_cumprod.double()[None], alphas[times[:-1]]])
    torch.testing.assert_close(before, tensors["alphas_prev_50"], atol=1e-6, rtol=0)


@pytest.mark.golden
def test_gates_are_those_of_the_reference(golden):
    about, _ = golden("instance_diffusion/plms")
    for alpha, wanted in about["alpha_schedules_50"].items():
        assert gate([float(x) for x in alpha.strip("[]").split(",")], 50) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("alpha", [(0.5, 0.5), (0.5, 0.4, 0.2), (1.2, -0.2, 0.0)])
def test_gates_that_are_no_shares_are_refused(alpha):
    with pytest.raises(ValueError, match="three shares of 1"):
        gate(alpha, 50)


@pytest.mark.parametrize(
    ("count", "steps", "mis"), [(4, 50, 0.36), (8, 50, 0.36), (1, 10, 0.1), (3, 7, 0.5), (2, 5, 1.0)]
)
def test_the_cost_is_what_the_formula_says(count, steps, mis):
    model = Model(random(count + 1, 4, 2, 2))
    sample(model, random(1, 4, 2, 2), [0] * count, steps=steps, mis=mis)
    apart = int(steps * mis)
    assert model.evaluations == (count + 1) * (apart + 1) + (steps - apart)


@pytest.mark.parametrize(("count", "mis"), [(0, 0.36), (3, 0.0), (3, 0.01)])
def test_without_instances_or_steps_apart_it_is_plms(count, mis):
    model = Model(random(4, 4, 2, 2))
    found = sample(model, random(1, 4, 2, 2), [0] * count, mis=mis)
    assert model.evaluations == 51
    assert torch.equal(found, sample(Model(random(4, 4, 2, 2)), random(1, 4, 2, 2)))


@pytest.mark.parametrize("max_batch", [1, 2, 3, 100])
def test_an_image_is_as_it_is_alone_whatever_is_evaluated_at_once(max_batch):
    noise, contexts = random(3, 4, 2, 2), random(7, 4, 2, 2)
    owners = [0, 2, 2, 0]
    model = Model(contexts)
    together = sample(model, noise, owners, steps=12, mis=0.5, max_batch=max_batch)
    assert max(len(inputs) for _, inputs, _ in model.asked) <= max_batch
    for image in range(3):
        mine = [image, *(3 + i for i, owner in enumerate(owners) if owner == image)]
        alone = sample(Model(contexts[mine]), noise[image : image + 1], [0] * (len(mine) - 1), steps=12, mis=0.5)
        torch.testing.assert_close(together[image], alone[0], atol=1e-5, rtol=0)


def test_gates_follow_the_steps_and_the_first_step_has_two_evaluations():
    model = Model(random(1, 4, 2, 2))
    sample(model, random(1, 4, 2, 2), steps=5, alpha=(0.4, 0.4, 0.2))
    assert [scale for *_, scale in model.asked] == pytest.approx([1, 1, 1, 0.5, 0, 0])
    assert [timestep for timestep, *_ in model.asked] == [801, 601, 601, 401, 201, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mis": 1.5}, "mis is a share"),
        ({"max_batch": 0}, "at least 1"),
        ({"instances_of": [1]}, "images 0 to 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(Model(random(1, 4, 2, 2)), random(1, 4, 2, 2), **options)
