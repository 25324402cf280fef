"""ISNet: cuts out the salient object of each box, with fine outlines.

Source: Qin et al. 2022, "Highly Accurate Dichotomous Image Segmentation", arXiv 2203.03041; the blocks are those of
U²-Net, arXiv 2005.09007. Own code with the parameter names of the published weights: ``isnet-general-use.pth`` of
https://huggingface.co/NimaBoscarino/IS-Net_DIS-general-use, a copy of the authors', Apache-2.0.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from scenewright.annotators.box_prompts import encode
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, fill, read_tensors
from scenewright.crops import corners
from scenewright.layout import Image, Layout, RunLengths
from scenewright.networks import precision

FILE = "isnet-general-use.pth"

#: An image, and the left, top, right and bottom of a crop in its pixels.
_Crop = tuple[Image, tuple[int, int, int, int]]

_T = TypeVar("_T")

#: Of each block: its depth (0 for one of dilated layers only), and the channels before, inside and after it.
_BLOCKS = {
    "stage1": (7, 64, 32, 64),
    "stage2": (6, 64, 32, 128),
    "stage3": (5, 128, 64, 256),
    "stage4": (4, 256, 128, 512),
    "stage5": (0, 512, 256, 512),
    "stage6": (0, 512, 256, 512),
    "stage5d": (0, 1024, 256, 512),
    "stage4d": (4, 1024, 128, 256),
    "stage3d": (5, 512, 64, 128),
    "stage2d": (6, 256, 32, 64),
    "stage1d": (7, 128, 16, 64),
}

#: Channels from which each level's mask is read, the finest first.
_SIDES = (64, 64, 128, 256, 512, 512)


class ISNet:
    """Segments the salient object within each box, or within the image for a box that is the image.

    Each crop is squashed to a square. It has no class and no prompt: what stands out is taken, so a box should frame
    one thing. With ``normalised`` there is always something that stands out.

    Args:
        checkpoint: the published file, its folder, or a hub's repository with it.
        padding: context around each box, as a fraction of its own width and height. The mask may reach into it.
        threshold: of the map, in [0, 1].
        normalised: stretch each map to [0, 1] before the threshold, as the authors' inference does; else the
            network's own probability counts, and a mask may be empty.
        side: of the square, in pixels.
        batch_size: crops in one forward pass.
        dtype: of the network: "float32", "bfloat16" or "float16".
        compile: compile the network on first use.
    """

    def __init__(
        self,
        checkpoint: str = "NimaBoscarino/IS-Net_DIS-general-use",
        revision: str = "608a843548f1f32716542d57dc59dcbb773294d4",
        *,
        padding: float = 0.1,
        threshold: float = 0.5,
        normalised: bool = True,
        side: int = 1024,
        batch_size: int = 4,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.padding, self.threshold, self.normalised = padding, threshold, normalised
        self.side, self.batch_size, self.dtype, self.compile = side, batch_size, dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, (FILE,))]

    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
        """One mask per region, in the layout's order, at the size of its image; none for no regions.

        Raises:
            ValueError: a setting is out of range; as many layouts as images are needed.
            CheckpointError: the weights are missing or of another kind.
        """
        return self._over_crops(self._masks, images, layouts)

    def segment_alpha(
        self, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> list[list[tuple[Float[Tensor, "_h _w"], float]]]:
        """The map itself per region, at the size of its image and 0 outside its crop, and a confidence.

        With ``normalised``, every map reaches 1, also where nothing stands out. The confidence tells: it is the
        network's highest probability within the crop, in [0, 1].

        Raises:
            ValueError: a setting is out of range; as many layouts as images are needed.
            CheckpointError: the weights are missing or of another kind.
        """
        return self._over_crops(lambda crops: list(self._alphas(crops)), images, layouts)

    @torch.inference_mode()
    def _over_crops(
        self, cut_out: Callable[[list[_Crop]], list[_T]], images: Sequence[Image], layouts: Sequence[Layout]
    ) -> list[list[_T]]:
        """What is made of each region's crop."""
        if self.side < 32 or self.batch_size < 1:
            raise ValueError(f"side must be at least 32 and batch_size 1, got {self.side} and {self.batch_size}")
        crops = [
            (image, corner)
            for image, layout in zip(images, layouts, strict=True)
            for corner in corners(image, layout, self.padding)
        ]
        results = iter(in_batches(cut_out, crops, self.batch_size))
        return [[next(results) for _ in range(len(layout))] for layout in layouts]

    def _masks(self, crops: list[_Crop]) -> list[RunLengths]:
        """The mask of each crop, in its image."""
        return [run for alpha, _ in self._alphas(crops, -1.0) for run in encode(alpha[None] > self.threshold)]

    def _alphas(self, crops: list[_Crop], outside: float = 0.0) -> Iterator[tuple[Float[Tensor, "_h _w"], float]]:
        """The map of each crop, in its image, and its highest probability; one at a time, for they are large."""
        maps = self._maps([image[:, top:bottom, left:right] for image, (left, top, right, bottom) in crops])
        for (image, (left, top, right, bottom)), salience in zip(crops, maps, strict=True):
            peak = float(salience.max())
            salience = _resized(salience, (bottom - top, right - left))[0, 0]
            if self.normalised:
                low, high = salience.aminmax()
                salience = (salience - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
            alpha = torch.full(image.shape[1:], outside, device=image.device)
            alpha[top:bottom, left:right] = salience
            yield alpha, peak

    def _maps(self, crops: list[Image]) -> Float[Tensor, "b 1 1 h w"]:
        """How much each pixel stands out, in [0, 1], in the network's own size."""
        network = self._network.to(crops[0].device)
        size = (self.side, self.side)
        # the authors cut off the resized pixels' fractions
        pixels = torch.cat([_resized(crop, size).to(torch.uint8) for crop in crops])
        finest = network((pixels / 255 - 0.5).to(precision(self.dtype)))[0]
        return _resized(finest.float(), size).sigmoid()[:, None]

    @cached_property
    def _network(self) -> nn.Module:
        path = self.checkpoints[0].path()
        with torch.device("meta"):  # no random weights first
            network = _ISNetDIS()
        network = network.to_empty(device="cpu")
        fill(network, read_tensors(path), path)
        network = network.eval().requires_grad_(False).to(precision(self.dtype))
        if self.compile:
            network.compile()
        return network


def _resized(pixels: Tensor, size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Bilinear, without antialiasing, as in training; of one picture or several."""
    pixels = pixels.float() if pixels.ndim == 4 else pixels.float()[None]
    return interpolate(pixels, size, mode="bilinear", align_corners=False)


def _grown(small: Tensor, like: Tensor) -> Tensor:
    return interpolate(small, like.shape[2:], mode="bilinear", align_corners=False)


def _halved(pixels: Tensor) -> Tensor:
    return max_pool2d(pixels, 2, stride=2, ceil_mode=True)


class _Layer(nn.Module):
    """A convolution, its normalisation and what is positive of it."""

    def __init__(self, before: int, after: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_s1(self.conv_s1(x)).relu()


class _Block(nn.Module):
    """A small U-Net whose result is added to its input.

    Args:
        depth: layers on the way down, of which the last is dilated and the others but the last two halve the picture;
            0 for four layers of growing dilation that keep its size.
    """

    def __init__(self, depth: int, before: int, inside: int, after: int) -> None:
        super().__init__()
        self.halves, self.depth = depth > 0, depth or 4
        dilations = [1] * (self.depth - 1) + [2] if depth else [1, 2, 4, 8]
        self.rebnconvin = _Layer(before, after)
        for i, dilation in enumerate(dilations, 1):
            self.add_module(f"rebnconv{i}", _Layer(after if i == 1 else inside, inside, dilation))
        for i, dilation in enumerate(dilations[:-1], 1):
            self.add_module(f"rebnconv{i}d", _Layer(2 * inside, after if i == 1 else inside, dilation))

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.rebnconvin(x)
        down = []
        for i in range(1, self.depth + 1):
            if self.halves and 1 < i < self.depth:
                x = _halved(x)
            x = self.get_submodule(f"rebnconv{i}")(x)
            down.append(x)
        for i in range(self.depth - 1, 0, -1):
            skip = down[i - 1]
            x = self.get_submodule(f"rebnconv{i}d")(torch.cat((_grown(x, skip) if self.halves else x, skip), 1))
        return x + start


class _ISNetDIS(nn.Module):
    """IS-Net: six blocks down, five up, and a mask from each level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        for name, sizes in _BLOCKS.items():
            self.add_module(name, _Block(*sizes))
        for i, channels in enumerate(_SIDES, 1):
            self.add_module(f"side{i}", nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Logits of each level, the finest (half the size) first; pixels are in [-0.5, 0.5]."""
        x = self.conv_in(x)
        down = []
        for i in range(1, 7):
            x = self.get_submodule(f"stage{i}")(x if i == 1 else _halved(x))
            down.append(x)
        sides = [self.get_submodule("side6")(x)]
        for i in range(5, 0, -1):
            skip = down[i - 1]
            x = self.get_submodule(f"stage{i}d")(torch.cat((_grown(x, skip), skip), 1))
            sides.insert(0, self.get_submodule(f"side{i}")(x))
        return sides
