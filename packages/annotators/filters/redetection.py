"""Redetection: drops images in which a detector does not find each region again, where it is said to be."""

from collections.abc import Sequence

import torch
from torchvision.ops import box_iou

from scenewright.annotators.filters.labels import plain
from scenewright.layout import Layout, Sample, Verdict
from scenewright.protocols import Detector


class Redetection:
    """Looks for every region of a layout that came with the image, as of a composed or a generated scene.

    A region is found if the detector has a box of its label, or any box for a detector with names of its own
    (``any_label``), with enough intersection over union; one box finds one region.

    Args:
        detector: any; it is asked for the layout's labels.
        minimum: intersection over union from which a region counts as found, in (0, 1].
        any_label: boxes of other names count too.
        missing: how many regions of an image may be missing.

    Source: Yeh et al. 2024, arXiv 2402.15504, judge with people that all concepts are there; this asks a detector.
    """

    after = "source"

    def __init__(self, detector: Detector, minimum: float = 0.5, any_label: bool = False, missing: int = 0) -> None:
        if not 0 < minimum <= 1:
            raise ValueError(f"redetection: minimum must be above 0 and at most 1, got {minimum}")
        if missing < 0:
            raise ValueError(f"redetection: missing must be 0 or more, got {missing}")
        self.detector, self.minimum, self.any_label, self.missing = detector, minimum, any_label, missing

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image that misses too many of its regions; images without regions are kept."""
        full = [s for s in samples if len(s.layout)]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        images = [s.image.to(device) for s in full]
        found = iter(self.detector.detect(images, [list(dict.fromkeys(s.layout.labels)) for s in full]) if full else [])
        return [Verdict(image=self._reason(s.layout, next(found).to("cpu")) if len(s.layout) else "") for s in samples]

    def _reason(self, wanted: Layout, found: Layout) -> str:
        """Regions take boxes greedily, the best pairs first."""
        ious = box_iou(wanted.boxes.float(), found.boxes.float())
        if not self.any_label:
            same = [[plain(a) == plain(b) for b in found.labels] for a in wanted.labels]
            ious = ious * torch.tensor(same, dtype=torch.float32).reshape(ious.shape)
        best, left = ious.amax(1) if len(found) else torch.zeros(len(wanted)), ious.clone()
        missing = set(range(len(wanted)))
        while len(found) and left.max() >= self.minimum:
            region, box = divmod(int(left.argmax()), len(found))
            missing.remove(region)
            left[region], left[:, box] = 0, 0
        if len(missing) <= self.missing:
            return ""
        what = ", ".join(f"{wanted.labels[i]} ({best[i]:.2f})" for i in sorted(missing))
        return f"not found again with an IoU of {self.minimum:g}: {what}"
