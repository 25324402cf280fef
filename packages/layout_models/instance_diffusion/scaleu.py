"""ScaleU: learnt weights of what a decoder block gets from below and of the low frequencies of its skip.

Source: Wang et al. 2024, arXiv 2402.03290, section 3.3, after FreeU (arXiv 2309.11497).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ScaleU(nn.Module):
    """Rescales a decoder feature by channel and the low frequencies of a skip feature; at first nothing, bit for bit.

    Args:
        channels: of the decoder feature.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.b, self.s = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(1))

    def forward(self, joined: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Both features, concatenated: the decoder's first."""
        decoder, skip = joined.split([len(self.b), joined.shape[1] - len(self.b)], 1)
        decoder, skip = scale_channels(decoder, self.b), scale_low_frequencies(skip, self.s)
        return torch.cat([decoder, skip], 1).to(joined.dtype)


def scale_channels(feature: Float[Tensor, "b c h w"], b: Float[Tensor, " c"]) -> Float[Tensor, "b c h w"]:
    """``feature * (1 + tanh(b))``."""
    return feature * (1 + b.tanh())[:, None, None]


def scale_low_frequencies(feature: Float[Tensor, "b c h w"], s: Float[Tensor, " 1"]) -> Float[Tensor, "b c h w"]:
    """A feature map whose frequencies 0 and -1, in both directions, are scaled by ``1 + tanh(s)``.

    The transform is of float32 whatever the feature is, and the real part is what counts.
    """
    with torch.autocast(feature.device.type, enabled=False):
        low = torch.fft.ifft2(torch.fft.fft2(feature.float()) * _low(feature)).real
    return feature + (s.tanh() * low).to(feature.dtype)


def _low(feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "h w"]:
    """1 at the frequencies that are scaled, 0 at all others."""
    kept = feature.new_zeros(feature.shape[-2:], dtype=torch.float32)
    for row in {0, feature.shape[-2] - 1}:
        for column in {0, feature.shape[-1] - 1}:
            kept[row, column] = 1
    return kept


def attach_scaleu(unet: Any) -> None:
    """Give every decoder block of a ``UNet2DConditionModel`` a ScaleU, before it reads its two features.

    Its parameters are ``up_blocks.I.resnets.J.scaleu.b`` and ``.s``. To attach again starts them anew.
    """
    for resnet, channels in decoder_blocks(unet):
        if not hasattr(resnet, "scaleu"):
            resnet.register_forward_pre_hook(_rescale)
        weight = resnet.conv1.weight
        resnet.scaleu = ScaleU(channels).to(weight.device, weight.dtype)


def decoder_blocks(unet: Any) -> Iterator[tuple[Any, int]]:
    """Each residual block of the decoder, in order, and how many of its input's channels are not the skip's."""
    channels = unet.mid_block.resnets[-1].out_channels
    for block in unet.up_blocks:
        for resnet in block.resnets:
            yield resnet, channels
            channels = resnet.out_channels


def _rescale(resnet: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (resnet.scaleu(inputs[0]), *inputs[1:])
