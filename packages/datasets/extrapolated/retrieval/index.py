"""Images of any dataset, found by keyword among their features: a search engine without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated.records import Gauge, JointEncoder, Pool, Query
from scenewright.datasets.extrapolated.solving import nearest
from scenewright.datasets.files import fingerprint_of
from scenewright.protocols import RangedDataset


class Index:
    """For each keyword, the images of a dataset whose features are most like it. The search is exact.

    An image that several keywords find is of the one that it is most like.

    Args:
        dataset: any, and any number of images: shards of web images.
        top_k: images of a keyword.
        query: "text" compares with the feature of ``template``, which takes an encoder of texts and images (CLIP);
            "images" with the mean feature of the keyword's originals, which any encoder has.
        template: ``{keyword}`` stands for the keyword.
        backend: "faiss" (its flat index), "torch" (blocked products), or "auto": faiss where it is installed. They
            find the same.

    Raises:
        ValueError: a setting is none of these; on use, the encoder knows no texts.
        ModuleNotFoundError: on use, faiss is asked for and not installed.

    Source: Johnson et al. 2017, "Billion-scale similarity search with GPUs", arXiv 1702.08734, for faiss.
    """

    def __init__(
        self,
        dataset: RangedDataset,
        top_k: int = 500,
        query: str = "text",
        template: str = "a photo of a {keyword}",
        backend: str = "auto",
    ) -> None:
        if top_k < 1 or query not in ("text", "images") or backend not in ("auto", "faiss", "torch"):
            raise ValueError(
                "top_k must be at least 1, query text or images, backend auto, faiss or torch, "
                f"got {top_k}, {query!r}, {backend!r}"
            )
        if "{keyword}" not in template:
            raise ValueError(f"template must have a place for {{keyword}}, got {template!r}")
        self.dataset, self.top_k, self.query, self.template, self.backend = dataset, top_k, query, template, backend

    @property
    def fingerprint(self) -> str:
        settings = [self.top_k, self.query, self.template]
        return fingerprint_of(["index", self.dataset.fingerprint, json.dumps(settings)])

    def retrieve(self, queries: Sequence[Query], gauge: Gauge) -> Pool:
        """The nearest images of all queries."""
        measured = gauge.measure(self.dataset)
        readable = [i for i, problem in enumerate(measured.problems) if not problem]
        asked = self._asked(queries, gauge)
        features = measured.features[readable]
        if readable and len(asked) and features.shape[1] != asked.shape[1]:
            raise ValueError(f"features of images have {features.shape[1]} values, those of queries {asked.shape[1]}")
        cosines, places = search(features, asked, self.top_k, self.backend)
        best: dict[int, tuple[float, str]] = {}
        for query, row, found in zip(queries, cosines.tolist(), places.tolist(), strict=True):
            for cosine, place in zip(row, found, strict=True):
                if cosine > best.get(readable[place], (-np.inf, ""))[0]:
                    best[readable[place]] = cosine, query.keyword
        chosen = sorted(best)
        notes = {
            "searched": len(measured.keys),
            "unreadable": len(measured.keys) - len(readable),
            "images": len(chosen),
        }
        return Pool(chosen, [best[i][1] for i in chosen], notes)

    def _asked(self, queries: Sequence[Query], gauge: Gauge) -> Float[Tensor, "q d"]:
        if self.query == "images":
            return torch.stack([x.feature for x in queries]) if queries else torch.zeros(0, 0)
        if not isinstance(gauge.encoder, JointEncoder):
            raise ValueError(
                f"{type(gauge.encoder).__name__} says nothing of texts: choose dataset/extrapolated/encoder=clip, or "
                "dataset.retrieval.query=images"
            )
        texts = [self.template.replace("{keyword}", x.keyword) for x in queries]
        return normalize(gauge.encoder.encode_texts(texts).float().cpu())


def search(
    features: Float[Tensor, "n d"], queries: Float[Tensor, "q d"], k: int, backend: str = "auto"
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The cosines with the ``k`` rows most like each query, or with all where there are fewer, and their places.

    Args:
        features, queries: of length 1.
        backend: "faiss", "torch", or "auto": faiss where it is installed.

    Raises:
        ModuleNotFoundError: faiss is asked for and not installed.
    """
    if backend == "torch" or (backend == "auto" and find_spec("faiss") is None) or not len(features):
        return nearest(queries, features, k)
    try:
        faiss = import_module("faiss")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "faiss is not installed: pip install 'scenewright[faiss]', or backend=torch"
        ) from None
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features.contiguous().numpy())
    cosines, places = index.search(queries.contiguous().numpy(), min(k, len(features)))
    return torch.from_numpy(cosines), torch.from_numpy(places)
