"""GLIGEN's training data: a table with image, boxes and text features in each line.

Source: Li et al. 2023, arXiv 2301.07093, and the loader of github.com/gligen/GLIGEN.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from more_itertools import chunked

from scenewright.datasets.formats.embeddings import Embeddings, TextEmbedder, to_base64
from scenewright.datasets.formats.pictures import picture_file, size_of
from scenewright.datasets.formats.pixels import xywh
from scenewright.layout import Sample

#: What the loader asks for and training on text does not use. It would fail on vectors of another length.
_NO_IMAGE = to_base64(torch.zeros(768))


class GLIGEN:
    """``train.tsv``, a number and a JSON in each line, and ``train.lineidx``, where the lines begin.

    ``text_embedding_before`` holds CLIP's pooled state before the projection, as GLIGEN grounds on by default.
    Those after it are empty and those of images zero, so grounding on image crops needs other data. Images in
    which nothing was found are left out.

    Args:
        embedder: of the texts; without one, ``text_embedding_before`` is empty, and training not possible.
        text: what grounds a box: its ``label`` or its ``caption``.

    Raises:
        ValueError: ``text`` is none of these.
    """

    def __init__(self, embedder: TextEmbedder | None = None, text: str = "label") -> None:
        if text not in ("label", "caption"):
            raise ValueError(f"text must be label or caption, got {text!r}")
        self.embedder, self.text = embedder, text

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns how many lines there are, and what was done besides."""
        embeddings = None if self.embedder is None else Embeddings(self.embedder)
        lines = redrawn = 0
        with open(folder / "train.tsv", "wb") as table, open(folder / "train.lineidx", "w") as index:
            for some in chunked((x for x in samples if len(x.layout)), 64):
                texts = [self._texts(sample) for sample in some]
                vectors = {} if embeddings is None else embeddings.of(x for found in texts for x in found)
                for sample, found in zip(some, texts, strict=True):
                    data, anew = picture_file(sample)
                    record = self._record(sample, data, lines, [vectors.get(x, "") for x in found])
                    index.write(f"{table.tell()}\n")
                    # its readers seek in characters, so these have to be bytes
                    table.write(f"{lines}\t{json.dumps(record)}\n".encode("ascii"))
                    lines, redrawn = lines + 1, redrawn + anew
        cut = getattr(self.embedder, "truncated", 0)
        return {"lines": lines, "pictures made anew": redrawn, "texts cut to 77 tokens": cut}

    def _texts(self, sample: Sample) -> list[str]:
        return sample.layout.captions if self.text == "caption" and sample.layout.captions else sample.layout.labels

    def _record(self, sample: Sample, image: bytes, number: int, vectors: Sequence[str]) -> dict[str, Any]:
        boxes = xywh(sample.layout, *size_of(sample))
        return {
            "data_id": number,
            "key": sample.key,
            "image": base64.b64encode(image).decode(),
            "caption": sample.caption,
            "is_det": int(not sample.caption),  # the loader then makes a caption of the category names
            "annos": [
                {
                    "id": i,
                    "data_id": number,
                    "bbox": box,
                    "area": round(box[2] * box[3], 6),
                    "category_name": sample.layout.labels[i],
                    "text_embedding_before": vector,
                    "text_embedding_after": "",
                    "image_embedding_before": _NO_IMAGE,
                    "image_embedding_after": _NO_IMAGE,
                }
                for i, (box, vector) in enumerate(zip(boxes, vectors, strict=True))
            ],
        }
