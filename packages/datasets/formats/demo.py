"""The small files that the published demos draw from.

Source: Cheng et al. 2024, arXiv 2409.04847, and Wang et al. 2024, arXiv 2402.03290, with their repositories.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from scenewright.datasets.formats.documents import to_json
from scenewright.datasets.formats.folder import file_stem
from scenewright.datasets.formats.pixels import corners, truncated
from scenewright.layout import Sample


class Demo:
    """``KEY.json`` on a square canvas for each image in which something was found, and ``KEY.jpg`` beside it.

    Args:
        style: ``rich_context`` has corners and captions, ``instancediffusion`` also labels, masks, points, scribbles
            and the caption.
        canvas: its sides in pixels; pictures are squashed to it, so that boxes fit.
        images: ``copy`` writes the squashed picture, ``none`` does not.

    Raises:
        ValueError: ``style`` or ``images`` is none of these.
    """

    def __init__(
        self,
        style: str = "rich_context",
        canvas: int = 512,
        images: str = "copy",
    ) -> None:
        if style not in ("rich_context", "instancediffusion"):
            raise ValueError(f"style must be rich_context or instancediffusion, got {style!r}")
        if images not in ("copy", "none"):
            raise ValueError(f"images must be copy or none, got {images!r}")
        self.style, self.canvas, self.images = style, canvas, images

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples' files; returns how many there are."""
        files = 0
        for sample in samples:
            if not len(sample.layout):
                continue
            stem = file_stem(sample.key)
            record = self._rich_context(sample) if self.style == "rich_context" else self._instancediffusion(sample)
            (folder / f"{stem}.json").write_bytes(to_json(record, indent=4))
            if self.images == "copy":
                picture = PILImage.fromarray(sample.image.permute(1, 2, 0).numpy())
                picture.resize((self.canvas, self.canvas), PILImage.Resampling.BICUBIC).save(
                    folder / f"{stem}.jpg", quality=95
                )
            files += 1
        return {"files": files}

    def _rich_context(self, sample: Sample) -> dict[str, Any]:
        boxes = corners(sample.layout, self.canvas, self.canvas).astype(int)
        return {"bboxes": boxes.tolist(), "labels": sample.layout.captions or sample.layout.labels}

    def _instancediffusion(self, sample: Sample) -> dict[str, Any]:
        layout = sample.layout
        boxes = truncated(corners(layout, self.canvas, self.canvas)).tolist()
        annos: list[dict[str, Any]] = []
        for i, (box, label) in enumerate(zip(boxes, layout.labels, strict=True)):
            # masks are read at their own size, whatever the canvas is
            mask = layout.masks[i] if layout.masks is not None and layout.masks[i].area else None
            anno = {
                "bbox": box,
                "mask": [] if mask is None else {"size": list(mask.size), "counts": mask.counts.decode()},
                "category_name": label,
                "caption": layout.captions[i] if layout.captions else label,
            }
            if layout.points is not None and not layout.points[i].isnan().any():
                (anno["point"],) = self._pixels(layout.points[i : i + 1])
            if layout.scribbles is not None and len(layout.scribbles[i]):
                anno["scribble"] = self._pixels(layout.scribbles[i])
            annos.append(anno)
        return {"caption": sample.caption, "width": self.canvas, "height": self.canvas, "annos": annos}

    def _pixels(self, points: Float[Tensor, "n 2"]) -> list[list[float]]:
        return (points.double().cpu() * self.canvas).numpy().round(3).tolist()
