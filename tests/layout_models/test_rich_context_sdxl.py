"""A frozen SDXL learns regional layers: what it is told is what diffusers tells it, and nothing else moves."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import mse_loss

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout_models.checkpoint import load_trained
from scenewright.layout_models.objective import draw
from scenewright.layout_models.rich_context.adapter import is_adapter, save_adapter
from scenewright.layout_models.rich_context.pipeline import RichContextPipeline
from scenewright.layout_models.rich_context_sdxl import RichContextSDXL
from scenewright.layout_models.training import trainable

TEXTS = ["a red cat", "", "dog, cat; red dog.", "a " * 90]


@pytest.fixture
def build(tiny_sdxl):
    def built(**settings):
        torch.manual_seed(3)
        given = {"base": str(tiny_sdxl), "unet": None, "vae": None, "dtype": "float32", "num_inference_steps": 3}
        return RichContextSDXL(**{**given, "gradient_checkpointing": False, **settings})

    return built


@pytest.fixture(scope="module")
def stock(tiny_sdxl):
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)


def loss_of(model, batch):
    with torch.no_grad():
        return float(model(batch))


def shake(model, scale=0.5):
    """As if it had been trained: regional layers that say something."""
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += scale * torch.randn(parameter.shape, generator=random)
    return model


def base_loss(stock, batch, captions=None, settings=None, target=None):
    """The plain training loss of the stock model, written out."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(stock.scheduler.config)
    height, width = batch.images.shape[2:]
    draws = draw(batch.seeds, (4, height // 8, width // 8), 1000, **(settings or {}))
    with torch.no_grad():
        known = stock.vae.encode(batch.images / 127.5 - 1).latent_dist
        latents = (known.mean + known.std * draws.posterior) * stock.vae.config.scaling_factor
        if captions is None:
            features, _, pooled, _ = stock.encode_prompt(batch.captions, do_classifier_free_guidance=False)
        else:
            features, pooled = captions
        rows = [[*x.size, *x.corner, height, width] for x in batch.frames]
        prediction = stock.unet(
            scheduler.add_noise(latents, draws.noise, draws.timesteps),
            draws.timesteps,
            features,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor(rows, dtype=torch.float32)},
        ).sample
    wanted = draws.noise if target is None else target(scheduler, latents, draws)
    return float(mse_loss(prediction, wanted))


def test_captions_are_encoded_as_by_diffusers(build, stock):
    features, pooled = build().text.encode_captions(TEXTS)
    wanted, _, wanted_pooled, _ = stock.encode_prompt(TEXTS, do_classifier_free_guidance=False)
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled, wanted_pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["a red cat", "", "dog", "a dog, red cat, dog, cat, dog, a red red dog, cat"])
def test_labels_are_the_last_layers_of_both_towers_with_their_own_padding_masked(text, build, stock):
    model = build()
    wanted = []
    for tokenizer, encoder in ((stock.tokenizer, stock.text_encoder), (stock.tokenizer_2, stock.text_encoder_2)):
        inputs = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.no_grad():
            wanted.append(encoder(**inputs).last_hidden_state)
    ids = stock.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    found = model.text.encode_labels(ids)
    length = 77 if not text else len(stock.tokenizer(text).input_ids)
    torch.testing.assert_close(found[:, :length], torch.cat(wanted, -1)[:, :length], rtol=0, atol=1e-6)
    assert found.shape == (1, 77, 32)


def test_a_text_has_the_same_features_bit_for_bit_in_any_company(build):
    text = build().text
    ids = text.tokenizers[0](TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    together, alone = text.encode_labels(ids), [text.encode_labels(x[None])[0] for x in ids]
    assert all(torch.equal(x, y) for x, y in zip(together, alone, strict=True))
    many, _ = text.encode_captions(TEXTS * 3)
    assert all(torch.equal(many[5 + i], text.encode_captions([TEXTS[(5 + i) % 4]])[0][0]) for i in range(4))
    assert text.encode_labels(ids[:0]).shape == (0, 77, 32)


def test_a_label_is_read_without_the_marks_that_are_written_in_it(build):
    labels = build().text.labels
    assert labels.tokens("cat<|endoftext|>") == labels.tokens("cat")
    assert labels.separator == labels.tokens(";")[0] and labels.length == 77


def test_new_layers_change_nothing(build, stock, batch):
    no_drops = {"layout_drop": 0.0, "caption_drop": 0.0}
    assert loss_of(build(**no_drops), batch()) == pytest.approx(base_loss(stock, batch(), settings=no_drops), abs=1e-6)


def test_an_image_without_a_layout_is_the_bases_whatever_was_learnt(build, stock, batch):
    settings = {"layout_drop": 1.0, "caption_drop": 0.0}
    model = shake(build(**settings))
    assert loss_of(model, batch(2)) == pytest.approx(base_loss(stock, batch(2), settings=settings), abs=1e-6)
    assert loss_of(model, batch(1)) != pytest.approx(base_loss(stock, batch(1), settings=settings), abs=1e-3)


def test_an_empty_batch_of_layouts_can_be_trained_on(build, batch):
    model = build()
    model(batch(2)).backward()
    assert all(x.grad is None or x.grad.abs().max() == 0 for x in model.parameters())


@pytest.mark.parametrize("negative_prompt", [None, ""])
def test_dropped_captions_are_what_sampling_takes_for_the_unconditional_half(negative_prompt, build, stock, batch):
    settings = {"layout_drop": 0.0, "caption_drop": 1.0}
    model = build(**settings, negative_prompt=negative_prompt)
    negative = None if negative_prompt is None else [negative_prompt] * 3
    _, features, _, pooled = stock.encode_prompt(batch().captions, negative_prompt=negative)
    wanted = base_loss(stock, batch(), (features, pooled), settings)
    assert loss_of(model, batch()) == pytest.approx(wanted, abs=1e-6)


def test_drops_are_drawn_for_each_image(build, stock, batch):
    settings = {"layout_drop": 0.0, "caption_drop": 0.3}
    dropped = draw(batch().seeds, (4, 4, 6), 1000, **settings).caption_dropped
    assert len(set(dropped)) == 2
    features, empty, pooled, empty_pooled = stock.encode_prompt(batch().captions)
    gone = torch.tensor(dropped)[:, None]
    told = torch.where(gone[..., None], empty, features), torch.where(gone, empty_pooled, pooled)
    assert loss_of(build(**settings), batch()) == pytest.approx(base_loss(stock, batch(), told, settings), abs=1e-6)


def test_a_loss_is_the_mean_over_images_whatever_their_batch(build, batch):
    model = shake(build())
    alone = [loss_of(model, batch(i)) for i in range(3)]
    assert loss_of(model, batch()) == pytest.approx(sum(alone) / 3, abs=1e-6)
    assert loss_of(model, batch()) == loss_of(model, batch())


def test_the_velocity_is_predicted_where_the_base_does(make_sdxl, build, stock, batch, tmp_path):
    folder = make_sdxl(tmp_path / "v", prediction_type="v_prediction")
    no_drops = {"layout_drop": 0.0, "caption_drop": 0.0}

    def velocity(scheduler, latents, draws):
        signal = scheduler.alphas_cumprod[draws.timesteps].sqrt()[:, None, None, None]
        return signal * draws.noise - (1 - signal**2).sqrt() * latents

    found = loss_of(build(base=str(folder), **no_drops), batch())
    assert found == pytest.approx(base_loss(stock, batch(), settings=no_drops, target=velocity), abs=1e-5)


def test_training_lowers_the_loss_and_moves_only_the_adapter(build, batch):
    model = build(layout_drop=0.3)  # which is one of the three
    before = {name: x.clone() for name, x in model.named_parameters()}
    assert {name for name in trainable(model)} == {
        f"unet.{name}"
        for name, _ in model.unet.named_parameters()
        if is_adapter(name) and "null_text_feature" not in name
    }
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    model.train()
    assert not model.vae.training and not model.text_encoder_2.training and model.unet.training
    losses = []
    for _ in range(8):
        loss = model(batch())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0]
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    assert moved == set(trainable(model))


@pytest.mark.parametrize("settings", [{}, {"layers": "casa"}, {"boxes": False}, {"lora_rank": 2}], ids=str)
def test_gradients_are_the_same_with_checkpointing_and_reach_all_that_is_trained(settings, build, batch):
    gradients = []
    for checkpointing in (False, True):
        model = shake(build(gradient_checkpointing=checkpointing, layout_drop=0.3, **settings))
        model.train()(batch()).backward()
        gradients.append({name: x.grad for name, x in trainable(model).items()})
    assert all(x is not None and x.abs().max() > 0 for x in gradients[0].values())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_frozen_may_be_in_half_precision(dtype, build, batch):
    model, exact = shake(build(dtype=dtype), 0.05), shake(build(), 0.05)
    assert {x.dtype for x in trainable(model).values()} == {torch.float32}
    assert model.text_encoder.dtype == model.unet.dtype == getattr(torch, dtype)
    loss = model(batch())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(loss_of(exact, batch()), rel=0.02)
    assert all(x.grad.isfinite().all() for x in trainable(model).values() if x.grad is not None)
    one = batch(0)
    images = model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
    wanted = exact.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
    assert (images.float() - wanted.float()).abs().mean() < 8


def test_mixed_precision_from_outside_does_not_reach_the_frozen_encoders(build, batch):
    model = shake(build(), 0.05)
    seen = []
    model.text_encoder.register_forward_hook(lambda *x: seen.append(x[-1].last_hidden_state.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(batch()).backward()
    assert set(seen) == {torch.float32}


def test_an_autoencoder_that_overflows_stays_in_single_precision(tiny_sdxl, build, batch, tmp_path):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_sdxl / "vae")
    vae.register_to_config(force_upcast=True)
    vae.save_pretrained(tmp_path)  # a repository of an autoencoder alone
    model = build(vae=str(tmp_path), dtype="bfloat16")
    assert model.vae.dtype == torch.float32 and model.unet.dtype == torch.bfloat16
    one = batch(0)
    assert model(one).isfinite()
    assert model.sample(one.captions, one.layouts, one.seeds, height=32, width=48).shape == (1, 3, 32, 48)


def test_an_image_depends_on_its_own_seed_alone(build, batch):
    model, all_three = shake(build()), batch()
    together = model.sample(all_three.captions, all_three.layouts, all_three.seeds, height=32, width=48)
    for i in range(3):
        one = batch(i)
        alone = model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
        assert (alone.int() - together[i : i + 1].int()).abs().max() <= 1
    other = model.sample(all_three.captions[:1], all_three.layouts[:1], [99], height=32, width=48)
    assert (other.int() - together[:1].int()).abs().float().mean() > 5
    assert model.sample([], [], [], height=32, width=48).shape == (0, 3, 32, 48)


def test_sampling_leaves_the_model_as_it_was(build, batch):
    model, one = build(), batch(0)
    model.train()
    model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
    assert model.training and model.unet.training and not model.vae.training
    model.eval()
    model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
    assert not model.training


def test_samples_are_those_of_the_pipeline(build, batch):
    model, one = shake(build(negative_prompt="red", guidance_scale=3.0)), batch(0)
    found = model.sample(one.captions, one.layouts, [7], height=32, width=48)
    wanted = model.pipeline(
        one.captions,
        layouts=one.layouts,
        negative_prompt=["red"],
        guidance_scale=3.0,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(7),
        height=32,
        width=48,
        output_type="pt",
    ).images
    torch.testing.assert_close(found.float(), wanted * 255, rtol=0, atol=0.51)


def test_a_cache_changes_no_loss_and_saves_all_encoding(build, batch, tmp_path):
    plain, exact = shake(build()), []
    first = shake(build(cache=str(tmp_path), cache_latents=True))
    for model in (plain, first):
        exact.append(loss_of(model, batch()))
    second = shake(build(cache=str(tmp_path), cache_latents=True))

    def never(*_):
        raise AssertionError("what is cached is computed")

    for network in (second.text_encoder, second.text_encoder_2, second.vae.encoder):
        network.register_forward_hook(never)
    exact.append(loss_of(second, batch()))
    assert exact[0] == exact[1] == exact[2]
    assert second.cache is not None and second.cache.usage.made == 0 and second.cache.usage.read > 0
    assert first.cache is not None and first.cache.usage.made == second.cache.usage.read


@pytest.mark.parametrize("part", ["text_encoder_2", "vae"])
def test_features_of_other_weights_are_never_found(part, build, tiny_sdxl, batch, tmp_path):
    import shutil

    cache = {"cache": str(tmp_path / "cache"), "cache_latents": True}
    build(**cache)(batch())
    folder = tmp_path / "other"
    shutil.copytree(tiny_sdxl, folder)
    other = build(base=str(folder))
    network = getattr(other, part)
    with torch.no_grad():
        next(iter(network.parameters()))[0] += 1e-3
    network.save_pretrained(folder / part)
    changed = build(base=str(folder), **cache)
    loss = loss_of(changed, batch())
    assert changed.cache is not None and changed.cache.usage.made > 0
    assert loss == loss_of(build(base=str(folder)), batch())


def test_what_was_trained_is_opened_again(build, batch, tmp_path):
    model = shake(build(layers="casa", lora_rank=2), 0.1)
    weights = {name: x.detach().clone() for name, x in trainable(model).items()}
    assert any(".lora_A." in name for name in weights) and not any(".fuser." in n and "lora" in n for n in weights)
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    loss = loss_of(model, batch())
    resumed = build(layers="casa", lora_rank=2)
    load_trained(resumed, weights)
    assert loss_of(resumed, batch()) == loss
    begun = build(adapter=str(folder), lora_rank=2)
    assert loss_of(begun, batch()) == pytest.approx(loss, abs=1e-6) and begun.unet.regional_layers == "casa"
    merged = build(adapter=str(folder))  # without LoRA of its own
    assert loss_of(merged, batch()) == pytest.approx(loss, abs=1e-5) and len(trainable(merged)) < len(weights)


def test_an_adapter_alone_is_opened_as_a_model_and_as_a_pipeline(build, tiny_sdxl, batch, tmp_path):
    model, one = shake(build(boxes=False)), batch(0)
    save_adapter(model.unet, tmp_path)
    assert loss_of(build(adapter=str(tmp_path)), batch()) == loss_of(model, batch())
    pipeline = RichContextPipeline.from_pretrained(tiny_sdxl, adapter=tmp_path)
    found = pipeline(
        one.captions,
        layouts=one.layouts,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(one.seeds[0]),
        height=32,
        width=48,
        output_type="pt",
    ).images
    wanted = model.sample(one.captions, one.layouts, one.seeds, height=32, width=48)
    torch.testing.assert_close(found * 255, wanted.float(), rtol=0, atol=0.51)


def test_options_of_the_loss_are_used(build, batch):
    plain = loss_of(build(), batch())
    assert loss_of(build(snr_gamma=1.0), batch()) < plain
    assert loss_of(build(noise_offset=0.5), batch()) != pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dtype": "half"}, ValueError, "dtype must be one of float32, bfloat16, float16, got 'half'"),
        ({"layers": "cca"}, ValueError, "layers must be one of ca, casa"),
        (
            {"base": "nobody/nothing"},
            MissingWeights,
            "nobody/nothing at revision main with model_index.json.*text_encoder_2/model.safetensors.*hf download",
        ),
        ({"unet": "nobody/nothing"}, MissingWeights, "unet/config.json, unet/diffusion_pytorch_model.safetensors"),
        ({"adapter": "nobody/nothing"}, MissingWeights, "the weights nobody/nothing .* are not on this machine"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_what_is_not_there_is_said_before_anything_is_read(settings, error, message, build, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(error, match=message):
        build(**settings)


def test_an_adapter_of_another_base_is_refused_with_what_differs(build, tiny_sd15, tmp_path):
    from scenewright.layout_models.rich_context_sd15 import RichContextSD15

    save_adapter(RichContextSD15(base=str(tiny_sd15), dtype="float32").unet, tmp_path)
    with pytest.raises(CheckpointError, match="for another base; of .* tensors .* missing: .*fuser"):
        build(adapter=str(tmp_path))


def test_a_base_that_is_another_network_is_refused(build, tiny_sdxl, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_sdxl, tmp_path / "other")
    config = tmp_path / "other" / "unet" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "block_out_channels": [16, 64]}))
    with pytest.raises(CheckpointError, match="tensors of UNet2DConditionModel are not in|cannot be loaded"):
        build(base=str(tmp_path / "other"))


def test_images_of_odd_sizes_are_refused(build, batch):
    from dataclasses import replace

    images = batch().images[:, :, :, :44]
    with pytest.raises(ValueError, match="height and width of images must be multiples of 8, got 32 and 44"):
        build()(replace(batch(), images=images))


def test_as_many_seeds_as_captions_are_asked_for(build, layouts):
    with pytest.raises(ValueError, match="must be as many, got 1, 3 and 2"):
        build().sample(["a"], layouts, [1, 2], height=32, width=32)
