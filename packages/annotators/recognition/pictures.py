"""From pictures of any size to what the three taggers see, and from their logits to tags."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from scenewright.annotators.recognition.network import TaggingNetwork
from scenewright.annotators.recognition.tags import TagList, decide
from scenewright.batching import in_batches
from scenewright.layout import Image, Images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def squash(images: Sequence[Image], side: int) -> Images:
    """Every image as a square, its aspect ratio given up, on its own device.

    Bicubic with antialiasing, as Pillow does it: on a CPU the same bytes but for one grey level here and there.
    """
    return torch.stack([resize(x, [side, side], InterpolationMode.BICUBIC, antialias=True) for x in images])


def standardise(pixels: Images) -> Float[Tensor, "b 3 h w"]:
    """Mean 0 and deviation 1, channel by channel, over ImageNet."""
    mean, std = (pixels.new_tensor(x, dtype=torch.float32).view(3, 1, 1) for x in (MEAN, STD))
    return (pixels / 255 - mean) / std


def tag_images(
    network: TaggingNetwork, images: Sequence[Image], tags: TagList, *, batch_size: int, dtype: torch.dtype
) -> list[list[str]]:
    """The tags of each image, in the list's order."""
    if not images:
        return []
    network.to(images[0].device, dtype)
    thresholds = tags.thresholds.to(images[0].device)

    def seen(batch: list[Image]) -> list[list[str]]:
        pixels = standardise(squash(batch, network.image_size)).to(dtype)
        return [tags.seen(chosen) for chosen in decide(network(pixels), thresholds).cpu()]

    with torch.inference_mode():
        return in_batches(seen, images, batch_size)
