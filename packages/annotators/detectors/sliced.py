"""Sliced: any detector, on overlapping tiles and on the whole image, to find what is small.

Source: Akyon et al. 2022, arXiv 2202.06934 (SAHI). No weights of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewright.annotators.seeds import derived, seeded
from scenewright.annotators.suppression import suppress
from scenewright.layout import Image, Layout, RunLengths
from scenewright.protocols import Detector

#: Left, top, right, bottom, in pixels of the image.
_Tile = tuple[int, int, int, int]

#: A box that comes this near to the edge of its tile, in pixels, is taken to be cut off by it.
_TOUCHES = 2.0


class Sliced:
    """Finds regions in the tiles of an image and in the image itself, and merges them.

    The tiles of all images go to the detector at once. A box that an inner edge of its tile cuts off is dropped where
    most of it lies in a larger box of its label, of another tile or of the image: there the thing was seen whole.

    Args:
        detector: any; it must give scores.
        side: of a tile, in pixels. An image of no more than this is not sliced.
        overlap: of neighbouring tiles, as a fraction of ``side``, in [0, 1).
        whole: look at the whole image too, for what is larger than a tile.
        containment: the share of a cut box inside of the larger one from which on it is dropped, in (0, 1].
        nms_threshold: boxes of a higher IoU rule each other out.
        class_agnostic: whatever their labels.
        max_boxes: at most so many, the surest; None for all.
    """

    def __init__(
        self,
        detector: Detector,
        side: int = 640,
        overlap: float = 0.25,
        *,
        whole: bool = True,
        containment: float = 0.8,
        nms_threshold: float = 0.5,
        class_agnostic: bool = False,
        max_boxes: int | None = None,
    ) -> None:
        if side < 1 or not 0 <= overlap < 1:
            raise ValueError(f"side must be at least 1 and overlap in [0, 1), got {side} and {overlap}")
        self.detector, self.side, self.overlap, self.whole = detector, side, overlap, whole
        self.containment, self.nms_threshold = containment, nms_threshold
        self.class_agnostic, self.max_boxes = class_agnostic, max_boxes

    def detect(
        self, images: Sequence[Image], tags: Sequence[Sequence[str]], *, seeds: Sequence[int] | None = None
    ) -> list[Layout]:
        """Find the regions of each image, the surest first.

        Raises:
            ValueError: the detector gives regions without scores.
        """
        views = [self._views(*image.shape[1:]) for image in images]
        pieces = [
            image[:, top:bottom, left:right]
            for image, tiles in zip(images, views, strict=True)
            for left, top, right, bottom in tiles
        ]
        words = [given for given, tiles in zip(tags, views, strict=True) for _ in tiles]
        numbers = None
        if seeds is not None:
            numbers = [derived(s, i) for s, tiles in zip(seeds, views, strict=True) for i in range(len(tiles))]
        found = seeded(self.detector.detect, pieces, words, seeds=numbers)
        if len(found) != len(pieces):
            raise ValueError(f"{type(self.detector).__name__} gave {len(found)} layouts for {len(pieces)} tiles")
        # some may be on the CPU and others, remembered ones say, where their image is
        rest = iter([x.to(piece.device) for x, piece in zip(found, pieces, strict=True)])
        return [
            self._merged(image, tiles, list(islice(rest, len(tiles))))
            for image, tiles in zip(images, views, strict=True)
        ]

    def _views(self, height: int, width: int) -> list[_Tile]:
        """The image itself, and its tiles unless it is no larger than one."""
        tiles = tiles_of(height, width, self.side, self.overlap)
        image = (0, 0, width, height)
        return [image, *tiles] if self.whole and tiles != [image] else tiles

    def _merged(self, image: Image, tiles: Sequence[_Tile], found: Sequence[Layout]) -> Layout:
        """The regions of all views, in the frame of the image."""
        height, width = image.shape[1:]
        placed = [_moved(layout, tile, height, width) for layout, tile in zip(found, tiles, strict=True)]
        every = Layout.joined([replace(x, masks=None) for x in placed])
        if not len(every):
            return Layout.empty().to(image.device)
        cut = [_cut_off(layout, tile, height, width) for layout, tile in zip(found, tiles, strict=True)]
        parts = _parts_of_larger(every, torch.cat(cut).to(every.boxes.device), self.containment)
        seen = torch.arange(len(every))[~parts.cpu()]
        kept = seen[self._surest(every.keep(seen))]
        return replace(every.keep(kept), masks=_masks(found, tiles, kept.tolist(), height, width))

    def _surest(self, layout: Layout) -> Int[Tensor, " k"]:
        """The places of the regions that are kept, the surest first."""
        # suppress gives regions and not their places, so each carries its own through it
        numbered = replace(layout, captions=[str(i) for i in range(len(layout))])
        kept = suppress(
            numbered,
            nms_threshold=self.nms_threshold,
            class_agnostic=self.class_agnostic,
            max_boxes=self.max_boxes,
        )
        return torch.tensor([int(x) for x in kept.captions], dtype=torch.int64)


def tiles_of(height: int, width: int, side: int, overlap: float) -> list[_Tile]:
    """Tiles that cover an image, row by row; all of one size, the last ones pushed back inside.

    Args:
        side: of a tile; shorter only where the image is.
        overlap: of neighbours, as a fraction of ``side``; the last ones may overlap more.
    """
    stride = max(1, round(side * (1 - overlap)))

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return [*range(0, last, stride), last]

    return [
        (left, top, min(left + side, width), min(top + side, height))
        for top in starts(height)
        for left in starts(width)
    ]


def _moved(layout: Layout, tile: _Tile, height: int, width: int) -> Layout:
    """A tile's regions in fractions of the image; their masks stay in the tile."""
    left, top, right, bottom = tile
    boxes = layout.pixel_boxes(bottom - top, right - left) + layout.boxes.new_tensor([left, top, left, top])
    return replace(layout, boxes=boxes / boxes.new_tensor([width, height, width, height]))


def _cut_off(layout: Layout, tile: _Tile, height: int, width: int) -> Tensor:
    """(n,) bool: which of a tile's regions end at an edge of it that is none of the image."""
    left, top, right, bottom = tile
    x0, y0, x1, y1 = layout.pixel_boxes(bottom - top, right - left).unbind(1)
    cut = (x0 <= _TOUCHES) & (left > 0) | (y0 <= _TOUCHES) & (top > 0)
    return cut | (x1 >= right - left - _TOUCHES) & (right < width) | (y1 >= bottom - top - _TOUCHES) & (bottom < height)


def _parts_of_larger(layout: Layout, cut: Tensor, containment: float) -> Tensor:
    """(n,) bool: which of the cut regions lie in a larger one of the same label."""
    boxes = layout.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    names = {label: i for i, label in enumerate(dict.fromkeys(layout.labels))}
    labels = torch.tensor([names[label] for label in layout.labels], device=boxes.device)
    parts = torch.zeros_like(cut)
    for i in cut.nonzero().flatten().tolist():  # a row at a time: thousands of boxes squared would fill the memory
        larger = (areas > areas[i]) & (labels == labels[i])
        parts[i] = (larger & (_shared(boxes[i], boxes) >= containment * areas[i])).any()
    return parts


def _shared(box: Float[Tensor, " 4"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """The area that a box has in common with each of others."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    return sides.clamp(min=0).prod(1)


def _masks(
    found: Sequence[Layout], tiles: Sequence[_Tile], kept: Sequence[int], height: int, width: int
) -> list[RunLengths] | None:
    """The masks of the kept regions, put where their tiles are; None if any view has regions without masks."""
    if any(len(layout) and layout.masks is None for layout in found):
        return None
    every = [(mask, tile) for layout, tile in zip(found, tiles, strict=True) for mask in layout.masks or ()]
    placed = []
    for mask, (left, top, right, bottom) in (every[i] for i in kept):
        whole = torch.zeros(height, width, dtype=torch.bool)
        whole[top:bottom, left:right] = mask.decode()
        placed += RunLengths.encode(whole[None])
    return placed
