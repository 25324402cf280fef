"""Layouts reach a stock pipeline: its loop, written out by hand, gives the same images."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.layout_models.rich_context.adapter import adapter_parameters, attention_grids
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.pipeline import (
    RichContextPipeline,
    RichContextSD15Pipeline,
    RichContextSDXLPipeline,
    build,
)
from scenewright.layout_models.rich_context.text import TextFeatures

HEIGHT, WIDTH = 32, 48
TWO = {"boxes": [[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 0.75]], "labels": ["red cat.", "dog"]}


def opened(folder):
    """A pipeline whose regional layers say something."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").exists() else StableDiffusionPipeline
    parts = {name: x for name, x in kind.from_pretrained(folder).components.items() if x is not None}
    with pytest.warns(UserWarning, match="no regional layers; new ones are attached, and layouts change nothing"):
        pipe = build(parts)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter_parameters(pipe.unet).values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(tiny_sdxl):
    return opened(tiny_sdxl)


@pytest.fixture(scope="module")
def stock(tiny_sdxl):
    from diffusers import StableDiffusionXLPipeline

    stock = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    return stock


def drawn(pipe, prompt="a red cat", seed=5, **options):
    given = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 4, "output_type": "latent"}
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, **{**given, "generator": generator, **options}).images


def by_hand(pipe, layout, *, caption=5.0, regional=None, beta=1.0, steps=4):
    """Euler's method, one image, each prediction alone."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    text, empty, pooled, no_pooled = pipe.encode_prompt("a red cat")
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=torch.float32)
    grids = attention_grids(pipe.unet, HEIGHT // 8, WIDTH // 8)
    features = TextFeatures.of(pipe)
    whole = canvas(layout, HEIGHT, WIDTH, grids, features.labels)
    told, gone = (ground([x], features.encode_labels, grids, dropped=[x is None]) for x in (whole, None))
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(5)) * scheduler.init_noise_sigma
    for number, (timestep, sigma, following) in enumerate(
        zip(scheduler.timesteps, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True)
    ):

        def predict(embeds, pooled, grounding, at=timestep, sigma=sigma, now=latents, on=number < beta * steps):
            return pipe.unet(
                now / (sigma**2 + 1).sqrt(),
                at,
                embeds,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
                cross_attention_kwargs={"gligen": {"grounding": grounding}} if on else None,
            ).sample

        with torch.no_grad():
            free, given = predict(empty, no_pooled, gone), predict(text, pooled, told)
            noise = free + caption * (given - free)
            if regional is not None:
                alone = predict(text, pooled, gone)
                noise = free + caption * (alone - free) + regional * (given - alone)
        latents = latents + (following - sigma) * noise
    return latents


LAYOUT = Layout(boxes=torch.tensor(TWO["boxes"], dtype=torch.float32), labels=TWO["labels"])


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.25])
def test_the_loop_by_hand_gives_the_same(beta, pipe):
    found = drawn(pipe, layouts=LAYOUT, scheduled_sampling_beta=beta)
    torch.testing.assert_close(found, by_hand(pipe, LAYOUT, beta=beta), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("caption", "regional", "beta"), [(5.0, 2.0, 1.0), (2.0, 6.0, 1.0), (5.0, 0.0, 0.5)])
def test_guidance_by_caption_and_layout_apart_is_its_formula(caption, regional, beta, pipe):
    options = {"guidance_scale": caption, "layout_guidance_scale": regional, "scheduled_sampling_beta": beta}
    found = drawn(pipe, layouts=LAYOUT, **options)
    wanted = by_hand(pipe, LAYOUT, caption=caption, regional=regional, beta=beta)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_guidance_by_both_alike_is_guidance_by_both_together(pipe):
    together = drawn(pipe, layouts=LAYOUT, guidance_scale=3.0)
    assert torch.equal(drawn(pipe, layouts=LAYOUT, guidance_scale=3.0, layout_guidance_scale=3.0), together)
    torch.testing.assert_close(by_hand(pipe, LAYOUT, caption=3.0, regional=3.0), together, rtol=1e-4, atol=1e-4)
    nearly = drawn(pipe, layouts=LAYOUT, guidance_scale=3.0, layout_guidance_scale=3.0 + 1e-6)
    torch.testing.assert_close(nearly, together, rtol=1e-3, atol=1e-3)


def test_a_layout_is_guided_by_where_the_caption_is_not(pipe):
    plain = drawn(pipe, layouts=LAYOUT, guidance_scale=1.0)
    assert torch.equal(drawn(pipe, layouts=LAYOUT, guidance_scale=1.0, layout_guidance_scale=1.0), plain)
    found = drawn(pipe, layouts=LAYOUT, guidance_scale=1.0, layout_guidance_scale=4.0)
    assert not torch.allclose(found, plain, atol=0.1)
    wanted = by_hand(pipe, LAYOUT, caption=1.0, regional=4.0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layouts": Layout.empty()},
        {"layouts": [None]},
        {"layouts": {"boxes": [], "labels": []}},
        {"boxes": np.zeros((0, 4)), "labels": []},
        {"layouts": TWO, "scheduled_sampling_beta": 0.0},
        {"boxes": [[60, 0, 70, 9]], "labels": ["a dog outside"]},
    ],
    ids=["nothing", "empty", "none", "empty mapping", "no boxes", "beta 0", "all outside"],
)
def test_without_a_layout_the_base_draws_bit_for_bit(options, pipe, stock):
    assert torch.equal(drawn(pipe, **options), drawn(stock))


def test_each_prompt_has_its_own_layout(pipe):
    prompts, layouts = ["a red cat", "dog", "a"], [TWO, None, {"boxes": [[0, 0, 1, 1]], "labels": ["cat"]}]
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    together = drawn(pipe, prompts, layouts=layouts, generator=seeds)
    for i in range(3):
        alone = drawn(pipe, prompts[i], seed=i, layouts=[layouts[i]])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_several_images_of_a_prompt_share_its_layout(pipe):
    seeds = [torch.Generator().manual_seed(i) for i in range(4)]
    found = drawn(pipe, ["cat", "dog"], layouts=[TWO, None], generator=seeds, num_images_per_prompt=2)
    alone = drawn(pipe, "cat", seed=1, layouts=TWO)
    torch.testing.assert_close(found[1:2], alone, rtol=1e-4, atol=1e-4)
    bare = drawn(pipe, "dog", seed=2)
    torch.testing.assert_close(found[2:3], bare, rtol=1e-4, atol=1e-4)


def test_pixels_fractions_lists_and_arrays_are_one_layout(pipe):
    pixels = [[0, 0, 24, 16], [12, 8, 48, 24]]
    wanted = drawn(pipe, layouts=[LAYOUT], num_inference_steps=1)
    for boxes in (pixels, np.array(pixels), np.array(pixels, dtype=np.int16), torch.tensor(pixels)):
        assert torch.equal(drawn(pipe, boxes=boxes, labels=TWO["labels"], num_inference_steps=1), wanted)
    assert torch.equal(drawn(pipe, layouts=TWO, num_inference_steps=1), wanted)
    captioned = {**TWO, "labels": ["x", "y"], "captions": TWO["labels"]}
    assert torch.equal(drawn(pipe, layouts=captioned, num_inference_steps=1), wanted)


def test_what_hangs_over_the_edge_is_cut_and_counted(pipe, caplog):
    over = {"boxes": [[-0.5, 0, 0.5, 0.5], [0.25, 0.25, 3, 0.75], [1.0, 0, 2, 1]], "labels": [*TWO["labels"], "cat"]}
    assert torch.equal(drawn(pipe, layouts=over), drawn(pipe, layouts=TWO))
    assert "2 boxes reach over the edge of the canvas and were cut, 1 lie outside" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": [[0, 0, 8, 8]], "labels": ["a", "b"]}, r"labels must have one entry per box \(1\), got 2"),
        ({"boxes": [[0, 0, 8, 8]]}, "boxes and labels belong together, got boxes alone"),
        ({"labels": ["a"]}, "got labels alone"),
        ({"boxes": [[0, 0, 8, 8]], "labels": ["a"], "layouts": TWO}, "either layouts or boxes and labels .* got both"),
        ({"boxes": [0, 0, 8, 8], "labels": ["a"]}, r"boxes must have shape \(n, 4\), got \(4,\)"),
        ({"boxes": [[0, 0, 8, float("nan")]], "labels": ["a"]}, r"boxes\[0\] must be finite"),
        ({"boxes": [[0, 0, 1, 1], [9, 0, 3, 8]], "labels": ["a", "b"]}, r"boxes\[1\] must be x_min y_min x_max y_max"),
        (
            {"layouts": {"boxes": [[0, 0, 1, 1]], "labels": []}},
            r"layouts\[0\]: labels must have one entry per box \(1\)",
        ),
        ({"layouts": {"boxes": [[0, 0, 1, 1]]}}, r"layouts\[0\] must be a Layout or a mapping with boxes and labels"),
        ({"layouts": [TWO, TWO]}, r"layouts must have one entry per prompt \(1\), got 2"),
        ({"layouts": TWO, "height": 36}, "height and width must be multiples of 8, got 36 and 48"),
        ({"layouts": TWO, "scheduled_sampling_beta": 1.5}, r"scheduled_sampling_beta must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, pipe):
    with pytest.raises(ValueError, match=message):
        drawn(pipe, **options)


def test_three_hundred_objects_and_labels_of_five_hundred_words_are_drawn(pipe):
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, 2, generator=random).sort(1).values.flatten(1)
    assert drawn(pipe, layouts=Layout(boxes=corners, labels=["cat"] * 300), num_inference_steps=1).isfinite().all()
    assert drawn(pipe, layouts={**TWO, "labels": ["red " * 500, ""]}, num_inference_steps=1).isfinite().all()


def test_a_callers_callback_and_settings_are_used_and_left_alone(pipe):
    seen, settings = [], {"scale": 1.0}

    def callback(pipe, step, timestep, tensors):
        seen.append((step, sorted(tensors)))
        return {"latents": tensors["latents"] * 0.5}

    found = drawn(
        pipe,
        layouts=TWO,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        cross_attention_kwargs=settings,
        scheduled_sampling_beta=0.5,
    )
    assert seen == [(i, ["latents", "prompt_embeds"]) for i in range(4)] and settings == {"scale": 1.0}
    assert pipe.cross_attention_kwargs is settings and not pipe.unet._forward_hooks and not pipe.unet._forward_pre_hooks
    assert found.abs().max() < drawn(pipe, layouts=TWO, scheduled_sampling_beta=0.5).abs().max()


@pytest.mark.parametrize("layout_guidance_scale", [None, 2.0])
def test_a_callback_may_end_guidance(layout_guidance_scale, pipe):
    from diffusers.callbacks import SDXLCFGCutoffCallback

    callback = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    options = {"layouts": TWO, "layout_guidance_scale": layout_guidance_scale}
    found = drawn(pipe, callback_on_step_end=callback, **options)
    assert found.isfinite().all() and not torch.allclose(found, drawn(pipe, **options), atol=1e-2)


def test_lora_is_scaled_as_the_caller_says(tiny_sdxl):
    from peft import LoraConfig

    pipe = opened(tiny_sdxl)
    plain = drawn(pipe, layouts=TWO)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=r".*\.attn2\.to_v"))
    for name, parameter in pipe.unet.named_parameters():
        if ".lora_" in name:
            parameter.data.fill_(0.3)  # its own start does nothing
    scaled = drawn(pipe, layouts=TWO, cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(drawn(pipe, layouts=TWO), plain, atol=1e-3)


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    KINDS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, kind, types, args=(), kwargs=None):
        self.count += kind._schema.name.removeprefix("aten::") in self.KINDS
        return kind(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout_guidance_scale", [None, 2.0])
def test_no_step_waits_for_the_device_because_of_a_layout(layout_guidance_scale, pipe, stock):
    counts = []
    for one, options in ((stock, {}), (pipe, {"layouts": TWO, "layout_guidance_scale": layout_guidance_scale})):
        per_steps = []
        for steps in (1, 3):
            with Waits() as waits:
                drawn(one, num_inference_steps=steps, **options)
            per_steps.append(waits.count)
        counts.append(per_steps[1] - per_steps[0])
    assert counts[0] == counts[1]


def test_saved_and_opened_it_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = RichContextPipeline.from_pretrained(tmp_path)
    assert isinstance(again, RichContextSDXLPipeline)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again, layouts=TWO), drawn(pipe, layouts=TWO))


@pytest.mark.parametrize("sharded", [False, True])
def test_the_layout_of_the_released_weights_is_opened(sharded, pipe, tiny_sdxl, tmp_path, caplog):
    import shutil

    folder = tmp_path / "released"
    shutil.copytree(tiny_sdxl, folder)
    shutil.rmtree(folder / "unet")
    pipe.unet.save_pretrained(folder / "unet", max_shard_size="100KB" if sharded else "10GB")
    assert sharded == (len(list((folder / "unet").glob("*.safetensors"))) > 1)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"attention_type": "regional", "fuser_cls": "some.Layer", "position_net_cls": "some.Encoder"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["a_module_of_theirs", "UNet2DConditionModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    again = RichContextPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again, layouts=TWO), drawn(pipe, layouts=TWO))
    assert "not expected" not in caplog.text


def test_a_pipeline_may_be_in_half_precision(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = RichContextPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert {x.dtype for x in half.unet.parameters()} == {torch.bfloat16}
    images = drawn(half, layouts=TWO, output_type="pt")
    assert images.shape == (1, 3, HEIGHT, WIDTH) and images.isfinite().all()


def test_a_variant_is_opened_whole(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    again = RichContextPipeline.from_pretrained(tmp_path, variant="fp16")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again, layouts=TWO), drawn(pipe, layouts=TWO))


@pytest.mark.parametrize(
    ("option", "message"), [("local_files_only", "set HF_HUB_OFFLINE=1"), ("shceduler", "parts are .*scheduler")]
)
def test_what_a_pipeline_cannot_be_told_is_refused(option, message, tmp_path):
    with pytest.raises(TypeError, match=f"from_pretrained does not take {option}: {message}"):
        RichContextPipeline.from_pretrained(tmp_path, **{option: True})


def test_a_training_run_is_opened_with_its_average(pipe, tiny_sdxl, tmp_path):
    step = tmp_path / "run" / "checkpoints" / "step-00000002"
    step.mkdir(parents=True)
    own = adapter_parameters(pipe.unet)
    trained = {f"unet.{k}": x.detach() for k, x in own.items() if not k.endswith("null_text_feature")}
    save_file({k: torch.zeros_like(x) for k, x in trained.items()}, step / "weights.safetensors")
    save_file(trained, step / "ema.safetensors")
    files = {x.name: x.stat().st_size for x in step.iterdir()}
    (step / "checkpoint.json").write_text(json.dumps({"step": 2, "files": files}))
    again = RichContextPipeline.from_pretrained(tiny_sdxl, adapter=tmp_path / "run")
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(drawn(again, layouts=TWO), drawn(pipe, layouts=TWO), rtol=0, atol=1e-6)


def test_it_is_pushed_to_a_hub_as_it_is_saved(pipe, monkeypatch):
    from diffusers.pipelines import pipeline_utils

    pushed = {}

    def upload(self, folder, repo_id, **_):
        pushed[repo_id] = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")

    class Created:
        repo_id = "somebody/layouts"

    monkeypatch.setattr(pipeline_utils, "create_repo", lambda *_, **__: Created)
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", lambda *_, **__: Created)
    monkeypatch.setattr("diffusers.utils.hub_utils.load_or_create_model_card", lambda *_, **__: None)
    monkeypatch.setattr("diffusers.utils.hub_utils.populate_model_card", lambda *_, **__: type("", (), {"save": id}))
    monkeypatch.setattr(type(pipe), "_upload_folder", upload)
    pipe.push_to_hub("somebody/layouts")
    assert "position_net.linears.0.weight" in pushed["somebody/layouts"]


def test_a_pipeline_without_regional_layers_says_how_to_name_them(tiny_sdxl):
    with pytest.raises(
        CheckpointError, match="holds no regional layers.*adapter=a folder, file, training run or hub id"
    ):
        RichContextPipeline.from_pretrained(tiny_sdxl)


def test_an_adapter_of_another_base_is_refused(pipe, tiny_sd15, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="for another base; .* are missing: .* are not of this base: "):
        RichContextPipeline.from_pretrained(tiny_sd15, adapter=tmp_path)


@pytest.mark.parametrize("adapter", [None, "nobody/nothing"])
def test_what_is_not_there_is_said_in_one_paragraph(adapter, tiny_sdxl, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"(?s)^[^\n]*nobody/nothing[^\n]*hf download[^\n]*$"):
        RichContextPipeline.from_pretrained("nobody/nothing" if adapter is None else tiny_sdxl, adapter=adapter)


def test_stable_diffusion_1_5_is_another_pipeline_of_the_same_kind(tiny_sd15, tmp_path):
    pipe = opened(tiny_sd15)
    assert isinstance(pipe, RichContextSD15Pipeline)
    pipe.save_pretrained(tmp_path)
    again = RichContextPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    found = drawn(again, ["cat", "dog"], layouts=[TWO, None], layout_guidance_scale=3.0, output_type="np")
    assert found.shape == (2, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(
        found, drawn(pipe, ["cat", "dog"], layouts=[TWO, None], layout_guidance_scale=3.0, output_type="np")
    )
