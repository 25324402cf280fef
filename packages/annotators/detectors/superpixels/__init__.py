"""Regions that stand out from their surroundings, found without any trained network.

Felzenszwalb's superpixels are grouped by likeness (selective search) and the
groups judged by cues of objectness. Source: Felzenszwalb and Huttenlocher 2004;
Uijlings et al. 2013; Alexe et al. 2012 for the kind of cues. Needs no weights.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from scenewright.annotators.appearance import describe
from scenewright.annotators.detectors.superpixels.grouping import Affinity, group
from scenewright.annotators.detectors.superpixels.objectness import choose, score
from scenewright.annotators.detectors.superpixels.segmentation import Pieces, segment, working_copy
from scenewright.layout import Image, Layout, RunLengths


class Superpixels:
    """Outlines the regions that stand out, without weights.

    It can: find things of one colour, or of one pattern, that differ from what is
    around them, and say how sure it is. It cannot: know what a thing is. It splits
    people into face, hair and shirt, takes a shadow or a patch of background for a
    thing when it is well outlined, misses what fades into its surroundings, and
    takes a crowd apart at random. Labels say what a region looks like ("red star"),
    never what it is; real names need a pretrained detector.

    Tags are ignored: nothing here could look for them. Any image takes about the
    same time, for all work happens on a copy of about ``side`` × ``side`` pixels.

    Args:
        side: of the working copy, were it square; larger finds smaller things and takes longer.
        scale: preference for larger superpixels.
        min_size: of a superpixel, in pixels of the working copy.
        threshold: of the score in [0, 1] below which a region is left out.
        max_regions: the most regions of one image.
    """

    def __init__(
        self,
        side: int = 144,
        scale: float = 15.0,
        min_size: int = 16,
        threshold: float = 0.1,
        max_regions: int = 12,
    ) -> None:
        self.side, self.scale, self.min_size = side, scale, min_size
        self.threshold, self.max_regions = threshold, max_regions

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        """Find regions: with scores, best first, and masks at the size of the image."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Layout:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        small = working_copy(pixels, self.side)
        pieces = segment(small, self.scale, self.min_size)
        groups = group(pieces, Affinity())
        scores = score(pieces, groups)
        chosen = choose(groups, scores, self.threshold, self.max_regions)
        found = []
        for at in chosen:
            region = groups.members[at][pieces.pieces]
            mask = _full_size(region, *pixels.shape[:2])
            if mask.area:
                found.append((mask, float(scores[at]), describe(small, region).label))
        if not found:
            return Layout.empty()
        masks, sure, labels = zip(*found, strict=True)
        return Layout(
            boxes=torch.stack([mask.box for mask in masks]).to(image.device),
            labels=list(labels),
            scores=torch.tensor(sure, device=image.device),
            masks=list(masks),
        )


def _full_size(region, height, width):
    """One at a time: a dozen masks of a large photograph would fill the memory."""
    shrinks = region.size > height * width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    soft = cv2.resize(region.astype(np.uint8) * 255, (width, height), interpolation=interpolation)
    return RunLengths.encode(torch.from_numpy(soft > 127)[None])[0]
