"""Layouts of one image become one layout."""

from collections.abc import Sequence

import torch

from scenewright.layout import Layout


def merge(layouts: Sequence[Layout]) -> Layout:
    """All regions of several layouts, in order; what not every one of them has is left out."""
    full = [x for x in layouts if len(x)]
    if len(full) < 2:
        return full[0] if full else Layout.empty()
    scores = [x.scores for x in full if x.scores is not None]
    masks = [x.masks for x in full if x.masks is not None]
    return Layout(
        boxes=torch.cat([x.boxes for x in full]),
        labels=[label for x in full for label in x.labels],
        captions=[text for x in full for text in x.captions] if all(x.captions for x in full) else [],
        scores=torch.cat(scores) if len(scores) == len(full) else None,
        masks=[mask for some in masks for mask in some] if len(masks) == len(full) else None,
    )
