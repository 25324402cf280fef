"""InstanceDiffusion on Stable Diffusion 1.5: instances where boxes, points, scribbles or masks say.

Weights: ``xudongw/InstanceDiffusion``, Apache-2.0; the base is CreativeML Open RAIL-M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from scenewright.checkpoints import Checkpoint, fill
from scenewright.layout_models.instance_diffusion.model import InstanceDiffusion, Sampling
from scenewright.layout_models.instance_diffusion.type_dropping import TypeDropping
from scenewright.layout_models.instance_diffusion.unifusion import TYPES, UniFusion
from scenewright.layout_models.rich_context.components import StableDiffusion

#: What the released code does not want to see.
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)


class InstanceDiffusionSD15(InstanceDiffusion):
    """Draws each instance where its box, point, scribble or mask says, as its caption says.

    Of each instance, what the layout has is read: the box always, the point or else the box's centre, a scribble, a
    mask. An instance says its caption, or its label where it has none.

    Args:
        base: a folder or hub id in diffusers' layout.
        revision: of the base.
        unet: another one that the UNet is taken from; None: the base's.
        unet_revision: of that.
        vae: another autoencoder; None: the base's.
        vae_revision: of that.
        variant: of the files of base and UNet, such as "fp16".
        dtype: of what is frozen: float32, bfloat16 or float16; what learns is float32.
        weights: the adapter: a file, with the released names or ours, a training run, or a hub id; None for a new one,
            to train from the base.
        weights_revision: of that.
        backbone: with ``weights=None``, a ConvNeXt-tiny in transformers' layout that the mask branch begins with, such
            as ``facebook/convnext-tiny-224``; None: a random one.
        unifusion: other settings of ``UniFusion``, such as its sizes.
        packed: tokens only of what is there. False: null vectors stand for what is not, in 30 slots at least, as the
            released weights were trained.
        type_drop: in training, the probability with which box, point, scribble and mask are dropped on their own.
        point_only: that of showing nothing but points.
        no_scribble: that of leaving out the scribbles of a sample that has masks.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions: they become empty ones.
        label_share: share of the instances that say their label in training though they have a caption.
        object_attention: pixels of an instance attend to it and its tokens alone; published weights did not learn so.
        snr_gamma: clip the weights of timesteps (5 is usual); None: the plain error.
        noise_offset: standard deviation of a constant that is added to each channel of the noise.
        gradient_checkpointing: compute anew in the backward pass instead of remembering.
        cache: a folder for the features of frozen networks; about 120 KB for each caption in half precision.
        cache_latents: latents too; worth it where images come framed the same way each time.
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout; 1 is no guidance.
        alpha: the shares of the steps in which the layout counts, counts ever less, and does not.
        mis: the share of the steps in which each instance is denoised alone; 0: none are.
        conditions: which of box, point, scribble and mask are read while drawing.
        negative_prompt: what images are not to show; None: nothing is said of that.
        max_batch: rows of the UNet's batch while drawing; None: all at once.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        CheckpointError: the weights are of another base.
        ValueError: a setting is out of range.

    Source: Wang et al. 2024, arXiv 2402.03290; Rombach et al. 2022, arXiv 2112.10752.
    """

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
        weights: str | None = "xudongw/InstanceDiffusion",
        weights_revision: str = "main",
        backbone: str | None = None,
        unifusion: Mapping[str, Any] | None = None,
        packed: bool = False,
        type_drop: float = 0.1,
        point_only: float = 0.1,
        no_scribble: float = 0.1,
        layout_drop: float = 0.1,
        caption_drop: float = 0.5,
        label_share: float = 0.5,
        object_attention: bool = False,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        gradient_checkpointing: bool = True,
        cache: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        alpha: Sequence[float] = (0.8, 0.0, 0.2),
        mis: float = 0.36,
        conditions: Sequence[str] = TYPES,
        negative_prompt: str | None = NEGATIVE_PROMPT,
        max_batch: int | None = 16,
    ) -> None:
        def position_net(width: int) -> nn.Module:
            made = UniFusion(width, width, **{**(unifusion or {}), "packed": packed})
            if backbone is not None and weights is None:
                _begin_with(made, backbone)
            return made

        super().__init__(
            StableDiffusion(base, revision, unet, unet_revision, vae, vae_revision, variant, towers=1),
            position_net,
            weights=weights,
            revision=weights_revision,
            file="instancediffusion_sd15.pth",
            scaleu=True,
            dtype=dtype,
            cache=cache,
            cache_latents=cache_latents,
            sampling=Sampling(num_inference_steps, guidance_scale, alpha, mis, conditions, negative_prompt, max_batch),
            dropping=TypeDropping(type_drop, point_only, no_scribble, layout_drop),
            label_share=label_share,
            caption_drop=caption_drop,
            object_attention=object_attention,
            snr_gamma=snr_gamma,
            noise_offset=noise_offset,
            gradient_checkpointing=gradient_checkpointing,
        )


def _begin_with(unifusion: UniFusion, source: str) -> None:
    """Raises: MissingWeights, there is no such backbone; CheckpointError, it has another shape."""
    from transformers import ConvNextModel

    given = Checkpoint(source, files=("config.json", "model.safetensors")).load(ConvNextModel)
    fill(unifusion.convnext_tiny_backbone, given.state_dict(), source)
