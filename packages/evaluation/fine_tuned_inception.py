"""An Inception-v3 that was fine-tuned on the images that are judged, such as birds or flowers.

Its numbers are never those of ImageNet's Inception, and a set of features that was saved says which one made it.

Sources: Zhang et al. 2017 (StackGAN), arXiv 1612.03242, section 4.1, which fine-tunes Inception-v3 for the Inception
Score of CUB and Oxford-102; the network is torchvision's, BSD-3-Clause, with TensorFlow's way to average at borders
from torch-fidelity, Apache 2.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError, MissingWeights, fill, read_tensors
from scenewright.evaluation.feature_networks import digest_of, exactly, resized
from scenewright.layout import Image

#: Height and width that images are squeezed to.
_SIDE = 299

POOLING = ("tensorflow", "torch")


class FineTunedInception:
    """An Inception-v3 with classes of its own, from a file of tensors.

    Any image is squeezed to 299 x 299 whole, bicubic with antialiasing, to whole values of 0..255, which become -1..1.
    Computes in float32 only.

    Args:
        checkpoint: a ``.safetensors`` or ``.pth`` with torchvision's names, the auxiliary classifier or not. It is read
            without running code.
        classes: of the last layer: 51 for StackGAN's birds, 21 for its flowers.
        background: the first class stands for none of the others, and does not count in ``logits``.
        pooling: how the averages of a block count beyond the border: not at all, as "tensorflow", for weights that
            were trained there, whatever they were converted to; or as zeros, as torchvision's own: "torch".
        sha256: how the file's digest begins; None for any file.
        batch_size: images in one forward pass; no number depends on it.

    Raises:
        ValueError: there are less than two classes that count, or ``pooling`` is none of those.
    """

    def __init__(
        self,
        checkpoint: str,
        classes: int,
        background: bool = True,
        pooling: str = "tensorflow",
        sha256: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if classes - background < 2:
            raise ValueError(f"at least 2 classes must count, got classes={classes} and background={background}")
        if pooling not in POOLING:
            raise ValueError(f"pooling must be one of {', '.join(POOLING)}, got {pooling!r}")
        self.checkpoint, self.classes, self.background = checkpoint, classes, background
        self.pooling, self.sha256, self.batch_size = pooling, sha256, batch_size

    def features(self, images: Sequence[Image]) -> Float[Tensor, "n 2048"]:
        """The averages of the last block, one row per image, float32, where the images are."""
        return self._both(images)[:, :2048]

    def logits(self, images: Sequence[Image]) -> Float[Tensor, "n c"]:
        """Of the classes that count, with the last layer's bias."""
        return self._both(images)[:, 2048 + self.background :]

    @property
    def settings(self) -> dict[str, str]:
        """What, besides the weights, decides the features."""
        about = f"{self.classes} classes" + (", the first one background" if self.background else "")
        return {
            "network": f"fine-tuned InceptionV3, {about}, {self.pooling} pooling",
            "layer": "2048",
            "resize": f"antialiased bicubic {_SIDE}",
            "dtype": "float32",
        }

    def digest(self) -> str:
        """Of the weights: the same for the same tensors, in whichever file they were."""
        return digest_of(self._network)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The file, as far as it is here."""
        return [Checkpoint(self.checkpoint)] if self._path.is_file() else []

    def check(self) -> None:
        """Make sure that the weights are here, and are those that were asked for.

        Raises:
            MissingWeights: they are not here.
            CheckpointError: it is another file.
        """
        if not self._path.is_file():
            raise MissingWeights(
                f"there is no file {self.checkpoint}: put an Inception-v3 of {self.classes} classes there, its tensors "
                "under torchvision's names, or set checkpoint to where it is"
            )
        if self.sha256 is not None:
            with open(self._path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if not found.startswith(self.sha256):
                raise CheckpointError(
                    f"{self.checkpoint} is another file: its sha256 must begin with {self.sha256}, got {found}"
                )

    @torch.inference_mode()
    def _both(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        if not images:
            return torch.zeros(0, 2048 + self.classes)
        return torch.stack(in_batches(self._see, images, self.batch_size))

    def _see(self, images: list[Image]) -> list[Tensor]:
        stack = torch.stack([resized(x, _SIDE, InterpolationMode.BICUBIC) for x in images])
        network = self._network.to(stack.device)
        with exactly():
            features = network(stack.float() / 127.5 - 1)
            return list(torch.cat([features, network.classify(features)], 1))

    @property
    def _path(self) -> Path:
        return Path(self.checkpoint).expanduser()

    @cached_property
    def _network(self) -> Any:
        self.check()
        network = _architecture(self.classes, self.pooling)
        counters = {name: x for name, x in network.state_dict().items() if name.endswith("num_batches_tracked")}
        fill(network, counters | _own_names(read_tensors(self._path)), self.checkpoint)
        return network.eval()


def _own_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last layer is called apart here; weights of data-parallel training have a name in front."""
    plain = {name.removeprefix("module."): x for name, x in tensors.items()}
    return {("classify." + name[3:] if name.startswith("fc.") else name): x for name, x in plain.items()}


def _architecture(classes: int, pooling: str) -> torch.nn.Module:
    """torchvision's network, whose last layer is called apart."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    from torchvision.models import inception

    names = "BasicConv2d InceptionA InceptionB InceptionC InceptionD InceptionE".split()
    blocks = [getattr(inception, x) for x in names]
    if pooling == "tensorflow":
        blocks = [getattr(fidelity, "InceptionE_1" if x == "InceptionE" else x) for x in names]
    options = {"aux_logits": False, "transform_input": False, "init_weights": False}
    network: Any = inception.Inception3(classes, inception_blocks=[*blocks, inception.InceptionAux], **options)
    network.classify = network.fc
    network.fc = torch.nn.Identity()
    return network
