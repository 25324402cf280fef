"""Regional layers that are trained on a frozen Stable Diffusion, whichever of the two it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenewright.layout import Batch, Frame, Images, Layout
from scenewright.layout_models.feature_cache import Entry, FeatureCache, key, weights_digest
from scenewright.layout_models.objective import diffusion_loss, draw, target
from scenewright.layout_models.rich_context.adapter import attach, attention_grids, freeze_base, load_adapter
from scenewright.layout_models.rich_context.components import StableDiffusion, lora_names, merge_lora, read_adapter
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding
from scenewright.layout_models.rich_context.text import TextFeatures

#: The attentions of the base that LoRA is put on; the regional layers learn whole.
_LORA_TARGETS = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"


class RichContext(nn.Module):
    """A frozen Stable Diffusion with regional layers that learn. See the two classes that name its weights.

    Args:
        source: where the base comes from.
        dtype: of what is frozen: float32, bfloat16 or float16. What learns is kept in float32.
        adapter: regional layers to start from, as ``read_adapter`` reads them; None for new ones.
        layers: of new ones, ``ca`` or ``casa``.
        boxes: of new ones, False: without the boxes of the objects.
        lora_rank: also train LoRA of this rank on the base's attentions; None for none.
        cache: a folder in which text features and latents are kept; None for none.
        cache_latents: latents too; worth it where images come framed the same way each time.
        sampling: what ``sample`` passes on to the pipeline.
        compat: regions and their texts as the released code has them.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions.
        snr_gamma: clip the weight of a timestep; None for the plain error.
        noise_offset: see ``objective.draw``.
        gradient_checkpointing: compute the UNet's blocks anew in the backward pass.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        CheckpointError: the adapter is of another base.
    """

    #: Its layers are new: it draws what the base draws, whatever the layout.
    untrained: bool

    #: Settings that a run may change its mind about: no weight depends on them.
    changeable = (
        "cache",
        "cache_latents",
        "gradient_checkpointing",
        "num_inference_steps",
        "guidance_scale",
        "layout_guidance_scale",
        "scheduled_sampling_beta",
    )

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any

    def __init__(
        self,
        source: StableDiffusion,
        *,
        dtype: str,
        adapter: str | None,
        adapter_revision: str,
        layers: str,
        boxes: bool,
        lora_rank: int | None,
        cache: str | None,
        cache_latents: bool,
        sampling: Mapping[str, Any],
        compat: bool,
        layout_drop: float,
        caption_drop: float,
        snr_gamma: float | None,
        noise_offset: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        from scenewright.layout_models.rich_context.pipeline import build

        precision = _precision(dtype)
        weights = None if adapter is None else read_adapter(adapter, adapter_revision)
        self.untrained = weights is None
        parts = source.load(precision)
        _attach(parts["unet"], weights, layers, boxes, lora_rank)
        if parts["vae"].config.force_upcast:  # its activations overflow in half precision
            parts["vae"].float()
        self.pipeline = build(parts)
        self.pipeline.set_progress_bar_config(disable=True)
        self.unet, self.vae = parts["unet"], parts["vae"]
        self.height, self.width = self.pipeline._size(None, None)  # that it draws unless told otherwise
        self.text_encoder, self.text_encoder_2 = parts["text_encoder"], parts.get("text_encoder_2")
        self.noising: Any = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        _freeze(self)
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        self.cache = None if cache is None else FeatureCache(cache)
        self.text = TextFeatures.of(self.pipeline, self.cache)
        self.pipeline.label_features, self.pipeline.compat = self.text, compat
        self._vae_weights = weights_digest(self.vae) if self.cache is not None and cache_latents else None
        self.sampling, self.compat = dict(sampling), compat
        self.layout_drop, self.caption_drop = layout_drop, caption_drop
        self.snr_gamma, self.noise_offset = snr_gamma, noise_offset

    def train(self, mode: bool = True) -> RichContext:
        """The frozen parts stay in evaluation mode."""
        super().train(mode)
        for network in (self.vae, self.text_encoder, self.text_encoder_2):
            if network is not None:
                network.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Compute the UNet's blocks anew in the backward pass instead of remembering."""
        self.unet.enable_gradient_checkpointing()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the UNet's blocks, as ``torch.compile``; layouts are prepared outside, and differ in every batch."""
        self.unet.compile_repeated_blocks(*args, **options)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The error of what is predicted from noisy latents, mean over the batch.

        An image without a layout is predicted as by the base.

        Raises:
            ValueError: the images' sides are not multiples of 8.
        """
        height, width = batch.images.shape[2:]
        cell, device = self.pipeline.vae_scale_factor, self.unet.device
        if height % 8 or width % 8:
            raise ValueError(f"height and width of images must be multiples of 8, got {height} and {width}")
        draws = draw(
            batch.seeds,
            (self.unet.config.in_channels, height // cell, width // cell),
            self.noising.config.num_train_timesteps,
            layout_drop=self.layout_drop,
            caption_drop=self.caption_drop,
            noise_offset=self.noise_offset,
        )
        latents = self.encode(batch.images, draws.posterior)
        noise, timesteps = draws.noise.to(device), draws.timesteps.to(device)
        noisy = self.noising.add_noise(latents, noise, timesteps)
        features, pooled = self._read(batch.captions, draws.caption_dropped)
        added = (
            None if pooled is None else {"text_embeds": pooled, "time_ids": self._sizes(batch.frames, height, width)}
        )
        grounding = self._ground(batch.layouts, draws.layout_dropped, height, width)
        with self._autocast():
            prediction = self.unet(
                noisy.to(self.unet.dtype),
                timesteps,
                features.to(self.unet.dtype),
                added_cond_kwargs=added,
                cross_attention_kwargs={"gligen": {"grounding": grounding}},
            ).sample
        wanted = target(self.noising, latents, noise, timesteps)
        return diffusion_loss(prediction, wanted, timesteps, self.noising, self.snr_gamma)

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], *, height: int, width: int
    ) -> Images:
        """One image per layout, each from its own seed.

        Raises:
            ValueError: the size is not a multiple of 8, or there are not as many captions, layouts and seeds.
        """
        if not len(captions) == len(layouts) == len(seeds):
            raise ValueError(
                f"captions, layouts and seeds must be as many, got {len(captions)}, {len(layouts)} and {len(seeds)}"
            )
        if not seeds:
            return torch.zeros(0, 3, height, width, dtype=torch.uint8)
        negative = self.sampling.get("negative_prompt")
        was_training = self.training
        self.eval()
        try:
            features, pooled = self.text.encode_captions(captions)
            with self._autocast():
                latents = self.pipeline(
                    prompt_embeds=features,
                    **({} if pooled is None else {"pooled_prompt_embeds": pooled}),
                    layouts=list(layouts),
                    height=height,
                    width=width,
                    # on the CPU, so that no device draws other numbers
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    output_type="latent",
                    **{**self.sampling, "negative_prompt": None if negative is None else [negative] * len(seeds)},
                ).images
            return torch.cat([self.decode(x[None]) for x in latents])
        finally:
            self.train(was_training)

    @torch.no_grad()
    def encode(self, images: Images, posterior: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _h _w"]:
        """Latents of images, in float32, drawn with this noise from what the autoencoder says of them.

        One by one: its activations are the largest there are, and no image's depend on another's.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        def make(places: list[int]) -> list[Entry]:
            with torch.autocast(self.vae.device.type, enabled=False):
                pixels = [images[i : i + 1].to(self.vae.device, self.vae.dtype) / 127.5 - 1 for i in places]
                return [{"moments": self.vae.encode(x).latent_dist.parameters[0]} for x in pixels]

        if self._vae_weights is None:
            found = make(list(range(len(images))))
        else:
            assert self.cache is not None
            names = [key("latent", self._vae_weights, str(self.vae.dtype), image) for image in images]
            found = self.cache.fetch(names, make)
        moments = torch.stack([x["moments"] for x in found]).to(self.vae.device, torch.float32)
        known = DiagonalGaussianDistribution(moments)
        return (known.mean + known.std * posterior.to(moments.device)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c _h _w"]) -> Images:
        """Images of latents."""
        with torch.autocast(self.vae.device.type, enabled=False):
            pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _read(self, captions: Sequence[str], dropped: Sequence[bool]) -> tuple[Tensor, Tensor | None]:
        """Features of captions; those that are dropped are what sampling takes for the unconditional half."""
        # with a negative prompt there is one to encode: the empty one, as no image shows what is not wanted
        zeros = self.pipeline.config.get("force_zeros_for_empty_prompt", False) and (
            self.sampling.get("negative_prompt") is None
        )
        features, pooled = self.text.encode_captions(
            ["" if gone else caption for caption, gone in zip(captions, dropped, strict=True)]
        )
        if not zeros:
            return features, pooled
        kept = torch.tensor([not gone for gone in dropped], device=features.device)
        return features * kept[:, None, None], None if pooled is None else pooled * kept[:, None]

    def _sizes(self, frames: Sequence[Frame], height: int, width: int) -> Float[Tensor, "b 6"]:
        """SDXL is told of the size of each picture, of its crop and of the image."""
        rows = [(*frame.size, *frame.corner, height, width) for frame in frames]
        return torch.tensor(rows, dtype=self.unet.dtype, device=self.unet.device)

    def _ground(self, layouts: Sequence[Layout], dropped: Sequence[bool], height: int, width: int) -> Grounding:
        cell = self.pipeline.vae_scale_factor
        grids = attention_grids(self.unet, height // cell, width // cell)
        canvases = [
            canvas(x, height, width, grids, self.text.labels, cell=cell, compat=self.compat)
            if len(x) and not gone
            else None
            for x, gone in zip(layouts, dropped, strict=True)
        ]
        grounding = ground(
            canvases,
            self.text.encode_labels,
            grids,
            dropped=[gone and len(x) > 0 for x, gone in zip(layouts, dropped, strict=True)],
            attention_weight_scale=self.sampling.get("attention_weight_scale", 1.0),
            self_attention=self.unet.regional_layers == "casa",
        )
        return grounding.to(self.unet.device, self.unet.dtype)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Half precision where the base has it; else whatever is set from outside."""
        if self.unet.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.unet.device.type, dtype=self.unet.dtype)


def _precision(name: str) -> torch.dtype:
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise ValueError(f"dtype must be one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]


def _attach(unet: Any, weights: Mapping[str, Tensor] | None, layers: str, boxes: bool, lora_rank: int | None) -> None:
    """Regional layers and LoRA, new or from weights."""
    given = {} if weights is None else dict(weights)
    if given and lora_rank is None:
        merge_lora(unet, given)
    if lora_rank is not None:
        from peft import LoraConfig

        unet.add_adapter(
            LoraConfig(r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=_LORA_TARGETS)
        )
        if lora_names(given):
            unet.load_state_dict({name: x for name, x in given.items() if ".lora_" in name}, strict=False)
    if given:
        load_adapter(unet, given)
    else:
        attach(unet, layers, boxes=boxes)


def _freeze(model: RichContext) -> None:
    """Let regional layers and LoRA learn, in float32; nothing else."""
    from diffusers.training_utils import cast_training_params

    model.requires_grad_(False)
    freeze_base(model.unet)
    for name, parameter in model.unet.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
    cast_training_params(model.unet, dtype=torch.float32)
    model.train(model.training)
