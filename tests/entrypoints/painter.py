"""The smallest model that learns and draws, and the quickest dataset."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from scenewright.checkpoints import MissingWeights
from scenewright.layout import Batch, Images, Layout, Sample


class Painter(nn.Module):
    """Paints one colour in the boxes and one around them, with a grain that an image's seed alone decides.

    Args:
        grain: how strong it is, in [0, 1].
        guidance_scale: changes nothing.
        untrained: say that it has learnt nothing.
        weights: a file of what it has learnt.
    """

    height, width = 32, 48

    changeable = ("guidance_scale",)

    def __init__(
        self, grain: float = 0.1, guidance_scale: float = 1.0, untrained: bool = False, weights: str | None = None
    ) -> None:
        super().__init__()
        if weights is not None and not Path(weights).exists():
            raise MissingWeights(f"there is no file {weights}")
        self.grain, self.guidance_scale, self.untrained = grain, guidance_scale, untrained
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


class Squares:
    """Scenes that take no time: one square each, of one colour on another.

    Args:
        length: how many there are.
        side: of the images, in pixels.
        seed: another one has other squares.
    """

    def __init__(self, length: int = 60, side: int = 16, seed: int = 0) -> None:
        self.length, self.side, self.seed = length, side, seed

    @property
    def fingerprint(self) -> str:
        return f"squares {self.length} {self.side} {self.seed}"

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, self.length)

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        for i in range(start, stop):
            x, y, *shades = torch.randint(1, 9, (4,), generator=torch.Generator().manual_seed(100 * self.seed + i))
            image = torch.full((3, self.side, self.side), int(shades[0]) * 10, dtype=torch.uint8)
            image[0, y : y + 6, x : x + 6] = 255 - int(shades[1])
            boxes = torch.tensor([[x, y, x + 6, y + 6]]) / self.side
            yield Sample.from_image(f"square-{i}", image, caption="a square", layout=Layout(boxes, ["square"]))
