"""RAT-Diffusion in small: what it can do without weights."""

import pytest
import torch

from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch
from scenewright.layout_models.objective import draw
from scenewright.layout_models.tiny_rat_dit import TinyRatDiT

SIZE = {"height": 32, "width": 32}


def scenes(count: int):
    return list(Shapes(length=count, difficulty="easy", **SIZE))


def built(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyRatDiT(**{"depth": 4, "hidden_size": 32, "num_inference_steps": 3, **settings})


@pytest.mark.parametrize("variant", ["shift", "affine"])
def test_training_on_one_batch_lowers_its_loss(variant):
    model, known = built(variant=variant).train(), Batch.collate(scenes(4), seeds=[1, 2, 3, 4])
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(12):
        losses.append(model(known))
        losses[-1].backward()
        assert [name for name, x in model.named_parameters() if x.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.85 * losses[0]


def test_a_loss_is_the_mean_of_its_images_losses_whatever_the_batch():
    model, some = built(), scenes(3)
    with torch.no_grad():
        parts = [model(Batch.collate([x], seeds=[i])) for i, x in enumerate(some)]
        torch.testing.assert_close(model(Batch.collate(some, seeds=[0, 1, 2])), torch.stack(parts).mean())


def test_noisy_timesteps_may_count_more():
    some = [Batch.collate([x], seeds=[i]) for i, x in enumerate(scenes(6))]
    plain, weighted = built(), built(noise_weight=50.0)
    with torch.no_grad():
        ratios = torch.stack([weighted(x) / plain(x) for x in some])
    steps = torch.tensor([int(draw(x.seeds, (3, 32, 32), 1000, layout_drop=0.0).timesteps) for x in some])
    torch.testing.assert_close(ratios, plain.schedule.weights(50.0)[steps].float())
    with pytest.raises(ValueError, match="noise_weight must be at least 1, got 0.5"):
        built(noise_weight=0.5)


def test_pixels_come_back_as_they_were():
    images = torch.stack([x.image for x in scenes(2)])
    codec = built().codec
    assert torch.equal(codec.decode(codec.encode(images, torch.zeros(2, 3, 32, 32))), images)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_it_draws_with_every_solver(solver):
    model, some = built(solver=solver), scenes(2)
    found = model.sample([x.caption for x in some], [x.layout for x in some], [0, 1], height=16, width=32)
    assert found.shape == (2, 3, 16, 32) and found.dtype == torch.uint8 and found.float().std() > 10


def test_weights_are_read_and_those_of_another_network_refused(tmp_path):
    model = built()
    torch.save(model.network.state_dict(), tmp_path / "x.pt")
    again = built(weights=str(tmp_path / "x.pt"))
    assert model.untrained and not again.untrained
    assert all(torch.equal(x, again.network.state_dict()[k]) for k, x in model.network.state_dict().items())
    with pytest.raises(ValueError, match="size, patch and variant"):
        built(depth=8, weights=str(tmp_path / "x.pt"))
