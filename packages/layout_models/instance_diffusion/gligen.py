"""The grounding tokenizer of GLIGEN: one token for each box and its text.

Source: Li et al. 2023, arXiv 2301.07093, section 3.1; the network is that of diffusers.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection
from torch import Tensor

from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens, ObjectMasks
from scenewright.layout_models.instance_diffusion.unifusion import Instances


class TextBoxes(GLIGENTextBoundingboxProjection):
    """Instances to a token each, of box and text. Parameters are named as in the released weights.

    Of the instances, only texts and boxes are read.

    Args:
        positive_len: channels of a text feature.
        out_dim: channels of a token.
        fourier_freqs: frequencies of the boxes' Fourier code.
        packed: padding is masked; False: it is a learnt null vector, as the released weights were trained.
    """

    def __init__(
        self, positive_len: int = 768, out_dim: int = 768, fourier_freqs: int = 8, *, packed: bool = True
    ) -> None:
        super().__init__(positive_len, out_dim, fourier_freqs=fourier_freqs)
        self.packed = packed

    # parameters keep their names, so it is no wrapper
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, grounding: Instances | GroundingTokens
    ) -> GroundingTokens:
        """The tokens of a batch; tokens that are made already are given back, so that a sampler makes them once."""
        if isinstance(grounding, GroundingTokens):
            return grounding
        valid = grounding.valid & grounding.shown(0)[:, None]
        rows = valid.any(1).nonzero()[:, 0] if self.packed else None
        text, boxes, objects = grounding.text, grounding.boxes, self._objects(grounding, valid, rows)
        if rows is not None:
            text, boxes, valid = text[rows], boxes[rows], valid[rows]
        tokens: Tensor = super().forward(boxes.to(text.dtype), valid.to(text.dtype), text)
        whole = rows is None or len(rows) == len(grounding)
        return GroundingTokens(
            tokens,
            valid=None if rows is None or valid.all() else valid,
            rows=None if whole else rows,
            objects=objects,
        )

    @staticmethod
    def _objects(grounding: Instances, valid: Tensor, rows: Tensor | None) -> ObjectMasks | None:
        if grounding.cells is None:
            return None
        owners = torch.arange(valid.shape[1], device=valid.device).expand(len(valid), -1)
        chosen = slice(None) if rows is None else rows
        cells = {pixels: (x & valid[..., None])[chosen] for pixels, x in grounding.cells.items()}
        return ObjectMasks(cells, owners[chosen])
