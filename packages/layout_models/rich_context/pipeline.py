"""Layouts to images with the manners of diffusers: its own pipelines, which are handed a grounding.

The denoising loop is the stock one: layouts reach the UNet through ``cross_attention_kwargs``, and what
changes from step to step through the stock callback and the UNet's hooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.layout_models.rich_context.adapter import attach, attention_grids, load_adapter
from scenewright.layout_models.rich_context.components import StableDiffusion, merge_lora, read_adapter
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding
from scenewright.layout_models.rich_context.requests import Request, read_layouts
from scenewright.layout_models.rich_context.text import TextFeatures


class RichContextPipeline:
    """Stable Diffusion (1.5 or XL) that draws each object in its box, as its label says.

    Source: Cheng et al. 2024, arXiv 2409.04847; guidance by caption and layout apart: Brooks et al. 2023, arXiv
    2211.09800, section 3.2.1; layouts in the first steps only: Li et al. 2023, arXiv 2301.07093, section 4.
    """

    #: Regions and their texts as the released code has them, defects included.
    compat = False

    #: Where label features come from; the pipeline's own text encoders if not set.
    label_features: TextFeatures | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        adapter: str | Path | None = None,
        adapter_revision: str = "main",
        revision: str = "main",
        variant: str | None = None,
        torch_dtype: torch.dtype | None = None,
        **parts: Any,
    ) -> Any:
        """Open a pipeline: Stable Diffusion 1.5 or XL, whichever it is.

        Args:
            pretrained_model_name_or_path: a folder or hub id in diffusers' layout.
            adapter: where the regional layers are, if the UNet in it has none: a folder, a file, a training run or a
                hub id. LoRA that was trained along is added to the UNet's weights.
            adapter_revision: of the adapter, where it is on the hub.
            revision: of the pipeline, where it is on the hub.
            variant: of its files, such as "fp16".
            torch_dtype: of all its networks.
            parts: to be used in place of its own, by diffusers' names: ``scheduler``, ``vae``, ``safety_checker``, …

        Raises:
            MissingWeights: something is not there; says what, and how to bring it.
            CheckpointError: the adapter was trained for another base, or there is none.
            TypeError: a part has a name that pipelines do not know.
        """
        _check_parts(parts)
        name = fspath(pretrained_model_name_or_path)
        source = StableDiffusion(name, revision, variant=variant)
        networks = source.load(torch_dtype, **parts)
        if adapter is not None or "unet" not in parts:
            weights = _own_or_given(name, revision, variant, adapter, adapter_revision)
            merge_lora(networks["unet"], weights)
            load_adapter(networks["unet"], weights)
        return build(networks)

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **options: Any) -> None:
        """Save all parts, in the layout of the released weights: the UNet's folder has its regional layers too."""
        self._pipeline.unet.register_to_config(attention_type="regional")
        super().save_pretrained(save_directory, *args, **options)  # type: ignore[misc]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        layouts: Layout | Mapping[str, Any] | Sequence[Layout | Mapping[str, Any] | None] | None = None,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        layout_guidance_scale: float | None = None,
        scheduled_sampling_beta: float = 1.0,
        attention_weight_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Draw.

        Args:
            prompt: captions of the images.
            layouts: one per prompt: a ``Layout``, or a mapping with ``boxes`` (fractions of the canvas), ``labels`` and
                perhaps ``captions``; None or an empty one for an image that the base model draws alone.
            boxes: in place of ``layouts``, ``(n, 4)`` x_min y_min x_max y_max in pixels of the canvas, for all prompts.
            labels: of these boxes.
            height: of the canvas, in pixels; as the base model was trained, if not given.
            width: of the canvas, in pixels.
            layout_guidance_scale: how much the layout counts, apart from ``guidance_scale``, which then is the
                caption's: e0 + guidance_scale (e_caption - e0) + layout_guidance_scale (e_both - e_caption), with the
                layout replaced by its learnt vector in the first two. If both are the same, that is the usual
                guidance by caption and layout together, which is done if this is not given, with two thirds of the
                work. Without guidance by the caption (``guidance_scale`` at most 1) it is e_caption +
                layout_guidance_scale (e_both - e_caption).
            scheduled_sampling_beta: the share of the steps, the first ones, that know of the layout: 0 none, 1 all.
            attention_weight_scale: how much the smaller objects of an overlap are favoured; 0 not at all.
            num_images_per_prompt: images for each prompt.
            callback_on_step_end: as in diffusers.
            callback_on_step_end_tensor_inputs: as in diffusers.
            cross_attention_kwargs: as in diffusers, ``{"scale": 0.5}`` for LoRA; stays as it is.
            options: whatever else the stock pipeline takes: negative_prompt, num_inference_steps, guidance_scale,
                generator, output_type, …

        Returns:
            What the stock pipeline returns.

        Raises:
            ValueError: there is not one layout per prompt, or boxes are not finite or inverted, or not as many as
                labels, or height and width are not multiples of 8.
        """
        pipe = self._pipeline
        height, width = self._size(height, width)
        given = read_layouts(_count(prompt, options), layouts, boxes, labels, height, width, clip=not self.compat)
        request = Request(
            layouts=[x for x in given for _ in range(num_images_per_prompt)],
            height=height,
            width=width,
            guided=_guided(pipe, options),
            guidance_scale=options.get("guidance_scale", _default(pipe, "guidance_scale")),
            layout_guidance_scale=layout_guidance_scale,
            beta=scheduled_sampling_beta,
        )
        stock: dict[str, Any] = {
            "height": height,
            "width": width,
            "num_images_per_prompt": num_images_per_prompt,
            "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": list(callback_on_step_end_tensor_inputs),
            "cross_attention_kwargs": None if cross_attention_kwargs is None else dict(cross_attention_kwargs),
            **options,
        }
        call = super().__call__  # type: ignore[misc]
        if not request.regional:
            return call(prompt, **stock)
        grounding = self._ground(request, attention_weight_scale)
        stock["cross_attention_kwargs"] = {**(cross_attention_kwargs or {}), "gligen": {"grounding": grounding}}
        stock |= _watched(grounding, request, callback_on_step_end, list(callback_on_step_end_tensor_inputs))
        apart = _guided_apart(pipe, grounding, request) if request.apart else nullcontext()
        try:
            with apart:
                return call(prompt, **stock)
        finally:
            # keys and values of all layers are no longer needed
            pipe._cross_attention_kwargs = cross_attention_kwargs

    @property
    def _pipeline(self) -> Any:
        """Ourselves, as the stock pipeline that the subclasses are."""
        return self

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        pipe = self._pipeline
        usual = pipe.unet.config.sample_size
        usual = (usual, usual) if isinstance(usual, int) else usual
        return height or usual[0] * pipe.vae_scale_factor, width or usual[1] * pipe.vae_scale_factor

    def _ground(self, request: Request, attention_weight_scale: float) -> Grounding:
        """The layouts for all rows of the UNet's batch, on its device; the loop only reads them."""
        pipe, cell = self._pipeline, self._pipeline.vae_scale_factor
        if request.height % 8 or request.width % 8:
            raise ValueError(f"height and width must be multiples of 8, got {request.height} and {request.width}")
        text = self.label_features or TextFeatures.of(pipe)
        grids = attention_grids(pipe.unet, request.height // cell, request.width // cell)
        canvases = [
            canvas(x, request.height, request.width, grids, text.labels, cell=cell, compat=self.compat)
            if len(x)
            else None
            for x in request.layouts
        ]
        dropped = [x is not None for x in canvases]
        grounding = ground(
            [None] * (len(canvases) * request.without) + canvases,
            text.encode_labels,
            grids,
            dropped=dropped * request.without + [False] * len(canvases),
            attention_weight_scale=attention_weight_scale,
            self_attention=getattr(pipe.unet, "regional_layers", "ca") == "casa",
        )
        grounding = grounding.to(pipe._execution_device, pipe.unet.dtype)
        grounding.reuse, grounding.enabled = True, request.beta > 0
        return grounding


class RichContextSDXLPipeline(RichContextPipeline, StableDiffusionXLPipeline):
    """The same on Stable Diffusion XL."""


class RichContextSD15Pipeline(RichContextPipeline, StableDiffusionPipeline):
    """The same on Stable Diffusion 1.5."""


def build(parts: Mapping[str, Any]) -> Any:
    """A pipeline of these parts, by diffusers' names; without a safety checker unless there is one among them.

    The UNet gets regional layers if it has none, and a warning says so: new ones change nothing.
    """
    if not hasattr(parts["unet"], "regional_layers"):
        warnings.warn(
            "the UNet has no regional layers; new ones are attached, and layouts change nothing", stacklevel=2
        )
        attach(parts["unet"])
    if "text_encoder_2" in parts:
        return RichContextSDXLPipeline(**{"add_watermarker": False, **parts})
    safety = {"safety_checker": None, "feature_extractor": None}
    return RichContextSD15Pipeline(
        **{**safety, "requires_safety_checker": parts.get("safety_checker") is not None, **parts}
    )


#: What diffusers' own pipelines can be told of loading, and what does that here.
_LOADING = {
    "use_safetensors": "leave it out, networks are always read from safetensors",
    "local_files_only": "set HF_HUB_OFFLINE=1",
    "cache_dir": "set HF_HOME",
    "token": "set HF_TOKEN",
    "device_map": "move the pipeline with to() or enable_model_cpu_offload()",
}


def _check_parts(parts: Mapping[str, Any]) -> None:
    known = {x for kind in (StableDiffusionXLPipeline, StableDiffusionPipeline) for x in signature(kind).parameters}
    for name in parts.keys() - known:
        instead = _LOADING.get(name, f"parts are {', '.join(sorted(known))}")
        raise TypeError(f"from_pretrained does not take {name}: {instead}")


def _own_or_given(
    name: str, revision: str, variant: str | None, adapter: str | Path | None, adapter_revision: str
) -> dict[str, Tensor]:
    """The regional layers of a pipeline, or those that are named."""
    if adapter is not None:
        return read_adapter(adapter, adapter_revision)
    try:
        return read_adapter(name, revision, variant)
    except MissingWeights:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{error}; name them: adapter=a folder, file, training run or hub id") from error


def _count(prompt: str | list[str] | None, options: Mapping[str, Any]) -> int:
    if prompt is None:
        embeds = options.get("prompt_embeds")
        return 0 if embeds is None else len(embeds)  # the stock pipeline says that there is none
    return 1 if isinstance(prompt, str) else len(prompt)


def _default(pipe: Any, name: str) -> Any:
    stock = StableDiffusionXLPipeline if isinstance(pipe, StableDiffusionXLPipeline) else StableDiffusionPipeline
    return signature(stock.__call__).parameters[name].default


def _guided(pipe: Any, options: Mapping[str, Any]) -> bool:
    """Whether the stock loop adds an unconditional half."""
    scale = options.get("guidance_scale", _default(pipe, "guidance_scale"))
    return scale > 1 and pipe.unet.config.time_cond_proj_dim is None


def _watched(grounding: Grounding, request: Request, callback: Any, inputs: list[str]) -> dict[str, Any]:
    """The callback that keeps the grounding in step with the loop; a caller's own is called before."""
    count = len(request.layouts)
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        inputs = callback.tensor_inputs

    def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        result = callback(pipe, step, timestep, tensors) if callback is not None else {}
        grounding.enabled = step + 1 < round(request.beta * pipe.num_timesteps)
        halved = request.guided and not pipe.do_classifier_free_guidance  # a callback has ended guidance
        if halved and grounding.rows is not None and len(grounding.dropped) > (1 + request.apart) * count:
            grounding.rows, grounding.dropped = grounding.rows - count, grounding.dropped[count:]
        return result

    return {"callback_on_step_end": after, "callback_on_step_end_tensor_inputs": inputs}


@contextmanager
def _guided_apart(pipe: Any, grounding: Grounding, request: Request) -> Iterator[None]:
    """Let the UNet predict with the layout too, and make of the caption's rows what gives the sum in the stock loop.

    The loop makes u + g (t - u) of u and t; with t + (g_layout / g) (both - t) in place of t that is
    u + g (t - u) + g_layout (both - t).
    """
    count = len(request.layouts)

    def widen(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if not grounding.enabled:
            return None
        rows = {name: _repeated(x, count) for name, x in kwargs.items() if name in _PER_ROW}
        return (_repeated(args[0], count), *args[1:]), {**kwargs, **rows}

    def narrow(_: Any, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not grounding.enabled:
            return None
        ratio = request.layout_ratio(pipe.guidance_scale if pipe.do_classifier_free_guidance else 1.0)
        rest, caption, both = output[0].split([len(output[0]) - 2 * count, count, count])
        return (torch.cat([rest, caption + ratio * (both - caption)]), *output[1:])

    hooks = [
        pipe.unet.register_forward_pre_hook(widen, with_kwargs=True),
        pipe.unet.register_forward_hook(narrow),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


#: What the stock loops give the UNet for each row of its batch.
_PER_ROW = ("encoder_hidden_states", "timestep_cond", "added_cond_kwargs")


def _repeated(value: Any, count: int) -> Any:
    """With the last rows once more, of every tensor in it."""
    if isinstance(value, Tensor):
        return torch.cat([value, value[-count:]])
    if isinstance(value, Mapping):
        return {name: _repeated(x, count) for name, x in value.items()}
    return [_repeated(x, count) for x in value] if isinstance(value, (list, tuple)) else value
