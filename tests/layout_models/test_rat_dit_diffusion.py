"""RAT-Diffusion's objective and samplers: the reference's numbers, and what they are by definition."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scenewright.layout_models.rat_dit.diffusion import Schedule, add_noise, learned_range_losses, step_back
from scenewright.layout_models.rat_dit.network import RatTransformer, Size
from scenewright.layout_models.rat_dit.sampler import denoise, guided, scheduler


def respaced(steps: int) -> Schedule:
    """The timesteps of ancestral sampling."""
    return Schedule.linear().respaced(scheduler("ddpm", steps).timesteps)


@pytest.fixture
def network(golden):
    """The reference's network with its weights."""
    config = golden("rat_dit/model")[0]["config"]
    size = Size(config["depth"], config["hidden_size"], config["num_heads"])
    network = RatTransformer(size, config["patch_size"], config["in_channels"], config["input_size"])
    weights = golden("rat_dit/model.weights")[1]
    network.load_state_dict({name: weights[name].float() for name in network.state_dict()})
    return network.eval().requires_grad_(False)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["250", "full"])
def test_the_schedule_is_that_of_the_reference(name, golden):
    about, tensors = golden("rat_dit/schedule")
    schedule = Schedule.linear() if name == "full" else respaced(int(name))
    assert schedule.timesteps.tolist() == tensors[f"timestep_map_{name}"].tolist()
    found = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.posterior_mean_coefficients[0],
        "posterior_mean_coef2": schedule.posterior_mean_coefficients[1],
    }
    for key, x in found.items():
        torch.testing.assert_close(x, tensors[f"{key}_{name}"], atol=about["tolerance"]["others"], rtol=1e-13)


@pytest.mark.golden
@pytest.mark.parametrize("steps", [10, 50, 100, 250])
def test_ancestral_sampling_has_the_timesteps_of_the_reference(steps, golden):
    wanted = golden("rat_dit/schedule")[1][f"timestep_map_{steps}"]
    assert scheduler("ddpm", steps).timesteps.flip(0).tolist() == wanted.tolist()


def test_the_schedule_is_the_published_one():
    kept = Schedule.linear().alphas_cumprod
    assert kept[[0, 499, 999]].tolist() == pytest.approx([0.9999, 0.0785872, 4.0358e-5], rel=1e-4)
    assert respaced(250).timesteps[[0, 1, 2, 3, 4, -3, -2, -1]].tolist() == [0, 4, 8, 12, 16, 991, 995, 999]


@pytest.mark.golden
def test_steps_back_are_those_of_the_reference(golden):
    about, tensors = golden("rat_dit/diffusion")
    step = step_back(tensors["model_output"], tensors["x"], tensors["t_index"], respaced(250))
    wanted = {"p_mean": step.mean, "p_log_variance": step.log_variance, "p_xstart": step.image}
    for name, found in wanted.items():
        torch.testing.assert_close(found, tensors[name], atol=about["tolerance"]["all"], rtol=1e-5)


@pytest.mark.golden
def test_the_losses_are_those_of_the_reference(golden):
    about, tensors = golden("rat_dit/diffusion")
    schedule, indices = Schedule.linear(), tensors["t_full"]
    noisy = add_noise(tensors["x_start"], tensors["noise"], indices, schedule)
    torch.testing.assert_close(noisy, tensors["q_sample"], atol=about["tolerance"]["all"], rtol=0)
    given = (tensors["model_output"], tensors["x_start"], tensors["noise"], noisy, indices, schedule)
    losses = learned_range_losses(*given)
    found = {"loss": losses.total, "loss_mse": losses.mse, "loss_vb": losses.variational_bound}
    for name, x in found.items():
        torch.testing.assert_close(x, tensors[name], atol=about["tolerance"]["loss"], rtol=0)


@pytest.mark.golden
def test_diffusers_steps_are_those_of_the_reference(golden, monkeypatch):
    about, tensors = golden("rat_dit/diffusion")
    steps = scheduler("ddpm", 250)
    for i, index in enumerate(tensors["t_index"].tolist()):
        one = {name: tensors[name][i : i + 1] for name in ("model_output", "x", "noise", "p_sample")}
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, x=one, **__: x["noise"])
        found = steps.step(one["model_output"], steps.timesteps.flip(0)[index], one["x"]).prev_sample
        torch.testing.assert_close(found, one["p_sample"], atol=about["tolerance"]["all"], rtol=1e-5)


@pytest.mark.golden
def test_guidance_of_three_channels_is_that_of_the_reference(network, golden):
    about, tensors = golden("rat_dit/model")
    states, null = network.states(tensors["y"]), network.states(tensors["y_null"])
    wanted, scale = tensors["output_guided"], about["guidance_scale"]
    for i, time in enumerate(tensors["t"]):
        one = tensors["x"][i : i + 1]
        found = guided(network, one, time, states[:, i : i + 1], null, scale, compat=True)
        torch.testing.assert_close(found[0], wanted[i], atol=about["tolerance"]["output_guided"], rtol=0)


@pytest.mark.golden
def test_sampling_is_that_of_the_reference(network, golden, monkeypatch):
    about, tensors = golden("rat_dit/sampling")
    config, noise = about["config"], iter(tensors["noise"])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(noise)[:2])
    states, null = network.states(tensors["y"]), network.states(tensors["y_null"])
    steps, seen = scheduler("ddpm", config["steps"]), []

    def predict(latents, timestep):
        seen.append(latents)
        return guided(network, latents, timestep, states, null, config["guidance_scale"], compat=True)

    assert steps.timesteps.flip(0).tolist() == config["timestep_map"]
    result = denoise(predict, tensors["z"], steps, [torch.Generator()] * 2)
    for found, wanted in zip([*seen[1:], result], tensors["trajectory"], strict=True):
        assert (found - wanted).abs().max() < about["tolerance"]["trajectory"] * wanted.std()
    assert (result - tensors["output"]).abs().max() < about["tolerance"]["output"] * tensors["output"].std()


def some(count: int = 3, side: int = 2):
    random = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(count, 4, side, side, generator=random) for _ in range(2))
    return torch.randn(count, 8, side, side, generator=random), latents, noise


def test_guidance_moves_all_channels_of_the_noise_and_none_of_the_variance():
    _, latents, _ = some(2)

    class Network(torch.nn.Module):
        def forward(self, noisy, timesteps, states):
            return states[0, :, :1, None, None].expand(-1, 8, 2, 2)

    said, null = torch.full((1, 2, 1), 3.0), torch.full((1, 1, 1), 1.0)
    for compat, scale, moved in ((False, 1.5, 4), (True, 1.5, 3), (False, 1.0, 0)):
        found = guided(Network(), latents, torch.tensor(5), said, null, scale, compat)
        assert (found[:, :moved] == 1 + scale * 2).all() and (found[:, moved:] == 3).all()


def test_the_first_step_back_gives_the_image_that_is_predicted():
    output, latents, _ = some()
    for schedule in (Schedule.linear(), respaced(10)):
        step = step_back(output, latents, torch.zeros(3, dtype=torch.long), schedule)
        torch.testing.assert_close(step.mean, step.image)


@pytest.mark.parametrize(("output", "bound"), [(-1.0, "posterior_log_variance"), (1.0, "betas")])
def test_the_variance_lies_between_its_bounds(output, bound):
    _, latents, _ = some(1)
    schedule = Schedule.linear()
    wanted = getattr(schedule, bound)[500]
    found = step_back(torch.full((1, 8, 2, 2), output), latents, torch.tensor([500]), schedule).log_variance
    assert found.mean().item() == pytest.approx((wanted.log() if bound == "betas" else wanted).item(), rel=1e-5)


@pytest.mark.parametrize("index", [1, 300, 999])
def test_the_bound_is_the_divergence_of_two_normal_distributions_in_bits(index):
    output, latents, noise = (x.double() for x in some(1))
    schedule, indices = Schedule.linear(), torch.tensor([index])
    noisy = add_noise(latents, noise, indices, schedule)
    losses = learned_range_losses(output, latents, noise, noisy, indices, schedule)
    step = step_back(output, noisy, indices, schedule)
    shares = [x[index] for x in schedule.posterior_mean_coefficients]
    true = Normal(shares[0] * latents + shares[1] * noisy, (0.5 * schedule.posterior_log_variance[index]).exp())
    nats = kl_divergence(true, Normal(step.mean, (0.5 * step.log_variance).exp())).mean()
    torch.testing.assert_close(losses.variational_bound, (nats / math.log(2))[None])


def test_at_the_first_timestep_the_bound_is_what_bytes_cost():
    values = torch.tensor([-1.0, -0.2, 0.35, 1.0]).repeat(4)[None].unflatten(1, (4, 2, 2)).double()
    schedule, first, noise = Schedule.linear(), torch.tensor([0]), torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    output = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(1)).double() * 0.5
    noisy = add_noise(values, noise, first, schedule)
    step = step_back(output, noisy, first, schedule)
    drawn = Normal(step.mean, (0.5 * step.log_variance).exp())
    above = torch.where(values == 1, torch.ones_like(values), drawn.cdf(values + 1 / 255))
    below = torch.where(values == -1, torch.zeros_like(values), drawn.cdf(values - 1 / 255))
    found = learned_range_losses(output, values, noise, noisy, first, schedule).variational_bound
    assert found.item() == pytest.approx(-(above - below).log2().mean().item(), abs=2e-2)


def test_the_bound_teaches_the_variance_alone_and_the_error_the_noise_alone():
    output, latents, noise = some()
    schedule, indices = Schedule.linear(), torch.tensor([0, 200, 900])
    noisy = add_noise(latents, noise, indices, schedule)
    for name, taught, left in (("variational_bound", slice(4, 8), slice(4)), ("mse", slice(4), slice(4, 8))):
        given = output.clone().requires_grad_()
        getattr(learned_range_losses(given, latents, noise, noisy, indices, schedule), name).sum().backward()
        assert given.grad[:, taught].abs().sum() > 0 and not given.grad[:, left].any()


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 50), ("dpm", 25), ("dpm", 50)])
def test_faster_solvers_find_the_mean_of_a_normal_distribution(solver, steps):
    mean, deviation = 0.7, 0.3
    kept = Schedule.linear().alphas_cumprod.float()

    def predict(latents, timestep):
        a = kept[timestep]
        noise = (latents - a.sqrt() * mean) * (1 - a).sqrt() / (a * deviation**2 + 1 - a)
        return torch.cat([noise, torch.zeros_like(noise)], 1)

    begin = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plan = scheduler(solver, steps)
    found = denoise(predict, begin, plan, [torch.Generator()] * 64)
    assert plan.timesteps[0] == 999
    assert found.mean().item() == pytest.approx(mean, abs=0.03)
    assert found.std().item() == pytest.approx(deviation, abs=0.03)


def test_ancestral_sampling_finds_it_with_the_least_variance_that_is_true():
    mean, deviation = 0.7, 0.3
    kept = Schedule.linear().alphas_cumprod.float()

    def predict(latents, timestep):
        a = kept[timestep]
        noise = (latents - a.sqrt() * mean) * (1 - a).sqrt() / (a * deviation**2 + 1 - a)
        return torch.cat([noise, -torch.ones_like(noise)], 1)

    begin = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(64)]
    found = denoise(predict, begin, scheduler("ddpm", 250), generators)
    assert found.mean().item() == pytest.approx(mean, abs=0.03)
    assert found.std().item() == pytest.approx(deviation, abs=0.05)


@pytest.mark.parametrize(
    ("solver", "steps", "message"), [("euler", 10, "ddpm, ddim, dpm"), ("ddpm", 1, "2, 1000"), ("dpm", 1001, "2, 1000")]
)
def test_solvers_and_steps_that_there_are_not_are_refused(solver, steps, message):
    with pytest.raises(ValueError, match=message):
        scheduler(solver, steps)


def test_noisy_timesteps_count_as_the_images_error_would_up_to_a_limit():
    schedule = Schedule.linear()
    assert torch.equal(schedule.weights(1.0), torch.ones(1000, dtype=torch.float64))
    weights = schedule.weights(20.0)
    torch.testing.assert_close(weights.mean().item(), 1.0)
    ratio = (1 - schedule.alphas_cumprod) / schedule.alphas_cumprod
    middle = (ratio > 1) & (ratio < 20)
    torch.testing.assert_close(weights[middle] / ratio[middle], weights[0].expand(int(middle.sum())))
    torch.testing.assert_close(weights[-1] / weights[0], torch.tensor(20.0, dtype=torch.float64))
