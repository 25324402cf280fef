"""Custom Diffusion on Stable Diffusion 1.5: personal concepts by words of their own.

Weights: the base is CreativeML Open RAIL-M; what is learnt belongs to whoever's concepts they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.layout import Batch, Images, Layout
from scenewright.layout_models.concepts import (
    add_words,
    check_tokens,
    concept_tokens,
    prior_weights,
    train_keys_and_values,
)
from scenewright.layout_models.objective import diffusion_loss, draw, target
from scenewright.layout_models.rich_context.components import StableDiffusion
from scenewright.layout_models.rich_context.text import TextFeatures
from scenewright.layout_models.stable_diffusion import StableDiffusionModel, check_counts
from scenewright.networks import precision

logger = logging.getLogger(__name__)

#: Of the UNet's matrices, those that LoRA is put on.
_LORA_TARGETS = r".*\.attn2\.(to_k|to_v)"


class CustomDiffusionSD15(StableDiffusionModel):
    """Draws personal concepts that captions name by tokens: "``<cat1>`` cat and ``<dog1>`` dog in the garden".

    Learnt are the embeddings of the new tokens, and the projections to keys and values of the UNet's cross-attentions.
    While it is new, it draws what the base draws. Layouts are not read. Images whose captions have no token are there
    to keep what the base knows of the class (regularisation).

    Args:
        base: a folder or hub id in diffusers' layout.
        revision: of the base.
        unet: another one that the UNet is taken from; None: the base's.
        unet_revision: of that.
        vae: another autoencoder; None: the base's.
        vae_revision: of that.
        variant: of the files of base and UNet, such as "fp16".
        dtype: of what is frozen: float32, bfloat16 or float16; what learns is float32.
        concepts: by token, the class word that its embedding begins as ("cat"); of several tokens ("house plant") it
            begins as their mean. The brackets of ``<cat1>`` may be left out.
        composition: the token of the whole arrangement; None for none. It begins as the word "composition".
        lora_rank: train LoRA of this rank on the projections, in place of themselves.
        prior_weight: of images whose caption has no token, in the loss.
        caption_drop: share of the images whose caption is dropped in training.
        snr_gamma: clip the weights of timesteps (5 is usual); None: the plain error.
        noise_offset: standard deviation of a constant that is added to each channel of the noise.
        gradient_checkpointing: compute anew in the backward pass instead of remembering.
        cache: a folder for latents; worth it where images come framed the same way each time. Text features change
            while tokens learn, and are never kept.
        num_inference_steps: of the base's own sampler.
        guidance_scale: of the caption; 1 is no guidance.
        negative_prompt: what images are not to show; None: nothing is said of that.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        ValueError: a token cannot be one, or the base's tokenizer knows it already.

    Source: Kumari et al. 2023, arXiv 2212.04488; Yeh et al. 2024, arXiv 2402.15504, section 3.4.
    """

    #: Settings that a run may change its mind about: no weight depends on them.
    changeable = ("cache", "gradient_checkpointing", "num_inference_steps", "guidance_scale", "negative_prompt")

    #: What is new draws what the base draws.
    untrained = True

    def __init__(
        self,
        base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str = "main",
        unet: str | None = None,
        unet_revision: str = "main",
        vae: str | None = None,
        vae_revision: str = "main",
        variant: str | None = None,
        dtype: str = "bfloat16",
        concepts: Mapping[str, str] | None = None,
        composition: str | None = None,
        lora_rank: int | None = None,
        prior_weight: float = 1.0,
        caption_drop: float = 0.0,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        gradient_checkpointing: bool = True,
        cache: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | None = None,
    ) -> None:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        kind, self.tokens = precision(dtype), concept_tokens(concepts or {}, composition)
        source = StableDiffusion(base, revision, unet, unet_revision, vae, vae_revision, variant, towers=1)
        parts = source.load(kind)
        if lora_rank is not None:
            from peft import LoraConfig

            settings = {"r": lora_rank, "lora_alpha": lora_rank, "init_lora_weights": "gaussian"}
            parts["unet"].add_adapter(LoraConfig(**settings, target_modules=_LORA_TARGETS))
        super().__init__(parts, cache=cache, cache_latents=cache is not None)
        self.text = TextFeatures.of(SimpleNamespace(**parts))  # without a cache
        self._learn((lambda unet: None) if lora_rank is not None else train_keys_and_values)
        self.tokenizer = parts["tokenizer"]
        self._add_words()
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        self.pipeline: Any = StableDiffusionPipeline(**parts, **others)
        self.pipeline.set_progress_bar_config(disable=True)
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.negative_prompt, self.prior_weight = negative_prompt, prior_weight
        self.caption_drop, self.snr_gamma, self.noise_offset = caption_drop, snr_gamma, noise_offset
        self._cut: set[str] = set()

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The error of what is predicted from noisy latents, mean over the batch; layouts are ignored.

        Raises:
            ValueError: the images' sides are not multiples of 8, or a caption has a token that is not known.
        """
        self._check(batch.captions)
        draws = draw(
            batch.seeds,
            self._latent_shape(*batch.images.shape[2:]),
            self.noising.config.num_train_timesteps,
            caption_drop=self.caption_drop,
            noise_offset=self.noise_offset,
        )
        device = self.unet.device
        latents = self.encode(batch.images, draws.posterior)
        noise, timesteps = draws.noise.to(device), draws.timesteps.to(device)
        noisy = self.noising.add_noise(latents, noise, timesteps)
        said = ["" if gone else x for gone, x in zip(draws.caption_dropped, batch.captions, strict=True)]
        features = self._read(said)
        with self._autocast():
            kind = self.unet.dtype
            prediction = self.unet(noisy.to(kind), timesteps, features.to(kind)).sample
        wanted = target(self.noising, latents, noise, timesteps)
        weights = prior_weights(batch.captions, self.tokens, self.prior_weight)
        return diffusion_loss(prediction, wanted, timesteps, self.noising, self.snr_gamma, weights=weights)

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], *, height: int, width: int
    ) -> Images:
        """One image per caption, each from its own seed; of the layouts only their number matters.

        Raises:
            ValueError: the size is not a multiple of 8, there are not as many captions, layouts and seeds, or a caption
                has a token that is not known.
        """
        check_counts(captions, layouts, seeds)
        self._latent_shape(height, width)
        negative = self.negative_prompt or ""
        self._check([*captions, negative])
        if not seeds:
            return torch.zeros(0, 3, height, width, dtype=torch.uint8)
        was_training = self.training
        self.eval()
        try:
            features, _ = self.text.encode_captions([negative, *captions])
            with self._autocast():
                latents = self.pipeline(
                    prompt_embeds=features[1:],
                    negative_prompt_embeds=features[:1].expand_as(features[1:]),
                    height=height,
                    width=width,
                    num_inference_steps=self.num_inference_steps,
                    guidance_scale=self.guidance_scale,
                    # on the CPU, so that no device draws other numbers
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    output_type="latent",
                ).images
            return torch.cat([self.decode(x[None]) for x in latents])
        finally:
            self.train(was_training)

    def _add_words(self) -> None:
        """Let tokenizer and text encoder know the tokens."""
        from tokenizers import AddedToken

        first = len(self.tokenizer)
        known = [x for x in self.tokens if x in self.tokenizer.get_vocab()]
        if known:
            raise ValueError(f"the base's tokenizer has {', '.join(known)} already; name the concept otherwise")
        words = add_words(self.text_encoder, self.tokens, first, self.text.labels.tokens)
        self.tokenizer.add_tokens([AddedToken(x, normalized=False) for x in self.tokens])
        self.words = words

    def _read(self, captions: Sequence[str]) -> Float[Tensor, "b t d"]:
        """Features of captions, with a gradient for the words."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(list(captions), max_length=self.text.labels.length, **options).input_ids
        device = self.unet.device
        with torch.autocast(device.type, enabled=False):  # in its own precision, as when it is drawn
            return self.text_encoder(ids.to(device)).last_hidden_state

    def _check(self, captions: Sequence[str]) -> None:
        """Refuse what is not known, warn of what is too long."""
        check_tokens(captions, self.tokens)
        fresh = [x for x in dict.fromkeys(captions) if x not in self._cut]
        for caption, ids in zip(fresh, self.tokenizer(fresh, verbose=False).input_ids if fresh else [], strict=True):
            if len(ids) > self.text.labels.length:
                self._cut.add(caption)
                logger.warning(
                    "a caption has %d tokens, of which CLIP reads the first %d: %r",
                    len(ids),
                    self.text.labels.length,
                    caption,
                )
