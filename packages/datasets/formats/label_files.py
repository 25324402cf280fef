"""One JSON file per image, as InstanceDiffusion's data generation and those derived from it write them.

Source: Wang et al. 2024, arXiv 2402.03290, and github.com/frank-xwang/InstanceDiffusion; Cheng et al. 2024,
arXiv 2409.04847 (Rich-Context), whose files are the same without embeddings.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from more_itertools import chunked
from PIL import Image as PILImage

from scenewright.datasets.files import join
from scenewright.datasets.formats.documents import to_json
from scenewright.datasets.formats.embeddings import Embeddings, TextEmbedder
from scenewright.datasets.formats.folder import file_stem
from scenewright.datasets.formats.pictures import size_of
from scenewright.datasets.formats.pixels import corners, truncated
from scenewright.layout import Layout, RunLengths, Sample


class LabelFiles:
    """``FOLDER/label_STEM.json`` for each image and ``train.txt``, which lists them.

    Boxes are whole pixels, truncated towards zero, ``area`` is the box's. Keys and constants are those of the
    published generators, among them some that nothing reads.

    Args:
        embedder: for ``text_embedding_before`` and ``blip_clip_embeddings``, which stay empty without one.
        embed_image: put the picture into the file, as JPEG of quality 75 in base64.
        masks: write masks, where there are some; else ``mask`` is null.
        indent: spaces; None for a single line.
        dataset_name: a constant in every file.
        folder: of the files; ``{batch}`` in it counts up by each ``files_per_folder``.
        files_per_folder: see ``folder``.
        name: ``stem`` of the image file, up to its first dot, or ``key`` of the sample.
        image_root: what ``file_name`` starts with.
        scores: ``truncated`` to two decimals, ``full``, or ``one`` for 1.0.
        min_caption_area: boxes of fewer square pixels get no caption of their own ...
        small_caption: ... but none (``empty``), their ``label``, or what the shards have after all (``keep``).
        write_empty: write a file for images in which nothing was found.
        longest_side: scale boxes as if the picture's longer side had so many pixels; None for its own.
        restore_border: count from the corner of the file, not of the picture inside its white border.
    """

    def __init__(
        self,
        embedder: TextEmbedder | None = None,
        embed_image: bool = False,
        masks: bool = True,
        indent: int | None = None,
        dataset_name: str = "ss-sim-0.3-aesthetic-5",
        folder: str = "train-data",
        files_per_folder: int = 100_000,
        name: str = "stem",
        image_root: str = "",
        scores: str = "truncated",
        min_caption_area: int = 1024,
        small_caption: str = "empty",
        write_empty: bool = False,
        longest_side: int | None = None,
        restore_border: bool = False,
    ) -> None:
        for field, value, choices in (
            ("name", name, ("stem", "key")),
            ("scores", scores, ("truncated", "full", "one")),
            ("small_caption", small_caption, ("empty", "label", "keep")),
        ):
            if value not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value!r}")
        self.embedder, self.embed_image, self.masks, self.indent = embedder, embed_image, masks, indent
        self.dataset_name, self.folder, self.files_per_folder = dataset_name, folder, files_per_folder
        self.name, self.image_root, self.scores = name, image_root, scores
        self.min_caption_area, self.small_caption, self.write_empty = min_caption_area, small_caption, write_empty
        self.longest_side, self.restore_border = longest_side, restore_border

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples' files; returns how many there are.

        Raises:
            ValueError: two images have one stem.
        """
        embeddings = None if self.embedder is None else Embeddings(self.embedder)
        files = 0
        with open(folder / "train.txt", "w", encoding="utf-8", errors="surrogateescape") as listed:
            for some in chunked(samples, 64):
                found = [sample for sample in some if self.write_empty or len(sample.layout)]
                records = [self.record(sample) for sample in found]
                if embeddings is not None:
                    self._embed(records, embeddings)
                for sample, record in zip(found, records, strict=True):
                    path = self._path(sample, files)
                    self._write(folder / path, record)
                    listed.write(f"{path}\n")
                    files += 1
        return {"files": files, "texts cut to 77 tokens": getattr(self.embedder, "truncated", 0)}

    def record(self, sample: Sample) -> dict[str, Any]:
        """A sample's file, its embeddings empty."""
        picture, layout = size_of(sample), sample.layout
        if self.restore_border and sample.source is not None and any(sample.source.border):
            _ = sample.image  # decoding tells whether the border is one
            picture, layout = _with_border(layout, *picture, sample.source.border)
        boxes = corners(layout, *picture)
        if self.longest_side is not None:
            boxes *= self.longest_side / max(picture)
        record = {
            "caption": sample.caption,
            "file_name": join(self.image_root, _file_name(sample)),
            "is_det": 0,
            "image": _jpeg(sample) if self.embed_image else None,
            "dataset_name": self.dataset_name,
            "data_id": 1,
            "annos": [self._annotation(layout, i, box) for i, box in enumerate(truncated(boxes).tolist())],
        }
        return {name: value for name, value in record.items() if name != "image" or self.embed_image}

    def _annotation(self, layout: Layout, i: int, box: list[int]) -> dict[str, Any]:
        area = box[2] * box[3]
        mask = layout.masks[i] if layout.masks is not None and self.masks else None
        return {
            "id": 0,
            "isfake": 0,
            "isreflected": 0,
            "bbox": box,
            "mask_value": i + 1,
            "mask": None if mask is None else {"size": list(mask.size), "counts": mask.counts.decode()},
            "pred_score": self._score(layout, i),
            "category_id": 0,
            "data_id": 0,
            "category_name": layout.labels[i],
            "text_embedding_before": "",
            "caption": self._caption(layout, i, area),
            "blip_clip_embeddings": "",
            "is_stuff": 0,
            "is_thing": 1,
            "area": area,
        }

    def _score(self, layout: Layout, i: int) -> float:
        if layout.scores is None or self.scores == "one":
            return 1.0
        score = layout.scores.cpu().numpy()[i]
        return truncated_score(float(score)) if self.scores == "truncated" else float(str(score))

    def _caption(self, layout: Layout, i: int, area: int) -> str:
        if area < self.min_caption_area and self.small_caption != "keep":
            return "" if self.small_caption == "empty" else layout.labels[i]
        if layout.captions:
            return layout.captions[i]
        return "" if self.small_caption == "empty" else layout.labels[i]

    def _embed(self, records: Sequence[Mapping[str, Any]], embeddings: Embeddings) -> None:
        regions = [region for record in records for region in record["annos"]]
        names, described = [x["category_name"] for x in regions], [_described(x) for x in regions if x["caption"]]
        vectors = embeddings.of([*names, *described])
        for region in regions:
            region["text_embedding_before"] = vectors[region["category_name"]]
            if region["caption"]:
                region["blip_clip_embeddings"] = vectors[_described(region)]

    def _path(self, sample: Sample, number: int) -> str:
        stem = file_stem(sample.key if self.name == "key" else PurePosixPath(_file_name(sample)).name.split(".")[0])
        return f"{self.folder.format(batch=number // self.files_per_folder)}/label_{stem}.json"

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "xb") as file:
                file.write(to_json(record, self.indent))
        except FileExistsError:
            raise ValueError(f"two images would both be {path.name}; say format.name=key") from None


def truncated_score(score: float) -> float:
    """A score cut to its first four characters, as the generators' labels carry it: 0.4379 becomes 0.43."""
    text = str(score)
    return float((f"{score:.17f}" if "e" in text else text)[:4])


def _described(region: Mapping[str, Any]) -> str:
    """The text of a caption's embedding: it names the category, where the caption does not."""
    label, caption = region["category_name"], region["caption"]
    return f"{label}. {caption}" if label.lower() not in caption.lower() else caption


def _file_name(sample: Sample) -> str:
    return sample.source.name if sample.source is not None and sample.source.name else f"{sample.key}.jpg"


def _jpeg(sample: Sample) -> str:
    file = io.BytesIO()
    PILImage.fromarray(sample.image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    return base64.b64encode(file.getvalue()).decode()


def _with_border(
    layout: Layout, height: int, width: int, border: tuple[int, int, int, int]
) -> tuple[tuple[int, int], Layout]:
    """The size of the file, and the layout in it."""
    left, top, right, bottom = border
    size = (height + top + bottom, width + left + right)
    boxes = (corners(layout, height, width) + [left, top, left, top]) / np.array([size[1], size[0], size[1], size[0]])
    masks = layout.masks
    if masks is not None:
        padded = [torch.nn.functional.pad(mask.decode(), (left, right, top, bottom)) for mask in masks]
        masks = [RunLengths.encode(mask[None])[0] for mask in padded]
    return size, replace(layout, boxes=torch.from_numpy(boxes).float(), masks=masks)
