"""LPIPSDiversity: how much the images differ that were drawn of one layout.

Source: Zhang et al. 2018, arXiv 1801.03924; the package lpips 0.1.4, BSD-2, with its linear layers v0.1. Weights of the
trunk: AlexNet of torchvision, https://download.pytorch.org/models/alexnet-owt-7be5be79.pth, BSD-3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, fill, read_tensors
from scenewright.evaluation.feature_networks import WeightsFile
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Sample

_ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"

#: What LPIPS was made with; AlexNet sees nothing of a side below 31 pixels.
_SMALLEST = 64


class LPIPSDiversity(RecordingMetric):
    """The mean LPIPS distance between the images of one layout, 0 for equal ones, mostly below 1; higher is better.

    An image's score is its mean distance to the others of its layout, so the mean over a layout's images is the mean
    over all pairs of them. A layout of which one image was drawn cannot be scored: draw several (images_per_layout).
    Images of one layout that have several sizes are first resized to the least height and the least width among them,
    and a side shorter than 64 pixels is stretched to 64; both bilinear with antialiasing. Boxes, labels and captions
    play no part.

    Args:
        checkpoint: AlexNet's published file ``alexnet-owt-7be5be79.pth``, or its tensors as ``.safetensors``.
        sha256: how the file's digest begins; None for any file, such as one converted to safetensors.
        batch_size: pairs in one forward pass.
    """

    def __init__(self, checkpoint: str, sha256: str | None = "7be5be79", batch_size: int = 32) -> None:
        super().__init__()
        self.checkpoint, self.sha256, self.batch_size = checkpoint, sha256, batch_size

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return self._file.checkpoints

    def check(self) -> None:
        """Make sure that the weights are here; see ``WeightsFile``."""
        self._file.check()

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        layouts: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            layouts.setdefault(sample.key, []).append(i)
        alike = dict(x for places in layouts.values() for x in zip(places, _alike(generated, places), strict=True))
        pairs = [pair for places in layouts.values() for pair in combinations(places, 2)]
        images = [(alike[i], alike[j]) for i, j in pairs]
        distances = in_batches(self._distances, images, self.batch_size, alike=lambda x: x[0].shape)
        to_others: list[list[float]] = [[] for _ in samples]
        for (i, j), distance in zip(pairs, distances, strict=True):
            to_others[i].append(distance)
            to_others[j].append(distance)
        return [_record(x.key, found) for x, found in zip(samples, to_others, strict=True)]

    @torch.inference_mode()
    def _distances(self, pairs: list[tuple[Image, Image]]) -> list[float]:
        first, second = (_scaled(some) for some in zip(*pairs, strict=True))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self._network.to(first.device)(first, second).flatten().tolist()

    @property
    def _file(self) -> WeightsFile:
        return WeightsFile(self.checkpoint, _ALEXNET, self.sha256 or "")

    @cached_property
    def _network(self) -> Any:
        import lpips

        trunk = self._file.tensors()
        with warnings.catch_warnings():  # it names no weights as torchvision did before 0.13
            warnings.simplefilter("ignore", UserWarning)
            # with weights it would download the trunk
            network: Any = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False)
        names = {name: _published(name) for name in network.net.state_dict()}
        fill(network.net, {here: trunk[there] for here, there in names.items() if there in trunk}, self.checkpoint)
        heads = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
        fill(network.lins, {x.removeprefix("lin"): y for x, y in read_tensors(heads).items()}, heads)
        return network.eval()


def _published(name: str) -> str:
    """What torchvision calls a tensor: features.3.weight for slice2.3.weight."""
    return f"features.{name.split('.', 1)[1]}"


def _alike(generated: Sequence[Image], places: Sequence[int]) -> list[Image]:
    """Images of one layout at one size that the network can look at."""
    images = [generated[i] for i in places]
    size = [max(_SMALLEST, min(x.shape[side] for x in images)) for side in (1, 2)]
    return [x if list(x.shape[1:]) == size else resize(x, size, antialias=True) for x in images]


def _scaled(images: Sequence[Image]) -> Float[Tensor, "b 3 h w"]:
    """In -1..1."""
    return torch.stack(list(images)).float() / 127.5 - 1


def _record(key: str, distances: Sequence[float]) -> Record:
    if not distances:
        why = "its layout has this one image, and diversity is between several"
        return Record(key, image={"lpips_diversity": math.nan}, problems=[why])
    return Record(key, image={"lpips_diversity": math.fsum(distances) / len(distances)})
