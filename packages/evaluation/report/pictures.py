"""One sample as the report shows it: a small picture, and a transparent layer with its regions.

The layer is a picture of its own, so the page can fade it out. ``supervision``
draws on opaque scenes only; what it draws on black and on white tells both the
colour and the opacity of every pixel.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import supervision as sv
from jaxtyping import Bool, UInt8
from PIL import Image as PILImage

from scenewright.evaluation.report.statistics import image_size
from scenewright.layout import Image, Layout, RunLengths, Sample

#: Neighbours differ in hue and in lightness; all can be told from a photograph in daylight.
COLOURS = (
    "#ff5470", "#2ec4f1", "#ffc233", "#8f7bff", "#3ddc84", "#ff8a3d",
    "#f472d0", "#14c9b0", "#b5d94c", "#5b8cff", "#d59bff", "#e8d06a",
)  # fmt: skip

#: Longer names are cut on the picture; the list beside it has them whole.
LONGEST_NAME = 18

#: With more regions than this, names would hide what they name: numbers stand for them.
MOST_NAMES = 6

#: Below this side, in pixels, a picture is shown enlarged, and what compression does to it would be too.
SMALL = 256


@dataclass(frozen=True)
class Region:
    """One line of a card's list. ``box`` is ``left top width height`` in percent of the picture."""

    number: int
    label: str
    caption: str
    score: float | None
    colour: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Card:
    """One sample, ready for the page: plain values and data URIs, no pixels."""

    key: str
    status: str
    caption: str
    tags: tuple[str, ...]
    regions: tuple[Region, ...]
    warnings: tuple[str, ...]
    source: str
    height: int
    width: int
    picture: str
    overlay: str
    note: str

    @property
    def size(self) -> str:
        """Width by height, for people; empty if unknown."""
        return f"{self.width} × {self.height}" if self.width else ""

    @property
    def ratio(self) -> float:
        """Width by height of the picture's place on the page."""
        return self.width / self.height if self.width else 4 / 3


def card(sample: Sample, thumbnail_size: int) -> Card:
    """Show one sample. A picture that cannot be decoded leaves its place empty, with a note that says why.

    Args:
        thumbnail_size: the longer side of picture and overlay, in pixels.
    """
    image, note = None, ""
    try:
        image = sample.image
    except (OSError, ValueError) as error:
        note = str(error) if sample.source else "the shards hold annotations only"
    height, width = tuple(image.shape[1:]) if image is not None else image_size(sample) or (0, 0)
    return Card(
        key=sample.key,
        status=sample.status.partition(":")[0],
        caption=sample.caption.strip(),
        tags=tuple(sample.tags),
        regions=regions(sample.layout),
        warnings=tuple(sample.warnings),
        source=sample.source.name if sample.source else "",
        height=height,
        width=width,
        picture="" if image is None else _picture(image, thumbnail_size),
        overlay=_overlay(sample.layout, height, width, thumbnail_size) if width else "",
        note=note or sample.error,
    )


def regions(layout: Layout) -> tuple[Region, ...]:
    """The lines of a card's list, in the layout's order and with the overlay's colours."""
    percent = np.nan_to_num(layout.boxes.detach().cpu().double().numpy()).clip(0, 1) * 100
    return tuple(
        Region(
            number=i + 1,
            label=layout.labels[i],
            caption=layout.captions[i] if layout.captions else "",
            score=None if layout.scores is None else float(layout.scores[i]),
            colour=COLOURS[i % len(COLOURS)],
            box=(float(x), float(y), max(0.0, float(x_max - x)), max(0.0, float(y_max - y))),
        )
        for i, (x, y, x_max, y_max) in enumerate(percent)
    )


def _picture(image: Image, thumbnail_size: int) -> str:
    pixels = image.permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[:2]
    height, width = fit(height, width, min(thumbnail_size, max(height, width)))
    small = PILImage.fromarray(pixels).resize((width, height), PILImage.Resampling.LANCZOS, reducing_gap=3.0)
    return _data_uri(small, quality=92 if max(small.size) < SMALL else 76, method=4)


def _overlay(layout: Layout, height: int, width: int, thumbnail_size: int) -> str:
    if not len(layout):
        return ""
    layer = overlay(layout, *fit(height, width, thumbnail_size))
    return _data_uri(PILImage.fromarray(layer), lossless=True, quality=60, method=4)


def _data_uri(image: PILImage.Image, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def fit(height: int, width: int, longer: int) -> tuple[int, int]:
    """The size with the same proportions whose longer side is ``longer``; no side falls below one pixel."""
    scale = longer / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def overlay(layout: Layout, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 4"]:
    """Draw a layout's masks, boxes and names on nothing: RGBA, transparent where no region is."""
    detections = _detections(layout, height, width)
    crowded = len(layout) > MOST_NAMES
    names = [str(i + 1) if crowded else _name(i, label) for i, label in enumerate(layout.labels)]
    black = _draw(np.zeros((height, width, 3), np.uint8), detections, names).astype(np.float32)
    white = _draw(np.full((height, width, 3), 255, np.uint8), detections, names).astype(np.float32)
    opacity = 255 - (white - black).mean(axis=2).clip(0, 255)
    colour = black[..., ::-1] * 255 / np.maximum(opacity, 1)[..., None]  # supervision's scenes are BGR
    return np.dstack([colour.clip(0, 255), opacity]).round().astype(np.uint8)


def _name(index: int, label: str) -> str:
    """Number and label; the number alone where the drawing font may lack the letters."""
    short = label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1].rstrip() + "."
    return f"{index + 1} {short}".strip() if label.isascii() and label.isprintable() else f"{index + 1}"


def _detections(layout: Layout, height: int, width: int) -> sv.Detections:
    boxes = layout.pixel_boxes(height, width).detach().cpu().numpy().astype(np.float32)
    limits = np.array([width, height, width, height], np.float32) - 1
    masks = None if layout.masks is None else _masks(layout.masks, height, width)
    return sv.Detections(xyxy=np.nan_to_num(boxes).clip(0, limits), mask=masks, class_id=np.arange(len(layout)))


def _masks(masks: Sequence[RunLengths], height: int, width: int) -> Bool[np.ndarray, "n {height} {width}"]:
    """Decoded and resized one by one, so that thirty masks of a large photograph never lie side by side."""
    enlarge = max(height, width) > max(masks[0].size) if masks else False
    interpolation = cv2.INTER_LINEAR if enlarge else cv2.INTER_AREA  # smooth outlines either way
    planes = (mask.decode().numpy().astype(np.float32) for mask in masks)
    return np.stack([cv2.resize(x, (width, height), interpolation=interpolation) > 0.5 for x in planes])


def _draw(scene: UInt8[np.ndarray, "h w 3"], detections: sv.Detections, names: list[str]) -> np.ndarray:
    palette = sv.ColorPalette.from_hex(list(COLOURS))
    height, width = scene.shape[:2]
    unit = max(width, height * 4 / 3) / 640  # cards are 4 : 3, so names look equally large on tall and broad pictures
    options = {"color": palette, "color_lookup": sv.ColorLookup.INDEX}
    scene = sv.MaskAnnotator(opacity=0.3, **options).annotate(scene, detections)
    scene = sv.PolygonAnnotator(thickness=max(1, round(unit)), **options).annotate(scene, detections)
    scene = sv.BoxAnnotator(thickness=max(1, round(2 * unit)), **options).annotate(scene, detections)
    if min(height, width) < 24:  # no room for a word
        return scene
    written = sv.RichLabelAnnotator(
        text_color=sv.Color.BLACK,
        font_size=max(8, round(20 * unit)),
        text_padding=max(1, round(3 * unit)),
        border_radius=max(1, round(3 * unit)),
        smart_position=True,
        **options,
    )
    return written.annotate(scene, detections, labels=names)
