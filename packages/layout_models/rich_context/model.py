"""Regional layers that are trained on a frozen Stable Diffusion, whichever of the two it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.layout import Batch, Frame, Images, Layout
from scenewright.layout_models.objective import diffusion_loss, draw, target
from scenewright.layout_models.rich_context.adapter import attach, attention_grids, freeze_base, load_adapter
from scenewright.layout_models.rich_context.components import StableDiffusion, lora_names, merge_lora, read_adapter
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding
from scenewright.layout_models.stable_diffusion import StableDiffusionModel, check_counts
from scenewright.networks import precision

#: The attentions of the base that LoRA is put on; the regional layers learn whole.
_LORA_TARGETS = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"


class RichContext(StableDiffusionModel):
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
        from scenewright.layout_models.rich_context.pipeline import build

        kind = precision(dtype)
        weights = None if adapter is None else read_adapter(adapter, adapter_revision)
        parts = source.load(kind)
        _attach(parts["unet"], weights, layers, boxes, lora_rank)
        super().__init__(parts, cache=cache, cache_latents=cache_latents)
        self.untrained = weights is None
        self.pipeline = build(parts)
        self.pipeline.set_progress_bar_config(disable=True)
        self._learn(freeze_base)
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        self.pipeline.label_features, self.pipeline.compat = self.text, compat
        self.sampling, self.compat = dict(sampling), compat
        self.layout_drop, self.caption_drop = layout_drop, caption_drop
        self.snr_gamma, self.noise_offset = snr_gamma, noise_offset

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The error of what is predicted from noisy latents, mean over the batch.

        An image without a layout is predicted as by the base.

        Raises:
            ValueError: the images' sides are not multiples of 8.
        """
        height, width = batch.images.shape[2:]
        device = self.unet.device
        draws = draw(
            batch.seeds,
            self._latent_shape(height, width),
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
        check_counts(captions, layouts, seeds)
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
