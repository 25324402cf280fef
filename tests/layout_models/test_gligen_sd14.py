"""GLIGEN on Stable Diffusion 1.4: what diffusers makes of the same weights, and training from a plain base."""

import warnings
from typing import Any

import pytest
import torch

from scenewright.layout import Batch, Frame, Layout
from scenewright.layout_models.gligen_sd14 import GLIGENSD14
from scenewright.layout_models.instance_diffusion.attach import adapter_parameters
from scenewright.layout_models.training import trainable

BOXES, LABELS = [[0.0, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 1.0]], ["cat", "red dog"]


@pytest.fixture(scope="module")
def folder(tiny_sd15, tmp_path_factory):
    """A pipeline as GLIGEN's is published: its UNet has diffusers' own layers, here with open gates."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd15, safety_checker=None)
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "attention_type": "gated"})
    unet.load_state_dict(pipe.unet.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in adapter_parameters(unet).items():
            parameter += 0.5 if "alpha_" in name else 0.3 * torch.randn(parameter.shape)
    components = {**pipe.components, "unet": unet}
    path = tmp_path_factory.mktemp("gligen")
    StableDiffusionPipeline(**components, requires_safety_checker=False).save_pretrained(path)
    return path


def build(base: Any, **settings: Any) -> GLIGENSD14:
    torch.manual_seed(3)
    given = {"base": str(base), "dtype": "float32", "num_inference_steps": 3, "alpha": (1.0, 0.0, 0.0)}
    return GLIGENSD14(**{**given, "gradient_checkpointing": False, **settings})


@pytest.fixture(scope="module")
def theirs(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from diffusers import StableDiffusionGLIGENPipeline

        pipe = StableDiffusionGLIGENPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pair() -> Batch:
    layout = Layout(torch.tensor(BOXES), LABELS, captions=["a red cat", ""])
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = [Frame((32, 48), (0, 0))] * 2
    return Batch(images=images, captions=["a", "dog"], layouts=[layout, Layout.empty()], frames=frames, seeds=[7, 8])


@pytest.mark.parametrize(("guidance_scale", "negative"), [(7.5, "re"), (1.0, None)])
def test_images_are_those_of_the_pipeline_of_diffusers(guidance_scale, negative, folder, theirs):
    model = build(folder, guidance_scale=guidance_scale, negative_prompt=negative)
    assert not model.untrained
    found = model.sample(["a red cat"], [Layout(torch.tensor(BOXES), LABELS)], [7], height=32, width=48)
    wanted = theirs(
        "a red cat",
        height=32,
        width=48,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        negative_prompt=negative,
        gligen_boxes=BOXES,
        gligen_phrases=LABELS,
        gligen_scheduled_sampling_beta=1.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert (found.int() - (wanted * 255).round().int()).abs().max() <= 1
    plain = model.sample(["a red cat"], [Layout.empty()], [7], height=32, width=48)
    assert (plain.int() - found.int()).abs().max() > 4


def test_one_prediction_is_that_of_the_unet_of_diffusers(folder, theirs):
    model = build(folder)
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, _ = model.text.encode_captions(["a red cat"])
        places = [model._locate(Layout(torch.tensor(BOXES), LABELS), 0, 32, 48)]
        tokens = model.tokens(places, [LABELS], torch.ones(1, 4, dtype=torch.bool))
        found = model.predict(latents, 500, features, tokens)
        inputs = theirs.tokenizer(LABELS, padding=True, return_tensors="pt")
        text = theirs.text_encoder(**inputs).pooler_output
        padded = [torch.nn.functional.pad(x, (0, 0, 0, 28))[None] for x in (torch.tensor(BOXES), text)]
        gligen = {"boxes": padded[0], "positive_embeddings": padded[1], "masks": (torch.arange(30) < 2)[None].float()}
        wanted = theirs.unet(latents, 500, features, cross_attention_kwargs={"gligen": gligen}).sample
        ungrounded = theirs.unet(latents, 500, features).sample
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - ungrounded).abs().max() > 0.01


@pytest.mark.parametrize("packed", [True, False])
def test_new_layers_on_a_plain_base_learn_and_nothing_else_does(packed, tiny_sd15, pair):
    model = build(tiny_sd15, packed=packed, gradient_checkpointing=True)
    assert model.untrained
    before = {name: x.clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model.train()(pair)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.99 * losses[0]
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    assert (
        moved
        == set(trainable(model))
        == {f"unet.{name}" for name in adapter_parameters(model.unet)}
        - ({name for name in before if packed and ".null_" in name})
    )


def test_a_training_that_began_with_published_layers_is_found_again(folder, pair, tmp_path):
    from safetensors.torch import save_file

    model = build(folder)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.1
    save_file({name: x.detach() for name, x in trainable(model).items()}, tmp_path / "trained.safetensors")
    again, first = build(folder, weights=str(tmp_path / "trained.safetensors")), build(folder)
    wanted, found, other = (
        x.sample(pair.captions, pair.layouts, pair.seeds, height=32, width=48) for x in (model, again, first)
    )
    assert torch.equal(wanted, found) and not torch.equal(wanted, other)


@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_an_image_depends_on_its_own_seed_alone_however_crowded_the_others_are(packed, folder, pair):
    crowd = Layout(torch.rand(40, 2).repeat(1, 2) / 2 + torch.tensor([0, 0, 0.2, 0.2]), ["dog"] * 40)
    layouts, model = [pair.layouts[0], crowd], build(folder, packed=packed)
    together = model.sample(pair.captions, layouts, pair.seeds, height=32, width=48).int()
    for i in range(2):
        alone = model.sample([pair.captions[i]], [layouts[i]], [pair.seeds[i]], height=32, width=48).int()
        assert (alone - together[i : i + 1]).abs().max() <= 1


def test_masks_and_scribbles_are_no_concern_of_it(folder, pair):
    model = build(folder)
    bare = pair.layouts[0]
    more = Layout(bare.boxes, bare.labels, bare.captions, points=torch.rand(2, 2), scribbles=[torch.rand(5, 2)] * 2)
    one, two = (model.sample(["a"], [x], [7], height=32, width=48) for x in (bare, more))
    assert torch.equal(one, two)
