"""Regions that stand out from their surroundings, found without any trained network.

Felzenszwalb's superpixels are grouped by likeness (selective search) and the groups
judged by cues of objectness. Source: Felzenszwalb and Huttenlocher 2004; Uijlings et
al. 2013; Alexe et al. 2012 and Zhu et al. 2014 for the kinds of cues. No weights.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool

from scenewright.annotators.appearance import describe
from scenewright.annotators.detectors.superpixels.grouping import Affinity, group
from scenewright.annotators.detectors.superpixels.objectness import choose, score
from scenewright.annotators.detectors.superpixels.segmentation import segment, working_copy
from scenewright.layout import Image, Layout, RunLengths

__all__ = ["Superpixels"]

#: A hole smaller than this share of its region is filled: a glint, a dot of a pattern.
_HOLE = 0.1


class Superpixels:
    """Outlines the regions that stand out, without weights.

    It can: find things of one colour or one pattern that differ from what is around
    them and from what lies along the border of the image, and say how sure it is.

    It cannot: know what a thing is. It splits people into head, collar and suit; takes
    a well outlined shadow, gap or patch of background for a thing; misses what fades
    into its surroundings, and what covers less than about 0.3 % of the image; and in a
    crowd it parts things as their colours do. Labels say what a region looks like
    ("red star", "brown region"), never what it is: names need a pretrained detector.

    Tags are ignored: nothing here could look for them. All images take about the same
    time, for the work is done on a copy of about ``side`` × ``side`` pixels.

    Args:
        side: of the working copy, were it square; more finds smaller things and takes longer.
        scale: Felzenszwalb's preference for larger superpixels.
        min_size: of a superpixel, in pixels of the working copy.
        threshold: regions whose score in [0, 1] is not above it are left out.
        max_regions: the most regions of one image.
    """

    def __init__(
        self,
        side: int = 144,
        scale: float = 15.0,
        min_size: int = 16,
        threshold: float = 0.2,
        max_regions: int = 12,
    ) -> None:
        self.side, self.scale, self.min_size = side, scale, min_size
        self.threshold, self.max_regions = threshold, max_regions

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find regions, the surest first, with scores and with masks that do not overlap."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Layout:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        small = working_copy(pixels, self.side)
        pieces = segment(small, self.scale, self.min_size)
        groups = group(pieces, Affinity())
        scores = score(pieces, groups)
        chosen = choose(groups, scores, self.threshold, self.max_regions)
        regions = [groups.members[at][pieces.pieces] for at in chosen]
        found = []
        for region, sure in zip(_fill(regions), scores[chosen], strict=True):
            mask = _full_size(region, *pixels.shape[:2])
            if mask.area:
                found.append((mask, sure, describe(small, region).label))
        if not found:
            return Layout.empty()
        masks, sureties, labels = zip(*found, strict=True)
        return Layout(
            boxes=torch.stack([mask.box for mask in masks]).to(image.device),
            labels=list(labels),
            scores=torch.tensor(sureties, dtype=torch.float32, device=image.device),
            masks=list(masks),
        )


def _fill(regions: Sequence[Bool[np.ndarray, "h w"]]) -> list[Bool[np.ndarray, "h w"]]:
    """Fill small holes that no other region has taken."""
    taken = np.any(regions, axis=0) if regions else None
    filled = []
    for region in regions:
        _, parts, stats, _ = cv2.connectedComponentsWithStats((~region).astype(np.uint8), connectivity=4)
        left, top, width, height, area = stats.T
        inside = (left > 0) & (top > 0) & (left + width < region.shape[1]) & (top + height < region.shape[0])
        holes = inside & (area < _HOLE * region.sum())
        holes[np.unique(parts[taken & ~region])] = False
        filled.append(region | (holes[parts] & ~region))
    return filled


def _full_size(region: Bool[np.ndarray, "h w"], height: int, width: int) -> RunLengths:
    """A region of the working copy, at the size of the image; one at a time, for a dozen would fill the memory."""
    interpolation = cv2.INTER_AREA if region.size > height * width else cv2.INTER_LINEAR
    soft = cv2.resize(region.astype(np.uint8) * 255, (width, height), interpolation=interpolation)
    return RunLengths.encode(torch.from_numpy(soft > 127)[None])[0]
