"""PiM: do the instances found in an image cover the layout's points?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from scenewright.crops import corners
from scenewright.evaluation.found_boxes import category, look_for
from scenewright.evaluation.scoring import Record, RecordingMetric, mean
from scenewright.layout import Image, Layout, RunLengths, Sample, coco
from scenewright.protocols import Detector, Segmenter


class PiM(RecordingMetric):
    """Points in mask: whether a region's points lie in the mask of the instance that was found for it, 0 .. 1.

    A detector looks for the layout's labels, a segmenter cuts out what it found, unless the detector has masks. Each
    region, in the layout's order, takes the instance with the highest mask IoU that no region before it took, whatever
    its label. Then ``pim`` is 1 if the region's point is in the instance's mask, and ``scribble`` the share of the
    points of its scribble that are. A region whose mask meets no instance that is left has 0 for both.

    The point and the scribble are those that the layout gives. A region without a point has the centre of the box of
    its mask, one without a scribble has ``points`` random pixels of its mask, drawn without repetition where there are
    so many.

    All is compared at the size of the layout's own masks. A layout without masks is compared by its boxes, at the size
    of the image and at least one pixel each: ``pim`` looks at the point, else the box's centre, and ``scribble`` only
    at scribbles that are given, since nobody knows which pixels are the thing; where only some regions have one, it is
    a number of the image. A region with an empty mask is not scored. In a layout without any label there is nothing to
    look for: if nothing is found there, no region is scored. An empty layout has no scores; equal labels are asked for
    once.

    Args:
        detector: its thresholds and suppression are part of what is measured.
        points: of a scribble that is drawn.
        seed: of the scribbles that are drawn, together with the sample's key: all images of a layout have the same.
        compat: as the reference does: an instance without any overlap is taken too, and a region for which none is left
            is not scored. So a missing object costs nothing once others were found. Points and scribbles that the
            layout gives are not looked at, but drawn anew.

    Raises:
        ValueError: ``points`` is below 1.

    Source: Wang et al. 2024, "InstanceDiffusion", arXiv 2402.03290, and its ``eval_pim.py``.
    """

    def __init__(
        self, detector: Detector, segmenter: Segmenter, *, points: int = 20, seed: int = 0, compat: bool = False
    ) -> None:
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}")
        super().__init__()
        self.detector, self.segmenter = detector, segmenter
        self.points, self.seed, self.compat = points, seed, compat

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        found = look_for(self.detector, generated, [x.layout for x in samples])
        bare = [x if x.masks is None else Layout.empty() for x in found]  # what is still to be cut out
        cut = self.segmenter.segment(generated, bare)
        masks = [made if x.masks is None else x.masks for x, made in zip(found, cut, strict=True)]
        return [self._record(*x) for x in zip(generated, samples, masks, strict=True)]

    def _record(self, image: Image, sample: Sample, found: Sequence[RunLengths]) -> Record:
        layout, problems = sample.layout, []
        if self.compat:
            layout = replace(layout, points=None, scribbles=None)
        names = ("pim",) if layout.masks is None and layout.scribbles is None else ("pim", "scribble")
        if not found and len(layout) and not any(map(category, layout.labels)):
            why = "no region has a label, so there is nothing to look for"
            return Record(sample.key, {x: [math.nan] * len(layout) for x in names}, problems=[why])
        wanted = _masks(image, layout)
        found = [x.resized(*wanted[0].size) for x in found] if wanted else []
        taken = _matched(_overlaps(wanted, found), touching=not self.compat)
        scores: dict[str, list[float]] = {name: [] for name in names}
        for i, (mask, place) in enumerate(zip(wanted, taken, strict=True)):
            why = self._unscored(mask, place)
            if why:
                problems.append(f"region {i}: {why}")
            instance = None if place is None else found[place].decode().numpy()
            points = (
                {} if why else {"pim": _point(layout, i, mask), "scribble": self._scribble(sample.key, layout, i, mask)}
            )
            for name in names:
                scores[name].append(math.nan if points.get(name) is None else _share(points[name], instance))
        if layout.masks is None and not all(map(len, layout.scribbles or [])):
            return Record(sample.key, {"pim": scores["pim"]}, _known(scores.get("scribble", [])), problems=problems)
        return Record(sample.key, scores, problems=problems)

    def _unscored(self, mask: RunLengths, place: int | None) -> str:
        """Why a region has no score; nothing if it has one."""
        if not mask.area:
            return "its mask is empty"
        return "no instance is left for it, and the reference leaves it out" if self.compat and place is None else ""

    def _scribble(self, key: str, layout: Layout, region: int, mask: RunLengths) -> Int[ndarray, "n 2"] | None:
        """The pixels ``y x`` of a region's scribble; None where there is nothing to draw one in.

        Those that are drawn are the same for the same mask, key and place in the layout.
        """
        if layout.scribbles is not None and len(layout.scribbles[region]):
            return _pixels(layout.scribbles[region], mask.size)
        if layout.masks is None:
            return None
        digest = sha256(f"{self.seed} {region} {key}".encode(errors="surrogatepass")).digest()
        pixels = np.argwhere(mask.decode().numpy())
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        return pixels[generator.choice(len(pixels), self.points, replace=len(pixels) < self.points)]


def _masks(image: Image, layout: Layout) -> list[RunLengths]:
    """The layout's masks, or its boxes filled."""
    if layout.masks is not None:
        return layout.masks
    planes = torch.zeros(len(layout), *image.shape[1:], dtype=torch.bool)
    for plane, (x0, y0, x1, y1) in zip(planes, corners(image, layout), strict=True):
        plane[y0:y1, x0:x1] = True
    return RunLengths.encode(planes)


def _overlaps(masks: Sequence[RunLengths], others: Sequence[RunLengths]) -> Float[ndarray, "n m"]:
    """The IoU of every mask with every other one."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    one, other = ([{"size": list(x.size), "counts": x.counts} for x in some] for some in (masks, others))
    return np.asarray(coco.iou(one, other, [False] * len(other)), float)


def _matched(overlaps: Float[ndarray, "n m"], touching: bool) -> list[int | None]:
    """Of each mask in order, the place of the best that is left.

    Args:
        touching: only one that it overlaps with.
    """
    left, places = list(range(overlaps.shape[1])), []
    for row in overlaps:
        best = max(left, key=lambda k: row[k], default=None)
        if best is None or (touching and not row[best] > 0):
            places.append(None)
            continue
        left.remove(best)
        places.append(best)
    return places


def _point(layout: Layout, region: int, mask: RunLengths) -> Int[ndarray, "1 2"]:
    """The pixel ``y x`` that a region's point lies in."""
    point = None if layout.points is None else layout.points[region : region + 1]
    return _centre(mask) if point is None or point.isnan().any() else _pixels(point, mask.size)


def _pixels(points: Float[Tensor, "n 2"], size: tuple[int, int]) -> Int[ndarray, "n 2"]:
    """The pixels ``y x`` that points lie in, of an image of ``size`` (height, width)."""
    sides = np.array(size)
    return np.floor(points.double().cpu().numpy()[:, ::-1] * sides).astype(np.int64).clip(0, sides - 1)


def _known(scores: Sequence[float]) -> dict[str, float]:
    value = mean(scores)
    return {} if math.isnan(value) else {"scribble": value}


def _centre(mask: RunLengths) -> Int[ndarray, "1 2"]:
    """The pixel ``y x`` at the centre of a mask's box, the upper left one of four."""
    pixels = np.argwhere(mask.decode().numpy())
    return (pixels.min(0, keepdims=True) + pixels.max(0, keepdims=True)) // 2


def _share(points: Int[ndarray, "n 2"], mask: Bool[ndarray, "h w"] | None) -> float:
    """How many of the points are inside; none are in no mask."""
    return 0.0 if mask is None else float(mask[points[:, 0], points[:, 1]].mean())
