"""What metrics that ask a CLIP have in common: what they show it, what they have it read, and how they score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.crops import cut, cut_truncated, truncated
from scenewright.evaluation.scoring import Record
from scenewright.layout import Image, Layout, Sample


@runtime_checkable
class ImageText(Protocol):
    """Directions of pictures and of texts, of length 1, on one sphere."""

    def of_pictures(self, pictures: Sequence[Image], whole: bool = False) -> Float[Tensor, "n d"]:
        """One per picture: of all of it, or of its middle square."""
        ...

    def of_texts(self, texts: Sequence[str], device: torch.device | str) -> Float[Tensor, "n d"]:
        """One per text; equal texts are read once."""
        ...

    def logits(self, cosines: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The network's own score of pictures and texts with these cosines: scale × cosine."""
        ...


def region_texts(layout: Layout) -> list[str]:
    """What each region is to show: its caption, else its label; empty where it has neither."""
    captions = layout.captions or [""] * len(layout)
    return [next((x for x in pair if x.strip()), "") for pair in zip(captions, layout.labels, strict=True)]


def region_crops(image: Image, layout: Layout, compat: bool) -> list[Image | None]:
    """The crop of each region.

    Args:
        compat: corners are cut off to whole pixels toward zero, and a box without any whole pixel has no crop. Else
            corners are rounded outward, and every box has one of at least one pixel.
    """
    if not compat:
        return list(cut(image, layout))
    inside = [x1 > x0 and y1 > y0 for x0, y0, x1, y1 in truncated(image, layout)]
    return [crop if some else None for crop, some in zip(cut_truncated(image, layout), inside, strict=True)]


def cosines(
    image_text: ImageText, pictures: Sequence[Image], texts: Sequence[str], compat: bool
) -> Float[Tensor, " n"]:
    """The cosine of each picture with its own text, in [-1, 1]; all in batches together.

    Args:
        compat: only the middle square of a picture is looked at, as the network was trained; else all of it.
    """
    if not pictures:
        return torch.zeros(0)
    seen = image_text.of_pictures(pictures, whole=not compat)
    read = image_text.of_texts(texts, seen.device)
    return (seen.double() * read.double()).sum(1)


def region_records(
    name: str, image_text: ImageText, generated: Sequence[Image], samples: Sequence[Sample], compat: bool
) -> list[Record]:
    """Of each region, the network's logit of its crop and its text: scale × cosine."""
    records: list[Record] = []
    asked: list[tuple[Image, str, list[float], int]] = []
    for image, sample in zip(generated, samples, strict=True):
        scores, problems = [math.nan] * len(sample.layout), []
        crops = region_crops(image, sample.layout, compat)
        for i, (crop, text) in enumerate(zip(crops, region_texts(sample.layout), strict=True)):
            if not text:
                problems.append(f"region {i} has neither caption nor label")
            elif crop is None:
                problems.append(f"region {i}: its box has no whole pixel; the reference drops such a crop")
            else:
                asked.append((crop, text, scores, i))
        records.append(Record(sample.key, {name: scores}, problems=problems))
    if asked:
        found = image_text.logits(cosines(image_text, [x[0] for x in asked], [x[1] for x in asked], compat))
        for (_, _, scores, i), value in zip(asked, found.tolist(), strict=True):
            scores[i] = value
    return records


def image_records(
    name: str,
    image_text: ImageText,
    generated: Sequence[Image],
    samples: Sequence[Sample],
    texts: Sequence[str],
    *,
    missing: str,
    compat: bool,
    scaled: bool = True,
) -> list[Record]:
    """Of each image and its text, the network's logit, or the cosine.

    Args:
        texts: one per image.
        missing: the problem of an image whose text is empty.
        scaled: the logit: scale × cosine.
    """
    said = [i for i, text in enumerate(texts) if text.strip()]
    found = cosines(image_text, [generated[i] for i in said], [texts[i] for i in said], compat)
    if said and scaled:
        found = image_text.logits(found)
    scores = dict(zip(said, found.tolist(), strict=True))
    return [
        Record(x.key, image={name: scores.get(i, math.nan)}, problems=[] if i in scores else [missing])
        for i, x in enumerate(samples)
    ]
