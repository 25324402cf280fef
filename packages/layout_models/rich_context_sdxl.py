"""Rich-context layout to image on Stable Diffusion XL.

Weights: ``cplusx/rich_context_l2i_sdxl`` on the Hugging Face hub has the authors' regional layers (no licence
stated); the base is CreativeML Open RAIL++-M, the autoencoder MIT.
"""

from __future__ import annotations

from scenewright.layout_models.rich_context.components import StableDiffusion
from scenewright.layout_models.rich_context.model import RichContext


class RichContextSDXL(RichContext):
    """Regional layers on a frozen SDXL: draws objects in their boxes, each as its caption says.

    Args:
        base: a folder or hub id in diffusers' layout.
        revision: of the base.
        unet: another one that the UNet is taken from; None: the base's. The default was tuned for 512 pixels.
        unet_revision: of that.
        vae: another autoencoder; None: the base's.
        vae_revision: of that.
        variant: of the files of base and UNet, such as "fp16".
        dtype: of what is frozen: float32, bfloat16 or float16; what learns is float32.
        adapter: regional layers to start from: a folder, a file, a training run, or a hub id; None for new ones.
        adapter_revision: of that.
        layers: of new ones: ``ca``, or ``casa`` with regional self-attention.
        boxes: of new ones: False leaves out the boxes that labels are told of.
        lora_rank: also train LoRA of this rank on the base's attentions.
        attention_weight_scale: how much the smaller objects of an overlap are favoured.
        compat: regions and their texts as the released code has them, defects included.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions, pooled features included.
        snr_gamma: clip the weights of timesteps (5 is usual); None: the plain error.
        noise_offset: standard deviation of a constant that is added to each channel of the noise.
        gradient_checkpointing: compute anew in the backward pass instead of remembering.
        cache: a folder for the features of frozen networks; about 320 KB for each caption in half precision.
        cache_latents: latents too; worth it where images come framed the same way each time.
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout, or of the caption alone.
        layout_guidance_scale: of the layout alone; None: together with the caption.
        scheduled_sampling_beta: the share of the steps, the first ones, that know of the layout.
        negative_prompt: what images are not to show; None: nothing is said of that.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        CheckpointError: the adapter is of another base.

    Source: Cheng et al. 2024, arXiv 2409.04847; Podell et al. 2023, arXiv 2307.01952.
    """

    def __init__(
        self,
        base: str = "stabilityai/stable-diffusion-xl-base-1.0",
        revision: str = "main",
        unet: str | None = "hotshotco/SDXL-512",
        unet_revision: str = "main",
        vae: str | None = "madebyollin/sdxl-vae-fp16-fix",
        vae_revision: str = "main",
        variant: str | None = None,
        dtype: str = "bfloat16",
        adapter: str | None = None,
        adapter_revision: str = "main",
        layers: str = "ca",
        boxes: bool = True,
        lora_rank: int | None = None,
        attention_weight_scale: float = 1.0,
        compat: bool = False,
        layout_drop: float = 0.1,
        caption_drop: float = 0.1,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        gradient_checkpointing: bool = True,
        cache: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        layout_guidance_scale: float | None = None,
        scheduled_sampling_beta: float = 1.0,
        negative_prompt: str | None = None,
    ) -> None:
        super().__init__(
            StableDiffusion(base, revision, unet, unet_revision, vae, vae_revision, variant, towers=2),
            dtype=dtype,
            adapter=adapter,
            adapter_revision=adapter_revision,
            layers=layers,
            boxes=boxes,
            lora_rank=lora_rank,
            cache=cache,
            cache_latents=cache_latents,
            sampling={
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "layout_guidance_scale": layout_guidance_scale,
                "scheduled_sampling_beta": scheduled_sampling_beta,
                "attention_weight_scale": attention_weight_scale,
                "negative_prompt": negative_prompt,
            },
            compat=compat,
            layout_drop=layout_drop,
            caption_drop=caption_drop,
            snr_gamma=snr_gamma,
            noise_offset=noise_offset,
            gradient_checkpointing=gradient_checkpointing,
        )
