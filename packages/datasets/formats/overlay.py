"""What people corrected, laid over the samples it is about."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from scenewright.datasets.formats.pictures import size_of
from scenewright.layout import Layout, RunLengths, Sample

#: Boxes that overlap by so much, with the same label, are the same region: what a format does not carry is kept.
SAME = 0.95


@dataclass(frozen=True)
class Region:
    """One region as a file has it; None is what it does not say.

    Attributes:
        box: ``x_min y_min x_max y_max``, fractions of the image.
        warning: what had to be guessed.
    """

    box: tuple[float, float, float, float]
    label: str
    caption: str | None = None
    score: float | None = None
    mask: RunLengths | None = None
    warning: str = ""

    @classmethod
    def of_pixels(
        cls,
        x: float,
        y: float,
        w: float,
        h: float,
        *,
        size: tuple[int, int],
        label: str,
        caption: str | None = None,
        score: float | None = None,
        mask: RunLengths | None = None,
    ) -> "Region":
        """A region whose left, top, width and height are in pixels of an image of ``size`` (height, width)."""
        height, width = size
        return cls((x / width, y / height, (x + w) / width, (y + h) / height), label, caption, score, mask)


#: The regions of one image, given its height and width.
Correction = Callable[[int, int], list[Region]]


@dataclass
class Tally:
    """How many samples were corrected, and how many were left as they were."""

    corrected: int = 0
    kept: int = 0


def overlay(
    samples: Iterable[Sample],
    corrections: Mapping[str, Correction],
    missing: str,
    tally: Tally,
) -> Iterator[Sample]:
    """The samples with the regions that people left, changed and added.

    Args:
        missing: what becomes of a sample that nothing was said of: it is kept, or loses its regions.
        tally: counts along.

    Raises:
        ValueError: a correction cannot be of this image.
    """
    for sample in samples:
        correction = corrections.get(sample.key)
        if correction is None and missing == "keep":
            tally.kept += 1
            yield sample
            continue
        tally.corrected += 1
        try:
            regions = [] if correction is None else correction(*size_of(sample))
            layout, warnings = assemble(regions, sample.layout, size_of(sample))
        except KeyError as error:
            raise ValueError(f"the correction of {sample.key!r} cannot be read: there is no {error}") from error
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"the correction of {sample.key!r} cannot be read: {error}") from error
        yield replace(sample, layout=layout, warnings=[*sample.warnings, *warnings])


def assemble(regions: Sequence[Region], before: Layout, size: tuple[int, int]) -> tuple[Layout, list[str]]:
    """One layout of regions that may each lack something.

    What a region lacks comes from the region it was before, found by label and box; else its caption is its
    label, its score 1, and its mask its box, with a warning. Points and scribbles come from there alone.

    Args:
        before: the image's layout until now.
        size: the image's height and width.
    """
    sound = [(x, box) for x in regions if (box := _clipped(x.box)) is not None]
    warnings = [x.warning for x, _ in sound if x.warning]
    if len(sound) < len(regions):
        warnings.append(f"{len(regions) - len(sound)} boxes have no area and were dropped")
    found, boxes = [x for x, _ in sound], torch.tensor([box for _, box in sound]).reshape(-1, 4)
    was = _matches(found, boxes, before)
    captions, scores, masks = [], [], []
    for i, (region, old) in enumerate(zip(found, was, strict=True)):
        captions.append(region.caption if region.caption is not None else _of(before.captions, old, region.label))
        scores.append(region.score if region.score is not None else _of(before.scores, old, 1.0))
        mask = region.mask if region.mask is not None else _of(before.masks, old, None)
        if mask is None and (before.masks or any(x.mask is not None for x in found)):
            mask = _filled(boxes[i], *size)
            warnings.append(f"region {i} ({region.label}) has no mask; its box was taken")
        masks.append(mask)
    has_captions = bool(before.captions) or any(x.caption is not None for x in found)
    has_scores = before.scores is not None or any(x.score is not None for x in found)
    layout = Layout(
        boxes=boxes,
        labels=[x.label for x in found],
        captions=captions if has_captions else [],
        scores=torch.tensor([float(x) for x in scores]) if has_scores else None,
        masks=masks if masks and masks[0] is not None else None,
        points=None if before.points is None else _points(before.points, was),
        scribbles=None if before.scribbles is None else [_of(before.scribbles, old, torch.zeros(0, 2)) for old in was],
    )
    return layout, warnings


def _clipped(box: Sequence[float]) -> list[float] | None:
    """The part of a box inside the image; None where there is none."""
    if not all(math.isfinite(x) for x in box):
        return None
    x0, y0, x1, y1 = (min(max(x, 0.0), 1.0) for x in box)
    return [x0, y0, x1, y1] if x1 > x0 and y1 > y0 else None


def _matches(regions: Sequence[Region], boxes: Float[Tensor, "n 4"], before: Layout) -> list[int | None]:
    """For each region, the one it was: of the same label, the one whose box overlaps most; None for new ones."""
    if not len(before) or not len(boxes):
        return [None] * len(boxes)
    overlaps, taken, found = box_iou(boxes, before.boxes.cpu()), set[int](), []
    for region, overlap in zip(regions, overlaps.tolist(), strict=True):
        same = [
            i
            for i, label in enumerate(before.labels)
            if label == region.label and i not in taken and overlap[i] >= SAME
        ]
        best = max(same, key=lambda i: overlap[i], default=None)
        if best is not None:
            taken.add(best)
        found.append(best)
    return found


def _points(before: Float[Tensor, "m 2"], was: Sequence[int | None]) -> Float[Tensor, "n 2"]:
    """For each region, the point of the one it was; NaN for new ones."""
    return torch.cat([before, before.new_full((1, 2), math.nan)])[[-1 if old is None else old for old in was]]


def _of(values, index: int | None, default):
    return default if values is None or not len(values) or index is None else values[index]


def _filled(box: Float[Tensor, " 4"], height: int, width: int) -> RunLengths:
    x0, y0, x1, y1 = (box * torch.tensor([width, height, width, height])).round().int().tolist()
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, min(y0, height - 1) : max(y1, y0 + 1), min(x0, width - 1) : max(x1, x0 + 1)] = True
    return RunLengths.encode(mask)[0]
