"""A detector that boxes the brightest pixel: what a stranger's plugin looks like."""

from collections.abc import Sequence

import torch

from scenewright.layout import Image, Layout


class BrightestPixel:
    """Args: radius: half the side of the box, as a fraction of the image."""

    def __init__(self, radius: float = 0.1) -> None:
        self.radius = radius

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Layout:
        height, width = image.shape[1:]
        place = int(image.sum(0).argmax())
        center = torch.tensor([(place % width + 0.5) / width, (place // width + 0.5) / height])
        box = torch.cat([center - self.radius, center + self.radius]).clamp(0, 1)
        return Layout(boxes=box[None], labels=["bright"])
