"""Stable Diffusion 1.5 learns regional layers: one text encoder, its last layer, no sizes of pictures."""

import pytest
import torch
from torch.nn.functional import mse_loss

from scenewright.layout_models.objective import draw
from scenewright.layout_models.rich_context.adapter import is_adapter
from scenewright.layout_models.rich_context_sd15 import RichContextSD15
from scenewright.layout_models.training import trainable


@pytest.fixture
def build(tiny_sd15):
    def built(**settings):
        torch.manual_seed(3)
        given = {"base": str(tiny_sd15), "dtype": "float32", "num_inference_steps": 3, "gradient_checkpointing": False}
        return RichContextSD15(**{**given, **settings})

    return built


@pytest.fixture(scope="module")
def stock(tiny_sd15):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_sd15, safety_checker=None)


@torch.no_grad()
def base_loss(stock, batch, captions, settings):
    """The plain training loss of the stock model, written out."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(stock.scheduler.config)
    height, width = batch.images.shape[2:]
    draws = draw(batch.seeds, (4, height // 8, width // 8), 1000, **settings)
    known = stock.vae.encode(batch.images / 127.5 - 1).latent_dist
    latents = (known.mean + known.std * draws.posterior) * stock.vae.config.scaling_factor
    features, _ = stock.encode_prompt(captions, "cpu", 1, False)
    noisy = scheduler.add_noise(latents, draws.noise, draws.timesteps)
    return float(mse_loss(stock.unet(noisy, draws.timesteps, features).sample, draws.noise))


def test_captions_are_encoded_as_by_diffusers(build, stock):
    texts = ["a red cat", "", "a " * 90]
    features, pooled = build().text.encode_captions(texts)
    wanted, _ = stock.encode_prompt(texts, "cpu", 1, False)
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-6)
    assert pooled is None


@pytest.mark.parametrize("text", ["", "red cat, dog"])
def test_labels_are_the_last_layer(text, build, stock):
    inputs = stock.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
    length = 77 if not text else int(inputs.attention_mask.sum())
    with torch.no_grad():
        wanted = stock.text_encoder(**inputs).last_hidden_state
    found = build().text.encode_labels(inputs.input_ids)
    torch.testing.assert_close(found[:, :length], wanted[:, :length], rtol=0, atol=1e-6)


@pytest.mark.parametrize("caption_drop", [0.0, 1.0])
def test_new_layers_change_nothing_and_dropped_captions_are_empty(caption_drop, build, stock, batch):
    settings = {"layout_drop": 0.0, "caption_drop": caption_drop}
    captions = [""] * 3 if caption_drop else batch().captions
    with torch.no_grad():
        found = float(build(**settings)(batch()))
    assert found == pytest.approx(base_loss(stock, batch(), captions, settings), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"layers": "casa", "boxes": False}], ids=str)
def test_training_lowers_the_loss_and_moves_only_the_adapter(settings, build, batch):
    model = build(layout_drop=0.3, gradient_checkpointing=True, **settings)
    before = {name: x.clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model.train()(batch())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.99 * losses[0]
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    assert moved == set(trainable(model)) and all(is_adapter(name.removeprefix("unet.")) for name in moved)


def test_an_image_depends_on_its_own_seed_alone(build, batch):
    model = build(negative_prompt="red", layout_guidance_scale=3.0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    three = batch()
    together = model.sample(three.captions, three.layouts, three.seeds, height=32, width=48)
    for i in range(3):
        one = batch(i)
        alone = model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
        assert (alone.int() - together[i : i + 1].int()).abs().max() <= 1


def test_features_are_kept(build, batch, tmp_path):
    with torch.no_grad():
        found = [float(x(batch())) for x in (build(), build(cache=str(tmp_path)), build(cache=str(tmp_path)))]
    assert found[0] == found[1] == found[2]
