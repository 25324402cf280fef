"""GLIGEN on Stable Diffusion 1.4: objects in their boxes.

Weights: ``masterful/gligen-1-4-generation-text-box``, whose UNet has the layers in it; the base is CreativeML Open
RAIL-M.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scenewright.layout_models.instance_diffusion.gligen import TextBoxes
from scenewright.layout_models.instance_diffusion.model import InstanceDiffusion, Sampling
from scenewright.layout_models.instance_diffusion.type_dropping import TypeDropping
from scenewright.layout_models.rich_context.components import StableDiffusion


class GLIGENSD14(InstanceDiffusion):
    """Draws each object in its box, as its caption says, or its label where it has none.

    Of a layout, only boxes and texts are read.

    Args:
        base: a folder or hub id in diffusers' layout, of GLIGEN or of a plain Stable Diffusion, which gets new
            layers.
        revision: of the base.
        unet: another one that the UNet is taken from; None: the base's.
        unet_revision: of that.
        vae: another autoencoder; None: the base's.
        vae_revision: of that.
        variant: of the files of base and UNet, such as "fp16".
        dtype: of what is frozen: float32, bfloat16 or float16; what learns is float32.
        weights: other layers than the base's: a file, with the released names or ours, a training run, or a hub id.
        weights_revision: of that.
        packed: tokens only of what is there. False: null vectors stand for what is not, in 30 slots at least, as the
            released weights were trained.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions: they become empty ones.
        label_share: share of the objects that say their label in training though they have a caption.
        object_attention: pixels of an object attend to it and its tokens alone; published weights did not learn so.
        snr_gamma: clip the weights of timesteps (5 is usual); None: the plain error.
        noise_offset: standard deviation of a constant that is added to each channel of the noise.
        gradient_checkpointing: compute anew in the backward pass instead of remembering.
        cache: a folder for the features of frozen networks; about 120 KB for each caption in half precision.
        cache_latents: latents too; worth it where images come framed the same way each time.
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout; 1 is no guidance.
        alpha: the shares of the steps in which the layout counts, counts ever less, and does not.
        mis: the share of the steps in which each object is denoised alone; 0: none are, as in GLIGEN.
        negative_prompt: what images are not to show; None: nothing is said of that.
        max_batch: rows of the UNet's batch while drawing; None: all at once.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        CheckpointError: the weights are of another base.
        ValueError: a setting is out of range.

    Source: Li et al. 2023, arXiv 2301.07093.
    """

    def __init__(
        self,
        base: str = "masterful/gligen-1-4-generation-text-box",
        revision: str = "main",
        unet: str | None = None,
        unet_revision: str = "main",
        vae: str | None = None,
        vae_revision: str = "main",
        variant: str | None = None,
        dtype: str = "bfloat16",
        weights: str | None = None,
        weights_revision: str = "main",
        packed: bool = False,
        layout_drop: float = 0.1,
        caption_drop: float = 0.5,
        label_share: float = 0.0,
        object_attention: bool = False,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        gradient_checkpointing: bool = True,
        cache: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        alpha: Sequence[float] = (0.3, 0.0, 0.7),
        mis: float = 0.0,
        negative_prompt: str | None = None,
        max_batch: int | None = 16,
    ) -> None:
        def position_net(width: int) -> nn.Module:
            return TextBoxes(width, width, packed=packed)

        super().__init__(
            StableDiffusion(base, revision, unet, unet_revision, vae, vae_revision, variant, towers=1),
            position_net,
            weights=weights,
            revision=weights_revision,
            file="diffusion_pytorch_model.bin",
            scaleu=False,
            dtype=dtype,
            cache=cache,
            cache_latents=cache_latents,
            sampling=Sampling(
                num_inference_steps, guidance_scale, alpha, mis, negative_prompt=negative_prompt, max_batch=max_batch
            ),
            dropping=TypeDropping(0.0, 0.0, 0.0, layout_drop),
            label_share=label_share,
            caption_drop=caption_drop,
            object_attention=object_attention,
            snr_gamma=snr_gamma,
            noise_offset=noise_offset,
            gradient_checkpointing=gradient_checkpointing,
        )
