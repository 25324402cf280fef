"""SDXL paints around things, each job as if it were alone, and gives the things back."""

import math

import pytest
import torch

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.datasets.gen4gen.repainter import sdxl_inpaint
from scenewright.datasets.gen4gen.repainter.preparing import background_of, precomposite, psnr_inside, repaint_mask
from scenewright.datasets.gen4gen.repainter.sdxl_inpaint import SDXLInpaint


@pytest.fixture
def build(tiny_inpainting):
    def built(**settings):
        given = {"checkpoint": str(tiny_inpainting), "variant": None, "dtype": "float32", "num_inference_steps": 4}
        return SDXLInpaint(**{**given, "blur": 1.0, "feather": 2.0, **settings})

    return built


@pytest.fixture
def calls(build, monkeypatch):
    """``calls(repainter, jobs)``: what the pipeline was called with."""

    def seen(repainter, jobs):
        found = []
        kind = type(repainter._pipeline)
        call = kind.__call__

        def spy(self, *args, **options):
            found.append(options | {"unet": self.unet.config.in_channels})
            return call(self, *args, **options)

        monkeypatch.setattr(kind, "__call__", spy)
        repainter.repaint(jobs)
        return found

    return seen


def apart(a, b):
    return max(int((x.int() - y.int()).abs().max()) for x, y in zip(a, b, strict=True))


def test_what_a_job_gets_does_not_depend_on_its_batch(build, job):
    jobs = [job(1), job(2), job(3, background=False), job(1)]
    together = build(batch_size=4).repaint(jobs)
    alone = [image for x in jobs for image in build(batch_size=1).repaint([x])]
    assert apart(together, alone) <= 1 and apart([together[0]], [together[3]]) <= 1
    assert apart([together[0]], [together[1]]) > 10
    assert apart(together[::-1], build(batch_size=2).repaint(jobs[::-1])) <= 1


def test_a_jobs_seed_alone_changes_what_is_painted(build, job):
    from dataclasses import replace

    one = job(1)
    same, other = build().repaint([one, replace(one, seed=9)])
    outside = one.composition.alpha == 0
    assert (same.int() - other.int()).abs()[:, outside].float().mean() > 1
    assert torch.equal(same, build().repaint([one])[0])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 81), (40, 96)])
def test_images_have_their_canvases_size_whatever_it_is(height, width, build, job):
    images = build().repaint([job(1, height=height, width=width), job(2)])
    assert [tuple(x.shape) for x in images] == [(3, height, width), (3, 64, 64)]
    assert all(x.dtype == torch.uint8 and x.is_contiguous() for x in images)


def test_things_keep_their_pixels_unless_nothing_is_preserved(build, job):
    one = job(1, height=96, width=96)
    noise = {
        x: psnr_inside(one.composition, build(preserve_foreground=x).repaint([one])[0], 4) for x in ("pixel", "none")
    }
    assert noise["pixel"] == math.inf and noise["none"] < 30


def test_kept_latents_are_those_of_the_first_composite(build, job):
    one = job(1, height=96, width=96)
    repainter = build(preserve_foreground="latent", blur=0.0, background_blur=0.0)
    pipeline = repainter._pipeline
    start = precomposite(one.composition, background_of(one, 0.0))
    with torch.no_grad():
        moments = pipeline.vae.encode(start[None] / 127.5 - 1).latent_dist
        latents = moments.sample(torch.Generator().manual_seed(one.seed))
    seen = []
    decode = pipeline.vae.decode
    pipeline.vae.decode = lambda x, **rest: seen.append(x) or decode(x, **rest)
    repainter.repaint([one])
    kept = torch.from_numpy(repaint_mask(one.composition.alpha, 0.0))[::8, ::8] < 128
    assert 5 < kept.sum() < kept.numel() - 5
    torch.testing.assert_close(seen[0][0][:, kept], latents[0][:, kept], rtol=0, atol=1e-4)
    assert (seen[0][0] - latents[0])[:, ~kept].abs().mean() > 0.1


def test_the_model_is_told_what_the_paper_says(job, tiny_inpainting, calls):
    repainter = SDXLInpaint(str(tiny_inpainting), variant=None, dtype="float32")
    (told,) = calls(repainter, [job(1)])
    assert (told["num_inference_steps"], told["strength"], told["guidance_scale"]) == (60, 0.9, 6.0)
    assert repainter.negative_prompt.startswith("semi-realistic, cgi, 3d")
    assert repainter._pipeline.num_timesteps == 54
    composition = job(1).composition
    mask = torch.from_numpy(repaint_mask(composition.alpha, 5.0))[None, None] / 255
    torch.testing.assert_close(told["mask_image"], mask)
    start = precomposite(composition, background_of(job(1), 1.0))
    torch.testing.assert_close(told["image"][0], start / 255)


def test_compat_starts_from_the_larger_of_both_values_over_a_squashed_photo(build, job, calls):
    (told,) = calls(build(compat=True), [job(1)])
    squashed = background_of(job(1), 1.0, compat=True)
    outside = job(1).composition.alpha == 0
    far = torch.from_numpy(repaint_mask(job(1).composition.alpha, 1.0) == 255) & outside
    torch.testing.assert_close(told["image"][0][:, far], squashed[:, far] / 255)


def test_a_prompt_is_encoded_once_and_as_by_diffusers(build, job, monkeypatch):
    repainter = build()
    pipeline, encoded = repainter._pipeline, []
    encode = pipeline.encode_prompt
    wanted = encode("a cat dog 1", device="cpu", negative_prompt=repainter.negative_prompt)
    monkeypatch.setattr(
        pipeline, "encode_prompt", lambda *x, **y: (encoded.append(x[0]) if x else None) or encode(*x, **y)
    )
    found = repainter._encoded(pipeline, "base", ["a cat dog 1", repainter.negative_prompt])
    for mine, theirs in ((found[0][0], wanted[0]), (found[0][1], wanted[1]), (found[1][0], wanted[2])):
        torch.testing.assert_close(mine, theirs[0])
    repainter.repaint([job(1), job(1), job(2)])
    repainter.repaint([job(2)])
    assert encoded == ["a cat dog 1", repainter.negative_prompt, "a cat dog 2"]


def test_only_some_prompts_are_remembered(build, monkeypatch):
    monkeypatch.setattr(sdxl_inpaint, "_REMEMBERED", 2)
    repainter = build()
    repainter._encoded(repainter._pipeline, "base", ["a", "b", "c"])
    assert [x for _, x in repainter._features] == ["b", "c"]


def test_the_refiner_makes_the_last_quarter_of_the_steps_from_a_noised_image(build, job, calls, tiny_refiner):
    settings = {"refiner": str(tiny_refiner), "num_inference_steps": 8, "preserve_foreground": "none"}
    repainter = build(**settings)
    base, refined = calls(repainter, [job(1), job(2)])
    assert (base["unet"], refined["unet"]) == (9, 4) and refined["strength"] == 0.25
    assert repainter._refiner.num_timesteps == 2 and "denoising_start" not in refined
    assert repainter._refiner.vae is repainter._pipeline.vae
    assert apart(repainter.repaint([job(1)]), build(**settings | {"refiner": None}).repaint([job(1)])) > 5
    together, alone = repainter.repaint([job(1), job(2)]), repainter.repaint([job(2)])
    assert apart(together[1:], alone) <= 1


def test_no_weights_are_loaded_before_they_are_needed_and_what_is_missing_is_named(tmp_path):
    repainter = SDXLInpaint(str(tmp_path), refiner="no/such-refiner")
    assert repainter.repaint([]) == []
    named = [x for checkpoint in repainter.checkpoints for x in checkpoint.files]
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in named and "text_encoder_2/model.fp16.safetensors" in named
    assert [x.name for x in repainter.checkpoints] == [str(tmp_path), "no/such-refiner"]
    with pytest.raises(MissingWeights, match=r"has no model_index.json"):
        repainter.checkpoints[0].check()


def test_another_networks_weights_are_refused(build, job, tiny_inpainting, tmp_path):
    import shutil

    broken = shutil.copytree(tiny_inpainting, tmp_path / "broken")
    shutil.copy(broken / "vae/diffusion_pytorch_model.safetensors", broken / "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="another network"):
        build(checkpoint=str(broken)).repaint([job(1)])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"preserve_foreground": "all"}, "preserve_foreground"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.5}, "strength"),
        ({"refiner_strength": 0.01}, "refiner_strength"),
    ],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        SDXLInpaint(**settings)
