"""The small dataset that text features are extrapolated from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenewright.datasets.extrapolated.keywords import keyword_of, same
from scenewright.datasets.extrapolated.measuring import FileGauge
from scenewright.datasets.extrapolated.records import Query, TextEncoder
from scenewright.layout import Sample
from scenewright.protocols import RangedDataset

#: Texts that are encoded together.
_TEXTS = 1024


@dataclass(frozen=True, eq=False)
class Originals:
    """``m`` labelled and captioned images, each file once.

    Attributes:
        keys: of their samples; of a file that is several samples, the first.
        keywords: their classes.
        digests: of their files.
        features: ``(m, d)`` of length 1.
        texts: ``(m, c)``, of their captions.
        counts: what was left out, for the summary.
    """

    keys: list[str]
    keywords: list[str]
    digests: list[str]
    features: Float[Tensor, "m d"]
    texts: Float[Tensor, "m c"]
    counts: dict[str, Any]

    def of(self, keyword: str) -> Float[Tensor, "n d"]:
        """The features of a class."""
        return self.features[[i for i, x in enumerate(self.keywords) if x == keyword]]

    def queries(self) -> list[Query]:
        """One per class, in the order of their names."""
        means = {x: self.of(x).mean(0) for x in sorted(set(self.keywords))}
        return [Query(x, torch.nn.functional.normalize(mean, dim=0)) for x, mean in means.items()]


def read_originals(
    dataset: RangedDataset,
    gauge: FileGauge,
    text_encoder: TextEncoder,
    keyword: str,
    captions: str,
    device: torch.device,
) -> Originals:
    """Read, measure and encode the originals.

    Args:
        keyword: where a sample's class is; see ``keyword_of``.
        captions: "mean": an original's text feature is the mean of its captions', its caption's lines and those of
            ``metadata["captions"]``; "first": that of the first one.

    Raises:
        ValueError: no image can be used: none can be read, has a keyword and has a caption.
    """
    said: list[tuple[str, list[str]]] = []
    measured = gauge.measure(
        dataset, look=lambda sample: said.append((keyword_of(sample, keyword), captions_of(sample)))
    )
    left_out: Counter[str] = Counter()
    files: dict[str, tuple[int, str, list[str]]] = {}
    spelled: dict[str, str] = {}
    for i, ((word, texts), problem) in enumerate(zip(said, measured.problems, strict=True)):
        if problem or not word or not texts:
            left_out["unreadable" if problem else "without a keyword" if not word else "without a caption"] += 1
            continue
        _, _, known = files.setdefault(measured.digests[i], (i, spelled.setdefault(same(word), word), []))
        known.extend(x for x in texts if x not in known)
    if not files:
        raise ValueError(f"no original has an image, a keyword ({keyword!r}) and a caption: {dict(left_out)}")
    chosen = list(files.values())
    texts = _text_features([x[:1] if captions == "first" else x for _, _, x in chosen], text_encoder, device)
    return Originals(
        keys=[measured.keys[i] for i, _, _ in chosen],
        keywords=[word for _, word, _ in chosen],
        digests=list(files),
        features=measured.features[[i for i, _, _ in chosen]],
        texts=texts,
        counts={"images": len(chosen), "samples": len(said), "keywords": len(spelled), **left_out},
    )


def captions_of(sample: Sample) -> list[str]:
    """All captions of a sample, each once: its caption's lines, and ``metadata["captions"]``."""
    more = sample.metadata.get("captions")
    lines = [*sample.caption.splitlines(), *(map(str, more) if isinstance(more, (list, tuple)) else ())]
    return list(dict.fromkeys(x.strip() for x in lines if x.strip()))


def _text_features(texts: list[list[str]], encoder: TextEncoder, device: torch.device) -> Float[Tensor, "m c"]:
    """The mean feature of each image's texts."""
    distinct = list(dict.fromkeys(x for some in texts for x in some))
    rows = [encoder.encode(distinct[i : i + _TEXTS], device).float().cpu() for i in range(0, len(distinct), _TEXTS)]
    features, place = torch.cat(rows), {text: i for i, text in enumerate(distinct)}
    return torch.stack([features[[place[x] for x in some]].mean(0) for some in texts])
