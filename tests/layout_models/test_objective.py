"""What is predicted and how its error is weighted, against the formulas."""

import pytest
import torch
from diffusers import DDPMScheduler

from scenewright.layout_models.objective import diffusion_loss, target

TIMESTEPS = torch.tensor([5, 400, 700, 980])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("gamma", "floor"), [(5.0, 0.0), (5.0, 1.0), (1.0, 1.0)])
def test_the_weight_is_the_clipped_snr_in_units_of_the_samples_error_whatever_is_predicted(kind, gamma, floor, latents):
    clean, noise = latents
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind)
    kept = scheduler.alphas_cumprod[TIMESTEPS].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    guess = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    implied = (noisy - kept.sqrt() * guess) / (1 - kept).sqrt()  # the noise, if the guess were right
    predicted = {
        "epsilon": implied,
        "v_prediction": kept.sqrt() * implied - (1 - kept).sqrt() * guess,
        "sample": guess,
    }[kind]
    snr = (kept / (1 - kept)).flatten()
    expected = ((guess - clean).square().flatten(1).mean(1) * snr.clamp(floor, gamma)).mean()
    found = diffusion_loss(predicted, target(scheduler, clean, noise, TIMESTEPS), TIMESTEPS, scheduler, gamma, floor)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_another_prediction_is_refused():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="must be epsilon, v_prediction or sample, got 'flow'"):
        target(scheduler, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([3]))


def test_images_weigh_what_they_are_given():
    prediction, wanted, timesteps = (
        torch.arange(3.0)[:, None, None, None],
        torch.zeros(3, 1, 1, 1),
        torch.zeros(3).long(),
    )
    weights = torch.tensor([5.0, 1.0, 0.5])
    assert diffusion_loss(prediction, wanted, timesteps, None, weights=weights) == (0 + 1 + 0.5 * 4) / 3
    assert diffusion_loss(prediction, wanted, timesteps, None) == (0 + 1 + 4) / 3
