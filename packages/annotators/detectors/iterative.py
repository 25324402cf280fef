"""Iterative: any detector, again on what is left when what it found is hidden.

Large and sure regions draw a detector's attention; with them out of sight it often names what they drowned. No
weights of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import gaussian_blur, resize

from scenewright.annotators.seeds import derived, seeded
from scenewright.annotators.suppression import suppress
from scenewright.crops import corners
from scenewright.layout import Image, Layout
from scenewright.protocols import Detector


class Iterative:
    """Detects, hides what was found, and detects again until nothing new is found.

    What was found first stays: a later region that overlaps it, or that lies mostly on what is hidden, is taken for
    an artefact. The images that still gave something go to the detector together.

    Args:
        detector: any; it must give scores.
        rounds: at most so many looks at an image, the first one included.
        hide: "mean" paints what was found in the mean colour of the image; "blur" blurs it beyond recognition.
        max_hidden: larger regions, as a fraction of the image, are not hidden: what stands in a room would go with it.
        covered: the share of a later region that may be hidden, in [0, 1].
        nms_threshold: boxes of a higher IoU rule each other out.
        class_agnostic: whatever their labels.
        max_boxes: at most so many, the surest; None for all.
    """

    def __init__(
        self,
        detector: Detector,
        rounds: int = 3,
        hide: str = "mean",
        *,
        max_hidden: float = 0.5,
        covered: float = 0.7,
        nms_threshold: float = 0.5,
        class_agnostic: bool = True,
        max_boxes: int | None = None,
    ) -> None:
        if rounds < 1 or hide not in ("mean", "blur"):
            raise ValueError(f'rounds must be at least 1 and hide "mean" or "blur", got {rounds} and {hide!r}')
        self.detector, self.rounds, self.hide = detector, rounds, hide
        self.max_hidden, self.covered = max_hidden, covered
        self.nms_threshold, self.class_agnostic, self.max_boxes = nms_threshold, class_agnostic, max_boxes

    def detect(
        self, images: Sequence[Image], tags: Sequence[Sequence[str]], *, seeds: Sequence[int] | None = None
    ) -> list[Layout]:
        """Find the regions of each image, the surest first.

        Raises:
            ValueError: the detector gives regions without scores.
        """
        found = [Layout.empty().to(image.device) for image in images]
        hidden = [torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device) for image in images]
        open_ = list(range(len(images)))
        for number in range(self.rounds):
            shown = [_without(images[i], hidden[i], self.hide) for i in open_]
            numbers = None if seeds is None else [derived(seeds[i], number) for i in open_]
            fresh = seeded(self.detector.detect, shown, [tags[i] for i in open_], seeds=numbers)
            # detectors may leave their regions on the CPU
            placed = [(i, x.to(images[i].device)) for i, x in zip(open_, fresh, strict=True)]
            fresh = [self._new(images[i], found[i], hidden[i], x) for i, x in placed]
            for i, layout in zip(open_, fresh, strict=True):
                found[i] = Layout.joined([found[i], layout]).to(images[i].device)
                hidden[i] = hidden[i] | self._inside(images[i], layout)
            open_ = [i for i, layout in zip(open_, fresh, strict=True) if len(layout) and not hidden[i].all()]
            if not open_:
                break
        return [self._surest(x) for x in found]

    def _new(self, image: Image, found: Layout, hidden: Tensor, layout: Layout) -> Layout:
        """The regions that were not found before and do not lie on what is hidden."""
        if not len(layout):
            return layout
        layout = self._surest(layout)
        fresh = torch.tensor([x <= self.covered for x in _hidden_shares(image, hidden, layout)], dtype=torch.bool)
        if len(found):
            rules_out = (box_iou(layout.boxes, found.boxes) > self.nms_threshold).cpu()
            if not self.class_agnostic:
                rules_out &= torch.tensor([[x == y for y in found.labels] for x in layout.labels])
            fresh &= ~rules_out.any(1)
        return layout.keep(fresh)

    def _surest(self, layout: Layout) -> Layout:
        if not len(layout):
            return layout
        return suppress(
            layout,
            nms_threshold=self.nms_threshold,
            class_agnostic=self.class_agnostic,
            max_boxes=self.max_boxes,
        )

    def _inside(self, image: Image, layout: Layout) -> Tensor:
        """(h, w) bool: what regions that are not too large cover; their masks where they have some, else the boxes."""
        inside = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
        sides = (layout.boxes[:, 2:] - layout.boxes[:, :2]).prod(1).tolist()
        for i, (left, top, right, bottom) in enumerate(corners(image, layout)):
            if sides[i] <= self.max_hidden:
                if layout.masks is None:
                    inside[top:bottom, left:right] = True
                else:
                    inside |= layout.masks[i].decode().to(image.device)
        return inside


def _without(image: Image, hidden: Tensor, hide: str) -> Image:
    """The image with the hidden pixels painted over."""
    if not hidden.any():
        return image
    if hide == "mean":
        return torch.where(hidden, image.float().mean((1, 2), keepdim=True).round().to(torch.uint8), image)
    return torch.where(hidden, _blurred(image), image)


def _blurred(image: Image) -> Image:
    """Blurred to about eight blobs a side: on a small copy, for the kernel would be huge."""
    height, width = image.shape[1:]
    small = gaussian_blur(resize(image, [64, 64], antialias=True), [31, 31], [8.0, 8.0])
    return resize(small, [height, width], antialias=True)


def _hidden_shares(image: Image, hidden: Tensor, layout: Layout) -> list[float]:
    """The share of each box that is hidden, in [0, 1]."""
    return [float(hidden[top:bottom, left:right].float().mean()) for left, top, right, bottom in corners(image, layout)]
