"""Attribute phrases: what is asked of a thing besides being there, such as "red car"."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from scenewright.datasets.files import fingerprint_of
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset

#: Those of InstanceDiffusion's protocol, in its order.
ATTRIBUTES = {
    "colour": ("black", "white", "red", "green", "yellow", "blue", "pink", "purple"),
    "texture": ("rubber", "fluffy", "metallic", "wooden", "plastic", "fabric", "leather", "glass"),
}


class AttributePhrases:
    """A dataset's layouts, in which each region's caption is an attribute and its label: "red car".

    What attribute a region gets depends on its number alone, which counts through the attributes over and over. The
    number is that of the annotation, where ``metadata["annotation_ids"]`` has one for each region (``dataset=coco``
    with ``annotation_ids``); else the place of the sample in the dataset and the region's in it, added. All else of a
    sample stays.

    Args:
        dataset: its labels are the categories.
        attributes: ``colour``, ``texture``, or attributes of your own.
        seed: is added to the numbers.

    Raises:
        ValueError: there is no such group, or it has no attributes.

    Source: Wang et al. 2024, "InstanceDiffusion", arXiv 2402.03290: attribute binding.
    """

    def __init__(self, dataset: RangedDataset, attributes: str | Sequence[str] = "colour", seed: int = 0) -> None:
        if isinstance(attributes, str) and attributes not in ATTRIBUTES:
            raise ValueError(f"attributes must be {' or '.join(ATTRIBUTES)}, or a list of them, got {attributes!r}")
        if not attributes:
            raise ValueError("attributes must have at least one, got none")
        self.dataset, self.seed = dataset, seed
        self.attributes = ATTRIBUTES[attributes] if isinstance(attributes, str) else tuple(attributes)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self.dataset.fingerprint, repr(self.attributes), str(self.seed)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        samples = islice(self.dataset.read(start, stop), max(stop - start, 0))
        return (self._asked(place, sample) for place, sample in enumerate(samples, start))

    def _asked(self, place: int, sample: Sample) -> Sample:
        layout = sample.layout
        numbers = sample.metadata.get("annotation_ids")
        if numbers is None or len(numbers) != len(layout):
            numbers = range(place, place + len(layout))
        chosen = [self.attributes[(number + self.seed) % len(self.attributes)] for number in numbers]
        phrases = [f"{attribute} {label}" for attribute, label in zip(chosen, layout.labels, strict=True)]
        return replace(sample, layout=replace(layout, captions=phrases))
