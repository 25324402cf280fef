"""RAT-Diffusion in small: draws pixels, reads hashed words, trains on a CPU."""

from __future__ import annotations

from scenewright.layout_models.rat_dit.latents import Pixels
from scenewright.layout_models.rat_dit.model import RatDiffusion
from scenewright.layout_models.rat_dit.network import RatTransformer, Size
from scenewright.layout_models.rat_dit.published import load_published
from scenewright.layout_models.rat_dit.text_features import HashedWords, TextEncoder

#: Pixels per side of a token.
_PATCH = 4


class TinyRatDiT(RatDiffusion):
    """The same network, objective and samplers as ``RatDiT`` on images of 32 pixels, without pretrained weights.

    Args:
        depth: layers; every fourth one begins a group that the recurrent cell tells the text.
        hidden_size: channels of a token.
        heads: of the attention.
        variant: ``shift`` or ``affine``.
        zero_gates: new layers begin as the identity.
        weights: a file of the form of published ones, or a training run; None for new ones, none come along.
        text_encoder: makes features of 512 values of texts; hashed words if not given.
        null_text: what guidance leads away from.
        caption_drop: share of the images that say ``null_text`` in training.
        num_inference_steps: of the sampler.
        guidance_scale: 1 is none.
        solver: ``ddpm``, ``ddim`` or ``dpm``.
        compat: guide the first three channels only, which are all there are.
        noise_weight: the most that noisy timesteps count in the loss; 1: all the same, as published. What an image is
            of is decided where noise outweighs it, and there the error of the noise hardly tells.

    Raises:
        CheckpointError: the weights are of another network.
        ValueError: a setting is none of those that there are.

    Source: Ye and Liu 2024, arXiv 2410.01638.
    """

    def __init__(
        self,
        depth: int = 8,
        hidden_size: int = 96,
        heads: int = 4,
        variant: str = "shift",
        zero_gates: bool = True,
        weights: str | None = None,
        text_encoder: TextEncoder | None = None,
        null_text: str = "a picture",
        caption_drop: float = 0.1,
        num_inference_steps: int = 25,
        guidance_scale: float = 1.5,
        solver: str = "dpm",
        compat: bool = False,
        noise_weight: float = 1.0,
    ) -> None:
        side = 32
        super().__init__(
            RatTransformer(Size(depth, hidden_size, heads), _PATCH, 3, side, variant=variant, zero_gates=zero_gates),
            Pixels(),
            HashedWords() if text_encoder is None else text_encoder,
            side=side,
            null_text=null_text,
            caption_drop=caption_drop,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            solver=solver,
            compat=compat,
            noise_weight=noise_weight,
        )
        self.untrained = weights is None
        if weights is not None:
            load_published(self.network, weights)
