"""What each region says: the labels of its objects, tokenised apart and joined around a separator.

Every label is tokenised alone, so that each token is known to belong to one object
whatever punctuation its label ends with (joined as text, byte-pair encoding merges a full
stop with the separator, and all that follows gets the wrong boxes). Where nothing merges the
sequence is that of the joined text, token by token.

Source: Cheng et al. 2024, arXiv 2409.04847, section 3 ("sequenced grounding encoding").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenewright.layout_models.rich_context.regions import Regions

logger = logging.getLogger(__name__)


@runtime_checkable
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
    alone = [tokenizer.tokens(label.replace(";", "")) for label in labels]
    members = regions.membership.numpy() & np.array([len(x) > 0 for x in alone], dtype=bool)
    last = np.cumsum(members[:, ::-1], axis=1)[:, ::-1] == 1
    followed = (members & ~last).any(0).tolist()
    words = alone + [_before_separator(*x, tokenizer) for x in zip(labels, alone, followed, strict=True)]
    lengths = np.array([len(x) for x in words], dtype=np.int64).reshape(2, count)
    wanted = members * np.where(last, lengths[0], lengths[1])
    shares = _shares(wanted, regions.weights.numpy(), tokenizer.length - 2)
    if (shares < wanted).any():
        _say_shortened(tokenizer.length - 2)
    ids = np.full((len(regions), tokenizer.length), tokenizer.pad)
    owner = np.full_like(ids, -1)
    ids[:, 0] = tokenizer.bos
    # one entry per label in a region: after the labels before it, and a separator for each
    region, member = shares.nonzero()
    taken = shares[region, member]
    steps = np.cumsum(shares + (shares > 0), axis=1)
    start = steps[region, member] - taken
    ids[region, start - 1] = np.where(start > 1, tokenizer.separator, tokenizer.bos)
    ids[np.arange(len(ids)), np.maximum(steps[:, -1] if count else 0, 1)] = tokenizer.eos
    # and one per token of these
    entry = np.repeat(np.arange(len(taken)), taken)
    number = np.arange(len(entry)) - (np.cumsum(taken) - taken)[entry]
    place = (region[entry], start[entry] + number)
    first = (np.cumsum(lengths) - lengths.ravel())[np.where(last[region, member], member, member + count)]
    ids[place] = np.array([x for label in words for x in label], dtype=np.int64)[first[entry] + number]
    owner[place] = member[entry]
    return told(regions, torch.from_numpy(ids), torch.from_numpy(owner))


def _before_separator(label: str, alone: list[int], followed: bool, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a label in front of a separator, if there is one in front of which it stands."""
    # byte-pair encoding marks the ends of words, and punctuation with a separator after it is one word
    if not followed or label[-1:].isalnum():
        return alone
    tokens = tokenizer.tokens(label.replace(";", "") + ";")
    return tokens[:-1] if len(tokens) > 1 and tokens[-1] == tokenizer.separator else alone


def told(regions: Regions, ids: Int[Tensor, "r t"], owner: Int[Tensor, "r t"]) -> RegionText:
    """Token sequences with what is known of each token's object."""
    # -1 as an index is the last one, which is nobody's
    weights = torch.cat([regions.weights, regions.weights.new_zeros(len(regions), 1)], 1).float()
    boxes = torch.cat([regions.fractions, regions.boxes.new_full((1, 4), -1.0)]).float()
    return RegionText(
        ids=ids, owner=owner, weights=weights[torch.arange(len(regions))[:, None], owner], boxes=boxes[owner]
    )


def _shares(wanted: Any, weights: Any, positions: int) -> Any:
    """How many tokens each label may have in each region, ``(r, n)``, with a separator between any two."""
    wanted, shares = wanted.copy(), wanted.copy()
    most = (positions + 1) // 2  # one token each and the separators
    loud = np.argsort(np.argsort(np.where(wanted > 0, -weights, 1), axis=1, kind="stable"), axis=1, kind="stable")
    wanted[loud >= most] = 0
    left = positions - np.maximum((wanted > 0).sum(1) - 1, 0)
    full = wanted.sum(1) > left
    wanted, left = wanted[full], left[full]
    # the shortest first: what it leaves over is for the rest
    order = np.argsort(wanted, axis=1, kind="stable")
    speaking, given = (wanted > 0).sum(1), np.zeros_like(wanted)
    rows, count = np.arange(len(wanted)), wanted.shape[1]
    for column in range(count - int(speaking.max(initial=0)), count):
        who = order[:, column]
        given[rows, who] = np.minimum(wanted[rows, who], left // np.maximum(np.minimum(speaking, count - column), 1))
        left = left - given[rows, who]
    shares[full] = given
    return np.where(loud >= most, 0, shares)


@cache
def _say_shortened(positions: int) -> None:
    """Once: layouts with such labels are many."""
    logger.warning("a region's labels are longer than %d tokens together; each is given its share of them", positions)
