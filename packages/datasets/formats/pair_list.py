"""A list of images with their captions: what text-to-image models without layouts learn from.

Source: the metadata files of RAT-Diffusion, Ye and Liu 2024, arXiv 2410.01638.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scenewright.datasets.formats.documents import to_json
from scenewright.datasets.formats.pictures import Pictures
from scenewright.layout import Sample


class PairList:
    """``pairs.json``: ``[["images/KEY.jpg", ["caption", …]], …]``; ``dataset=pair_list`` reads it.

    An image's captions are its own first, then others of ``metadata["captions"]``. A sample with a text feature has
    its numbers as a third entry. Regions are left out.

    Args:
        images: ``copy`` the files; ``link`` to those below ``image_root``; or ``none``.
        image_root: what links start from.

    Raises:
        ValueError: ``images`` is none of these.
    """

    def __init__(self, images: str = "copy", image_root: str | None = None) -> None:
        if images not in ("copy", "link", "none"):
            raise ValueError(f"images must be copy, link or none, got {images!r}")
        self.images, self.image_root = images, image_root

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns how many captions there are, and what was done besides."""
        pictures = Pictures(folder / "images", self.images, self.image_root)
        captions = features = 0
        with open(folder / "pairs.json", "wb") as file:
            file.write(b"[")
            for number, sample in enumerate(samples):
                record = [f"images/{pictures.place(sample)}", _captions(sample), *_feature(sample)]
                file.write((b",\n" if number else b"\n") + to_json(record))
                captions += len(record[1])
                features += len(record) - 2
            file.write(b"\n]\n")
        return {"captions": captions, "text features": features, "pictures made anew": pictures.redrawn}


def _captions(sample: Sample) -> list[str]:
    others = sample.metadata.get("captions")
    every = [sample.caption, *(others if isinstance(others, (list, tuple)) else [])]
    return [x for x in dict.fromkeys(map(str, every)) if x]


def _feature(sample: Sample) -> list[Any]:
    return [] if sample.text_feature is None else [sample.text_feature.tolist()]
