"""Prompts that name personal concepts by tokens: what a model of scenes composed of them is taught."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from scenewright.datasets.files import fingerprint_of
from scenewright.datasets.shards import Shards
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset


class ConceptPrompts:
    """A dataset's composed scenes, each with a prompt that names its concepts by tokens in place of its caption.

    A scene has ``metadata["gen4gen"]``, with ``concepts``: for each region the concept that it shows, "scene/object";
    and ``background``: a phrase such as "in the garden". Its prompt is::

        <comp> photo of <cat1> cat, <dog1> dog and <houseplant1> house plant in the garden. <cat1> cat, <dog1> dog,
        <houseplant1> house plant.

    A concept is named once in each of the two, beside the label of its first region. A sample that lacks all this
    stays as it is.
    For ``evaluation/``, ``metadata["concepts"]`` becomes the object's folder of each region, and
    ``metadata["background_prompt"]`` the phrase.

    Args:
        dataset: whose scenes they are; what is read of it depends on what it can (a range, a length).
        composition: the token of the whole arrangement, at the beginning; None for none.
        repeat: name all concepts once more, so that none is forgotten.
        background: say the background, so that tokens learn what things look like and not where they are.
        backgrounds: phrases in place of the scenes' own, one after the other: for prompts that were not learnt.
        tokens: by concept, what it is named in place of its object's folder: ``{"scene/cat1": "<cat1>"}``. Brackets may
            be left out, as those of ``composition``.

    Raises:
        ValueError: a scene has not one concept for each region, or two concepts have one token.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.4; the wording is ours.
    """

    def __init__(
        self,
        dataset: RangedDataset,
        composition: str | None = "<comp>",
        repeat: bool = True,
        background: bool = True,
        backgrounds: Sequence[str] = (),
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.dataset, self.repeat = dataset, repeat
        self.composition = composition and _bracketed(composition)
        self.background, self.backgrounds, self.tokens = background, tuple(backgrounds), dict(tokens or {})
        self._owners: dict[str, str] = {}  # concepts by token, as far as samples were read

    @property
    def fingerprint(self) -> str:
        settings = [self.composition, self.repeat, self.background, self.backgrounds, sorted(self.tokens.items())]
        return fingerprint_of([self.dataset.fingerprint, *map(repr, settings)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Sample]:
        return (self._prompted(place, sample) for place, sample in enumerate(self.dataset))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples from ``start`` up to ``stop``."""
        samples = self.dataset.read(start, stop)
        return (self._prompted(place, sample) for place, sample in enumerate(samples, start))

    @cached_property
    def concepts(self) -> dict[str, str]:
        """By token, the class word of each concept: what ``layout_model.concepts`` wants. Reads all samples, no image.

        Raises:
            ValueError: there are no concepts, or two have one token.
        """
        found: dict[str, str] = {}
        for sample in self.dataset:
            for token, label in self._named(sample).values():
                found.setdefault(token, label)
        if not found:
            raise ValueError(
                "the dataset has no scene composed of concepts: no sample has metadata.gen4gen.concepts. "
                "entrypoints/annotate.py writes such shards; or name the concepts: layout_model.concepts={cat1: cat}"
            )
        return dict(sorted(found.items()))

    def _prompted(self, place: int, sample: Sample) -> Sample:
        named = self._named(sample)
        if not named:
            return sample
        phrase = str(_composed(sample).get("background") or "")
        if self.backgrounds:
            phrase = self.backgrounds[place % len(self.backgrounds)]
        objects = [_object_of(x) for x in _composed(sample)["concepts"]]
        known = {**sample.metadata, "concepts": objects, "background_prompt": phrase}
        return replace(sample, caption=self._prompt(list(named.values()), phrase), metadata=known)

    def _prompt(self, named: Sequence[tuple[str, str]], phrase: str) -> str:
        said = [f"{token} {label}" for token, label in named]
        joined = " and ".join([*([", ".join(said[:-1])] if said[1:] else []), said[-1]])
        words = [*([self.composition] if self.composition else ["a"]), "photo of", joined]
        prompt = " ".join([*words, *([phrase] if self.background and phrase else [])])
        return f"{prompt}. {', '.join(said)}." if self.repeat else prompt

    def _named(self, sample: Sample) -> dict[str, tuple[str, str]]:
        """Token and label of each concept of a sample, by the concept and in the order of the regions."""
        keys = [str(x) for x in _composed(sample).get("concepts") or []]
        if keys and len(keys) != len(sample.layout):
            raise ValueError(
                f"{sample.key}: metadata.gen4gen.concepts must name the concepts of all {len(sample.layout)} regions, "
                f"got {len(keys)}"
            )
        named: dict[str, tuple[str, str]] = {}
        for key, label in zip(keys, sample.layout.labels if keys else [], strict=True):
            token = self._token(key)
            if (owner := self._owners.setdefault(token, key)) != key:
                raise ValueError(f"{owner} and {key} would both be {token}; dataset.tokens={{{key}: NAME}} names one")
            named.setdefault(key, (token, label))
        return named

    def _token(self, key: str) -> str:
        name = self.tokens.get(key) or re.sub(r"[^a-z0-9_-]+", "_", _object_of(key).lower()).strip("_-")
        return _bracketed(name)


def tokens_of(dataset: ConceptPrompts | str) -> dict[str, str]:
    """By token, the class word of each concept of a dataset: what ``layout_model.concepts`` wants.

    Args:
        dataset: with prompts, or the folder of its shards.

    Raises:
        ValueError: it has no concepts, or two have one token.
    """
    return (ConceptPrompts(Shards(dataset)) if isinstance(dataset, str) else dataset).concepts


def _composed(sample: Sample) -> Mapping[str, Any]:
    return sample.metadata.get("gen4gen") or {}


def _bracketed(name: str) -> str:
    return name if name.startswith("<") else f"<{name}>"


def _object_of(key: str) -> str:
    """The object's folder."""
    return key.rpartition("/")[2]
