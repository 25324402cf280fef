"""The regions that were found in one image by several looks at it."""

from collections.abc import Sequence

import torch

from scenewright.layout import Layout


def union(layouts: Sequence[Layout]) -> Layout:
    """All regions, in the layouts' order. Scores and masks stay if every layout that has regions has them."""
    full = [x for x in layouts if len(x)]
    if not full:
        return Layout.empty()
    scores = [x.scores for x in full if x.scores is not None]
    masks = [x.masks for x in full if x.masks is not None]
    captions = [caption for x in full for caption in (x.captions or [""] * len(x))]
    return Layout(
        boxes=torch.cat([x.boxes for x in full]),
        labels=[label for x in full for label in x.labels],
        captions=captions if any(captions) else [],
        scores=torch.cat(scores) if len(scores) == len(full) else None,
        masks=[mask for some in masks for mask in some] if len(masks) == len(full) else None,
    )
