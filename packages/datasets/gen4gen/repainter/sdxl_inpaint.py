"""SDXL's inpainting: paints a new surrounding for pasted things, starting from a photo.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.3; Podell et al. 2023, "SDXL", arXiv 2307.01952.
Weights: ``diffusers/stable-diffusion-xl-1.0-inpainting-0.1`` and ``stabilityai/stable-diffusion-xl-refiner-1.0``
(both CreativeML Open RAIL++-M).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.datasets.gen4gen.backgrounds import NEGATIVE_PROMPT
from scenewright.datasets.gen4gen.records import RepaintJob
from scenewright.datasets.gen4gen.repainter.preparing import (
    background_of,
    pasted_back,
    precomposite,
    precomposite_compat,
    repaint_mask,
)
from scenewright.datasets.gen4gen.repainter.sdxl_parts import REFINER, load_pipeline, sdxl_checkpoint
from scenewright.layout import Image

_PRESERVE = ("pixel", "latent", "none")
_CELL = 8  # pixels that a latent stands for
_REMEMBERED = 64  # prompts


class SDXLInpaint:
    """Repaints what is not a pasted thing, at the size of its canvas.

    A job's image depends on its own seed alone; jobs that are painted together differ by rounding at most. Runs on the
    GPU that this process uses, if there is one, else on the CPU.

    Args:
        checkpoint: a folder or hub id in diffusers' layout; a UNet of 9 channels, or of 4 of any SDXL.
        variant: of the files: "fp16", or null for those without such a name.
        num_inference_steps: of the whole way from noise; ``strength`` of them are made.
        strength: how much noise the start gets; 1 forgets the photo.
        negative_prompt: what to steer away from; null for the reference's list.
        blur: of the things' masks, a box's radius in pixels: so far within their edges painting begins.
        background_blur: of the photo, a standard deviation in pixels.
        preserve_foreground: "pixel" puts the things back after painting, so that they keep every value; "latent"
            puts their latents back after each step, which keeps them as well as the autoencoder can; "none" only
            shows them to the model, which changes them.
        feather: pixels within the things' edges over which painted and pasted change over, with "pixel".
        refiner: a folder or hub id of SDXL's refiner, which makes the last steps anew; null for none.
        refiner_strength: the share of steps that it makes.
        compat: the photo squashed, not cropped, and the larger of both values at each place, as in the reference.
        batch_size: jobs that are painted together, if their canvases have one size.
        dtype: of the networks; on a CPU float32 is the fastest.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        checkpoint: str = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        revision: str = "115134f363124c53c7d878647567d04daf26e41e",
        variant: str | None = "fp16",
        num_inference_steps: int = 60,
        strength: float = 0.9,
        guidance_scale: float = 6.0,
        negative_prompt: str | None = None,
        blur: float = 5.0,
        background_blur: float = 1.0,
        preserve_foreground: str = "pixel",
        feather: float = 6.0,
        refiner: str | None = None,
        refiner_revision: str = "5d4cfe854c9a9a87939ff3653551c2b3c99a4356",
        refiner_strength: float = 0.25,
        compat: bool = False,
        batch_size: int = 4,
        dtype: str = "float16",
    ) -> None:
        if preserve_foreground not in _PRESERVE:
            raise ValueError(f"preserve_foreground must be one of {', '.join(_PRESERVE)}, got {preserve_foreground!r}")
        for name, value in (("strength", strength), ("refiner_strength", refiner_strength)):
            if not 0 < value <= 1 or int(num_inference_steps * value) < 1:
                raise ValueError(
                    f"{name} must be at most 1 and leave a step of {num_inference_steps} to make, got {value}"
                )
        self.checkpoint, self.revision, self.variant = checkpoint, revision, variant
        self.num_inference_steps, self.strength, self.guidance_scale = num_inference_steps, strength, guidance_scale
        self.negative_prompt = NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
        self.blur, self.background_blur = blur, background_blur
        self.preserve_foreground, self.feather = preserve_foreground, feather
        self.refiner, self.refiner_revision, self.refiner_strength = refiner, refiner_revision, refiner_strength
        self.compat, self.batch_size, self.dtype = compat, batch_size, dtype
        self._features: OrderedDict[tuple[str, str], tuple[Tensor, Tensor]] = OrderedDict()

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What must be there."""
        found = [sdxl_checkpoint(self.checkpoint, self.revision, self.variant)]
        if self.refiner:
            found.append(sdxl_checkpoint(self.refiner, self.refiner_revision, self.variant, REFINER))
        return found

    def repaint(self, jobs: Sequence[RepaintJob]) -> list[Image]:
        """One image per job, in order, of its canvas's size and where its canvas is.

        Raises:
            CheckpointError: the weights are not there, or not such a pipeline's.
        """
        return in_batches(
            self._paint, list(jobs), self.batch_size, alike=lambda job: tuple(job.composition.alpha.shape)
        )

    @torch.inference_mode()
    def _paint(self, jobs: list[RepaintJob]) -> list[Image]:
        pipeline = self._pipeline.to(_device(jobs[0]))
        starts, masks = zip(*(self._start(job) for job in jobs), strict=True)
        mask = torch.stack(masks)
        given = self._given(jobs, mask, pipeline.device)
        painted = self._run(pipeline, "base", jobs, torch.stack(starts), given, self.strength)
        if self.refiner:
            refiner = self._refiner.to(pipeline.device)
            painted = self._run(refiner, "refiner", jobs, painted, given, self.refiner_strength)
        height, width = jobs[0].composition.alpha.shape
        images = (painted * 255).round().to(torch.uint8)[:, :, :height, :width].cpu()
        if self.preserve_foreground == "pixel":
            images = [pasted_back(job.composition, x, self.feather) for job, x in zip(jobs, images, strict=True)]
        return [x.contiguous().to(job.composition.image.device) for job, x in zip(jobs, images, strict=True)]

    def _start(self, job: RepaintJob) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """The first composite and the mask of where to paint, in [0, 1], with sides that are multiples of 8."""
        background = background_of(job, self.background_blur, self.compat)
        mask = repaint_mask(job.composition.alpha, self.blur)
        if self.compat:
            image = precomposite_compat(job.composition, background, mask)
        else:
            image = precomposite(job.composition, background)
        return _padded(image / 255), _padded(torch.from_numpy(mask)[None] / 255)

    def _given(self, jobs: list[RepaintJob], mask: Float[Tensor, "b 1 h w"], device: torch.device) -> dict[str, Any]:
        """What base and refiner are both told."""
        return {
            "mask_image": mask,
            "height": mask.shape[2],
            "width": mask.shape[3],
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            # drawn on the CPU, the same numbers on each device
            "generator": [torch.Generator().manual_seed(job.seed) for job in jobs],
            "output_type": "pt",
        }

    def _run(
        self,
        pipeline: Any,
        name: str,
        jobs: list[RepaintJob],
        images: Float[Tensor, "b 3 h w"],
        given: dict[str, Any],
        strength: float,
    ) -> Float[Tensor, "b 3 h w"]:
        texts = self._encoded(pipeline, name, [*(job.prompt for job in jobs), *([self.negative_prompt] * len(jobs))])
        (features, pooled), n = texts, len(jobs)
        told: dict[str, Any] = {"prompt_embeds": features[:n], "pooled_prompt_embeds": pooled[:n]}
        told |= {"negative_prompt_embeds": features[n:], "negative_pooled_prompt_embeds": pooled[n:]}
        if self.preserve_foreground == "latent" and pipeline.unet.config.in_channels != 4:  # those of 4 do it anyway
            told["callback_on_step_end"] = _latents_kept(pipeline, images, [job.seed for job in jobs])
            told["callback_on_step_end_tensor_inputs"] = ["latents", "mask"]
        return pipeline(image=images, strength=strength, **told, **given).images.float()

    def _encoded(self, pipeline: Any, name: str, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features of each text, and pooled ones; each text is encoded once, alone."""
        found = []
        for text in texts:
            key = name, text
            if key not in self._features:
                features, _, pooled, _ = pipeline.encode_prompt(
                    text, device=pipeline.device, do_classifier_free_guidance=False
                )
                self._features[key] = features.cpu(), pooled.cpu()
            self._features.move_to_end(key)
            found.append(self._features[key])
        while len(self._features) > _REMEMBERED:
            self._features.popitem(last=False)
        features, pooled = (torch.cat(x).to(pipeline.device) for x in zip(*found, strict=True))
        return features, pooled

    @cached_property
    def _pipeline(self) -> Any:
        return load_pipeline(self.checkpoints[0], self.variant, self.dtype)

    @cached_property
    def _refiner(self) -> Any:
        base = self._pipeline
        shared = {"text_encoder": None, "tokenizer": None, "text_encoder_2": base.text_encoder_2, "vae": base.vae}
        return load_pipeline(self.checkpoints[1], self.variant, self.dtype, **shared)


def _device(job: RepaintJob) -> torch.device:
    device = job.composition.image.device
    return torch.device("cuda") if device.type == "cpu" and torch.cuda.is_available() else device


def _padded(planes: Float[Tensor, "c h w"]) -> Float[Tensor, "c _h _w"]:
    """Planes whose last row and column are repeated until the sides are multiples of 8."""
    height, width = planes.shape[1:]
    return pad(planes[None], (0, -width % _CELL, 0, -height % _CELL), mode="replicate")[0]


def _latents_kept(pipeline: Any, images: Float[Tensor, "b 3 h w"], seeds: Sequence[int]) -> Callable[..., dict]:
    """A callback for the pipeline's steps: where nothing is to be painted, latents are the images' own, noised."""
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # the pipeline draws the same two
    pixels = pipeline.image_processor.preprocess(images).to(pipeline.device, pipeline.unet.dtype)
    known = pipeline._encode_vae_image(pixels, generators)
    noise = randn_tensor(known.shape, generators, device=known.device, dtype=known.dtype)

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents, paint = tensors["latents"], tensors["mask"][: len(known)]
        timesteps = pipe.scheduler.timesteps
        index = int((timesteps == timestep).nonzero()[0]) + 1
        own = known
        if index < len(timesteps):
            own = pipe.scheduler.add_noise(known, noise, timesteps[index : index + 1])
        return {"latents": paint * latents + (1 - paint) * own}

    return keep
