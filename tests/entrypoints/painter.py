"""The smallest model that learns and draws: one colour for the boxes, one for what is around them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scenewright.layout import Batch, Images, Layout


class Painter(nn.Module):
    """Paints; its loss and its images have a grain that an image's seed alone decides.

    Args:
        grain: how strong it is, in [0, 1].
    """

    height, width = 32, 48

    def __init__(self, grain: float = 0.1) -> None:
        super().__init__()
        self.grain = grain
        self.inside = nn.Parameter(torch.full((3,), 0.5))
        self.around = nn.Parameter(torch.full((3,), 0.5))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, batch: Batch) -> Tensor:
        height, width = batch.images.shape[2:]
        errors = self._paint(batch.layouts, batch.seeds, height, width) - batch.images.float() / 255
        return errors.square().mean()

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], *, height: int, width: int
    ) -> Images:
        if height % 8 or width % 8:
            raise ValueError(f"height and width must be multiples of 8, got {height} and {width}")
        return (self._paint(layouts, seeds, height, width) * 255).clamp(0, 255).round().to(torch.uint8)

    def _paint(self, layouts: Sequence[Layout], seeds: Sequence[int], height: int, width: int) -> Tensor:
        planes = torch.zeros(len(layouts), 1, height, width)
        for plane, layout in zip(planes[:, 0], layouts, strict=True):
            for x_min, y_min, x_max, y_max in layout.pixel_boxes(height, width).round().int().tolist():
                plane[y_min:y_max, x_min:x_max] = 1
        draws = [torch.rand(1, height, width, generator=torch.Generator().manual_seed(x)) for x in seeds]
        planes, grain = planes.to(self.inside), self.grain * (torch.stack(draws) - 0.5)
        painted = planes * self.inside[:, None, None] + (1 - planes) * self.around[:, None, None]
        return painted + grain.to(painted)
