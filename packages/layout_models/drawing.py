"""What every layout model is asked to draw, with text features for those that read them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from scenewright.layout import Images, Layout


def draw(
    model: Any,
    captions: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    text_features: Sequence[Float[Tensor, " _c"] | None] = (),
    *,
    height: int,
    width: int,
) -> Images:
    """One image per caption, as the model's ``sample`` draws it.

    Args:
        model: with the verbs of a ``LayoutModel``; where its ``sample`` has an argument ``text_features``, it is given
            them. Any other one draws what the captions say.
        captions: of the images.
        layouts: one per image.
        seeds: one per image.
        text_features: one per image, or none at all; None where the caption counts.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    given: dict[str, Any] = {}
    if any(x is not None for x in text_features) and "text_features" in inspect.signature(model.sample).parameters:
        given = {"text_features": list(text_features)}
    return model.sample(captions, layouts, seeds, height=height, width=width, **given)
