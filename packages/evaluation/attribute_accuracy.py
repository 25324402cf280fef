"""AttributeAccuracy: has each region the colour and texture that its caption names?"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.crops import cut
from scenewright.evaluation.image_text import ImageText, region_texts
from scenewright.evaluation.scoring import Record, RecordingMetric, mean
from scenewright.layout import Image, Layout, Sample

#: Those of InstanceDiffusion's protocol.
_ATTRIBUTES = {
    "colour": ("black", "white", "red", "green", "yellow", "blue", "pink", "purple"),
    "texture": ("rubber", "fluffy", "metallic", "wooden", "plastic", "fabric", "leather", "glass"),
}


class AttributeAccuracy(RecordingMetric):
    """The share of regions for which CLIP chooses, among all attributes of a group, the one that is asked for.

    A region is asked for the attribute of a group that its caption or label names, as a word of its own, whatever its
    case. One that names none or several of a group is not asked for that group: it has no score, and misses none.
    CLIP sees the region's crop and chooses among the prompts of all attributes in the group; alike regions are asked
    one by one. Numbers are means over an image's regions, then over images that have any:

    - ``attribute_accuracy``: over all groups' questions;
    - one of each group's name;
    - ``local_clip``: the cosine of crop and caption, else label, in [-1, 1], of all regions.

    Per region, the groups' answers are in the record's ``arrays``: 1, 0, or NaN where it was not asked. A box of less
    than a pixel is a crop of one. A region with neither caption nor label has no ``local_clip``.

    Drawn scenes (``dataset=shapes``) can be analysed exactly, which ``shapes_accuracy`` does.

    Args:
        image_text: a CLIP.
        attributes: by group. InstanceDiffusion's eight colours and eight textures, if not given.
        prompt: what CLIP reads of an attribute, which stands for ``{attribute}``.
        compat: of a crop only the middle square is looked at, as by CLIP's own preprocessing in the reference. Else
            all of it, in a square of the colour that CLIP sees as zero.

    Raises:
        ValueError: a group has fewer than two attributes, or is called as one of the other numbers is; the prompt has
            no place for the attribute.

    Source: Wang et al. 2024, "InstanceDiffusion", arXiv 2402.03290: attribute binding.
    """

    def __init__(
        self,
        image_text: ImageText,
        attributes: Mapping[str, Sequence[str]] | None = None,
        prompt: str = "a {attribute} object",
        compat: bool = False,
    ) -> None:
        attributes = _ATTRIBUTES if attributes is None else attributes
        if "{attribute}" not in prompt:
            raise ValueError(f"attribute_accuracy: prompt must have {{attribute}} in it, got {prompt!r}")
        for group, names in attributes.items():
            if len(set(names)) < 2 or group in ("attribute_accuracy", "local_clip"):
                raise ValueError(f"attribute_accuracy: group {group!r} must have another name or more attributes")
        super().__init__()
        self.image_text, self.attributes, self.prompt, self.compat = image_text, attributes, prompt, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        """Crops and texts of all images go through the network together, and once for all questions."""
        crops = [cut(image, x.layout) for image, x in zip(generated, samples, strict=True)]
        pictures = [crop for some in crops for crop in some]
        if not pictures:
            return [self._record(x, torch.zeros(0, 1), {}) for x in samples]
        seen = self.image_text.of_pictures(pictures, whole=not self.compat)
        texts = [text for x in samples for text in region_texts(x.layout) if text]
        texts = list(dict.fromkeys(texts + [x for group in self.attributes for x in self._prompts(group)]))
        read = dict(zip(texts, self.image_text.of_texts(texts, seen.device).double(), strict=True))
        parts = seen.double().split([len(some) for some in crops])
        return [self._record(x, part, read) for x, part in zip(samples, parts, strict=True)]

    def _record(self, sample: Sample, seen: Float[Tensor, "n d"], read: Mapping[str, Float[Tensor, " d"]]) -> Record:
        texts = region_texts(sample.layout)
        local = [float(x @ read[text]) if text else math.nan for x, text in zip(seen, texts, strict=True)]
        right = {group: self._right(group, sample.layout, seen, read) for group in self.attributes}
        answers = [x for some in right.values() for x in some]
        asked = {name: mean(x) for name, x in (("attribute_accuracy", answers), *right.items())}
        return Record(
            sample.key,
            {"local_clip": local},
            {name: value for name, value in asked.items() if not math.isnan(value)},
            {group: np.array(x) for group, x in right.items()},
            [f"region {i} has neither caption nor label" for i, text in enumerate(texts) if not text],
        )

    def _right(
        self, group: str, layout: Layout, seen: Float[Tensor, "n d"], read: Mapping[str, Float[Tensor, " d"]]
    ) -> list[float]:
        """1 where the attribute that is named is chosen, 0 where another is, NaN where none or several are named."""
        truths = [_named(self.attributes[group], text) for text in _words(layout)]
        if all(x is None for x in truths):
            return [math.nan] * len(truths)
        chosen = (seen @ torch.stack([read[x] for x in self._prompts(group)]).T).argmax(1).tolist()
        return [math.nan if x is None else float(x == y) for x, y in zip(truths, chosen, strict=True)]

    def _prompts(self, group: str) -> list[str]:
        return [self.prompt.replace("{attribute}", name) for name in self.attributes[group]]


def _words(layout: Layout) -> list[str]:
    """All that is said of each region."""
    return [" ".join(x) for x in zip(layout.captions or [""] * len(layout), layout.labels, strict=True)]


def _named(names: Sequence[str], text: str) -> int | None:
    """Which one of the names is in a text as words of their own; None if none or several are."""
    found = [i for i, name in enumerate(names) if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None
