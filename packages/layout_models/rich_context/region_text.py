"""What each region says: the labels of its objects, tokenised apart and joined around a separator.

Every label is tokenised alone, so that each token is known to belong to one object
whatever punctuation its label ends with (joined as text, byte-pair encoding merges a full
stop with the separator, and all that follows gets the wrong boxes).

Source: Cheng et al. 2024, arXiv 2409.04847, section 3 ("sequenced grounding encoding").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenewright.layout_models.rich_context.regions import Regions

logger = logging.getLogger(__name__)


class Tokenizer(Protocol):
    """Text to token ids, as the text encoder of the labels reads them."""

    bos: int
    eos: int
    pad: int
    separator: int
    #: positions that the encoder takes, with bos and eos
    length: int

    def tokens(self, text: str) -> list[int]:
        """The ids of a text alone, without bos and eos, as many as there are."""
        ...


@dataclass(frozen=True, eq=False)
class RegionText:
    """The token sequences of the regions of one canvas.

    Attributes:
        ids: ``(r, t)``, from bos to eos and then padded.
        owner: ``(r, t)``, the object whose label a token is of; -1 for bos, separators, eos and padding.
        weights: ``(r, t)``, in (0, 1], how strongly a token's object speaks in the region; 0 where there is none.
        boxes: ``(r, t, 4)``, the box of a token's object in fractions of the canvas; -1 where there is none.
    """

    ids: Int[Tensor, "r t"]
    owner: Int[Tensor, "r t"]
    weights: Float[Tensor, "r t"]
    boxes: Float[Tensor, "r t 4"]

    @property
    def keys(self) -> Bool[Tensor, "r t"]:
        """``(r, t)``, the tokens that are attended to: the labels', or all where a region has none."""
        labels = self.owner >= 0
        return labels | ~labels.any(1, keepdim=True)

    def bias(self, scale: float = 1.0) -> Float[Tensor, "r t"]:
        """``(r, t)``, what is added to the logits of a token that is attended to: (weight - 1) ``scale``.

        Args:
            scale: 0 treats all objects of a region alike, more favours the smaller ones.
        """
        return torch.where(self.owner >= 0, (self.weights - 1) * scale, 0.0)


def region_text(regions: Regions, labels: Sequence[str], tokenizer: Tokenizer) -> RegionText:
    """Tokenise the labels of each region's objects, in the order of the objects.

    Where they are too long together, each gets an equal share of the positions, and what a short one leaves over goes
    to the others; of more objects than there are positions, the largest ones stay silent.

    Raises:
        ValueError: there is not one label per object.
    """
    count = regions.membership.shape[1]
    if len(labels) != count:
        raise ValueError(f"labels must have one entry per box ({count}), got {len(labels)}")
    words = [tokenizer.tokens(label.replace(";", "")) for label in labels]
    ids = torch.full((len(regions), tokenizer.length), tokenizer.pad)
    owner = torch.full((len(regions), tokenizer.length), -1)
    cut = 0
    for region, (members, weights) in enumerate(zip(regions.membership, regions.weights, strict=True)):
        objects = members.nonzero()[:, 0].tolist()
        shares = _shares([len(words[i]) for i in objects], weights[objects].tolist(), tokenizer.length - 2)
        cut += any(share < len(words[i]) for i, share in zip(objects, shares, strict=True))
        sequence, owners = _joined([(i, words[i][:n]) for i, n in zip(objects, shares, strict=True) if n], tokenizer)
        ids[region, : len(sequence)], owner[region, : len(sequence)] = sequence, owners
    if cut:
        logger.warning("the labels of %d of %d regions are longer than %d tokens and were shortened", cut,
                       len(regions), tokenizer.length - 2)  # fmt: skip
    return _told(regions, ids, owner)


def _told(regions: Regions, ids: Int[Tensor, "r t"], owner: Int[Tensor, "r t"]) -> RegionText:
    """With what is known of each token's object; -1 as an index is the last row, which is nobody's."""
    weights = torch.cat([regions.weights, regions.weights.new_zeros(len(regions), 1)], 1).gather(1, owner % (
        regions.membership.shape[1] + 1))  # fmt: skip
    fractions = regions.boxes / regions.boxes.new_tensor([regions.width, regions.height] * 2)
    boxes = torch.cat([fractions, fractions.new_full((1, 4), -1.0)])[owner]
    return RegionText(ids=ids, owner=owner, weights=weights.float(), boxes=boxes.float())


def _shares(lengths: Sequence[int], weights: Sequence[float], positions: int) -> list[int]:
    """How many tokens each label may have, with a separator between any two."""
    loudest = sorted(range(len(lengths)), key=lambda i: -weights[i])
    speaking = [i for i in loudest if lengths[i]][: (positions + 1) // 2]
    left = positions - max(len(speaking) - 1, 0)
    shares = [0] * len(lengths)
    # the shortest first: what it leaves over is for the rest
    for place, i in enumerate(sorted(speaking, key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], left // (len(speaking) - place))
        left -= shares[i]
    return shares


def _joined(parts: Sequence[tuple[int, list[int]]], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """The token ids of a sequence, and whose each is."""
    ids, owner = [tokenizer.bos], [-1]
    for place, (number, tokens) in enumerate(parts):
        ids += [tokenizer.separator] * (place > 0) + tokens
        owner += [-1] * (place > 0) + [number] * len(tokens)
    return torch.tensor([*ids, tokenizer.eos]), torch.tensor([*owner, -1])
