"""RAT-Diffusion as a layout model: what its loss and its images depend on."""

from dataclasses import replace

import pytest
import torch

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Batch, Layout
from scenewright.layout_models.objective import draw
from scenewright.layout_models.rat_dit import RatDiT
from scenewright.layout_models.rat_dit import network as networks
from scenewright.layout_models.rat_dit.diffusion import Schedule, add_noise, learned_range_losses
from scenewright.layout_models.rat_dit.network import Size
from scenewright.layout_models.rat_dit.text_features import CLIPText, HashedWords
from scenewright.layout_models.training import trainable
from scenewright.protocols import LayoutModel

SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """An autoencoder of random weights, saved."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        )
    made.save_pretrained(tmp_path_factory.mktemp("vae"))
    return str(tmp_path_factory.getbasetemp() / "vae0")


@pytest.fixture
def build(vae, monkeypatch):
    """``build(**settings)``: a small one, whose network does not answer zero unless ``new=True``."""
    monkeypatch.setitem(networks.SIZES, "S", Size(8, 32, 4))

    def built(new: bool = False, **settings) -> RatDiT:
        given = {"size": "S", "image_size": 32, "vae": vae, "text_encoder": HashedWords(), "num_inference_steps": 3}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = RatDiT(**{**given, **settings})
            for parameter in () if new else model.parameters():
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    return built


def batch(count: int = 3, **known) -> Batch:
    """Noise of 32 pixels with captions."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    captions = ["a red dog", "a blue cat", "two birds"][:count]
    given = {"captions": captions, "layouts": [Layout.empty()] * count, "seeds": [5, 6, 7][:count], **known}
    return Batch(images, **given)


def alone(whole: Batch, i: int) -> Batch:
    fields = {name: [getattr(whole, name)[i]] for name in ("captions", "layouts", "seeds", "text_features")}
    return Batch(images=whole.images[i : i + 1], **fields)


def drawn(model, captions=("a red dog", "a blue cat"), seeds=(1, 2), **known):
    return model.sample(captions, [Layout.empty()] * len(captions), seeds, **SIZE, **known).int()


def test_it_is_a_layout_model_of_which_the_network_alone_learns(build):
    model = build()
    assert isinstance(model, LayoutModel) and model.untrained and (model.height, model.width) == (32, 32)
    assert trainable(model).keys() == {f"network.{name}" for name in model.network.state_dict()}


def test_a_new_one_has_an_error_of_about_one(build):
    model = build(new=True)
    with torch.no_grad():
        losses = [float(model(batch(seeds=[seed, seed + 100, seed + 200]))) for seed in range(12)]
    assert 0.8 < sorted(losses)[6] < 1.6


def test_the_loss_is_that_of_the_latents_noise_and_text(build, vae):
    from diffusers import AutoencoderKL

    model, known = build(), batch(1)
    draws = draw(known.seeds, (4, 4, 4), 1000, layout_drop=0.0, caption_drop=0.0)
    found = AutoencoderKL.from_pretrained(vae).encode(known.images / 127.5 - 1).latent_dist
    latents = (found.mean + found.std * draws.posterior) * 0.23126199671607967
    noisy = add_noise(latents, draws.noise, draws.timesteps, Schedule.linear())
    text = HashedWords().encode(known.captions, torch.device("cpu"))
    with torch.no_grad():
        output = model.network(noisy, draws.timesteps, model.network.states(text))
        losses = learned_range_losses(output, latents, draws.noise, noisy, draws.timesteps, Schedule.linear())
        torch.testing.assert_close(model(known), losses.total[0])


def test_a_loss_is_the_mean_of_its_images_losses_whatever_the_batch(build):
    model, whole = build(caption_drop=0.5), batch()
    with torch.no_grad():
        parts = [model(alone(whole, i)) for i in range(3)]
        torch.testing.assert_close(model(whole), torch.stack(parts).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(solver, build):
    model = build(solver=solver)
    together = drawn(model)
    for i, (caption, seed) in enumerate((("a red dog", 1), ("a blue cat", 2))):
        assert (together[i] - drawn(model, [caption], [seed])[0]).abs().max() <= 1
    assert not torch.equal(together[0], drawn(model, seeds=(9, 2))[0])
    assert torch.equal(together, drawn(model))


def test_layouts_are_ignored(build):
    model, layout = build(), Layout(torch.tensor([[0.1, 0.1, 0.6, 0.6]]), ["dog"])
    images = [model.sample(["a dog"], [x], [0], **SIZE) for x in (layout, Layout.empty())]
    assert torch.equal(*images)
    losses = [model(replace(batch(1), layouts=[x])) for x in (layout, Layout.empty())]
    assert torch.equal(*losses)


def test_a_stored_feature_takes_the_place_of_the_caption(build):
    model, whole = build(), batch()
    features = list(HashedWords().encode(whole.captions, torch.device("cpu")))
    stored = replace(whole, captions=["", "something else", whole.captions[2]], text_features=[*features[:2], None])
    with torch.no_grad():
        assert torch.equal(model(stored), model(whole))
        assert not torch.equal(model(replace(stored, text_features=[None] * 3)), model(whole))
    images = drawn(model, ["", "x"], text_features=features[:2])
    assert torch.equal(images, drawn(model))


@pytest.mark.parametrize("width", [511, 768])
def test_a_feature_of_another_width_is_named(width, build):
    model = build()
    with pytest.raises(ValueError, match=rf"must have 512 values.*got \({width},\)"):
        model(batch(1, text_features=[torch.zeros(width)]))
    with pytest.raises(ValueError, match=rf"must have 512 values.*got \({width},\)"):
        drawn(build(text_encoder=HashedWords(width=width)))


def test_dropped_captions_and_features_say_the_null_text(build):
    model = build(caption_drop=1.0, null_text="a picture of bird")
    with torch.no_grad():
        dropped = model(batch(text_features=[None, torch.ones(512), None]))
        assert torch.equal(dropped, build()(batch(captions=["a picture of bird"] * 3)))


def test_guidance_leads_away_from_the_null_text_and_at_one_is_none(build):
    images = {x: drawn(build(guidance_scale=1.0, null_text=x)) for x in ("a picture", "a picture of bird")}
    assert torch.equal(*images.values())
    guided = {x: drawn(build(guidance_scale=4.0, null_text=x)) for x in images}
    assert not torch.equal(*guided.values())
    same = drawn(build(guidance_scale=4.0, null_text="a red dog"), ["a red dog"], [1])
    assert (same - images["a picture"][:1]).abs().max() <= 1  # nothing to lead away from


def test_guidance_of_three_channels_is_another_image(build):
    assert not torch.equal(*(drawn(build(guidance_scale=4.0, compat=x)) for x in (False, True)))


def test_training_lowers_the_loss_and_leaves_the_autoencoder_alone(build):
    model = build(new=True, gradient_checkpointing=True).train()
    known = batch()
    before = model(known).item()
    frozen = [x.clone() for x in model.codec._network.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        model(known).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model(known).item() < 0.97 * before
    assert all(torch.equal(x, y) for x, y in zip(frozen, model.codec._network.parameters(), strict=True))


def test_what_is_cached_is_the_same_and_is_not_computed_again(build, tmp_path, monkeypatch):
    cached = {"cache": str(tmp_path), "cache_latents": True}
    with torch.no_grad():
        plain, first = build()(batch()), build(**cached)(batch())
        monkeypatch.setattr(HashedWords, "encode", None)
        model = build(**cached)
        monkeypatch.setattr(model.codec._network, "encode", None)
        again = model(batch())
    assert torch.equal(first, again)
    torch.testing.assert_close(plain, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "M"}, "S, B, L, XL"),
        ({"image_size": 40}, "multiple of 16"),
        ({"solver": "euler"}, "ddpm, ddim, dpm"),
        ({"variant": "x"}, "shift, affine"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, build):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_sizes_and_counts_that_do_not_fit_are_named(build):
    model = build()
    with pytest.raises(ValueError, match="multiples of 16, got 32 and 40"):
        model.sample(["a"], [Layout.empty()], [0], height=32, width=40)
    with pytest.raises(ValueError, match="must be as many"):
        model.sample(["a"], [], [0], **SIZE)
    assert model.sample([], [], [], **SIZE).shape == (0, 3, 32, 32)
    assert model.sample(["a"], [Layout.empty()], [0], height=32, width=64).shape == (1, 3, 32, 64)


def test_all_that_is_missing_is_named_before_anything_is_built(build):
    with pytest.raises(MissingWeights) as caught:
        build(vae="no/vae", text_encoder=CLIPText("no/clip"))
    assert "no/vae" in str(caught.value) and "no/clip" in str(caught.value)


def test_an_autoencoder_of_another_kind_is_refused(build, tmp_path):
    from diffusers import AutoencoderKL

    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="8 pixels per latent"):
        build(vae=str(tmp_path / "other"))(batch())


def test_published_weights_are_read(build, tmp_path):
    whole = build()
    torch.save({"ema": whole.network.state_dict()}, tmp_path / "rat.pt")
    model = build(new=True, weights=str(tmp_path / "rat.pt"))
    assert not model.untrained and torch.equal(drawn(model), drawn(whole))
