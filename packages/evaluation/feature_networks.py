"""Networks that turn whole images into features, for distances between sets of images.

Which network, weights and resize were used decides such a number, so all three are settings, and a set of features that
was saved names them.

Sources: InceptionV3 of torch-fidelity, https://github.com/toshas/torch-fidelity, Apache 2.0, weights converted from
TensorFlow's, Apache 2.0; DINOv2, Oquab et al. 2023, arXiv 2304.07193, https://huggingface.co/facebook/dinov2-large,
Apache 2.0.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, normalize, resize

from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError, MissingWeights, fill, read_tensors
from scenewright.layout import Image, Images
from scenewright.networks import load_network

_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)

#: Of ImageNet's pixels.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_COUNTER = "num_batches_tracked"  # of training; published files have it or not


@dataclass(frozen=True)
class WeightsFile:
    """A file of tensors that a project publishes under an address, outside of any hub.

    Nothing fetches it: it is put there by hand, and its digest tells that it is the published one.

    Attributes:
        path: of the file here, ``.pth`` or ``.safetensors``.
        url: where it is published.
        sha256: how its digest begins; empty for a file of one's own.
    """

    path: str
    url: str
    sha256: str = ""

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The file, as far as it is here."""
        return [Checkpoint(self.path)] if self._file.is_file() else []

    def check(self) -> None:
        """Make sure that it is here and is the published one.

        Raises:
            MissingWeights: it is not here.
            CheckpointError: it is another file.
        """
        if not self._file.is_file():
            raise MissingWeights(
                f"the weights {self.path} are not on this machine. On a machine with a network run "
                f"`curl -L -O {self.url}`, then copy the file there, or set the plugin's checkpoint to where it is"
            )
        with open(self._file, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(self.sha256):
            raise CheckpointError(
                f"{self.path} is not what {self.url} gives: its sha256 must begin with {self.sha256}, got "
                f"{digest[: max(8, len(self.sha256))]}; for weights of your own set the plugin's sha256 to null"
            )

    def tensors(self) -> dict[str, Tensor]:
        """What is in it.

        Raises:
            CheckpointError: it is missing, another file, broken, or holds more than tensors.
        """
        self.check()
        return read_tensors(self._file)

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()


class InceptionV3:
    """The Inception-v3 of FID, KID and the Inception Score: TensorFlow's of 2015-12-05, as torch-fidelity has it.

    Any image is squeezed to 299 x 299 whole, whatever its shape. Computes in float32 only: features in half precision
    make other numbers.

    Args:
        checkpoint: the published file ``weights-inception-2015-12-05-6726825d.pth``, or its tensors as
            ``.safetensors``. Published at https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/
        sha256: how the file's digest begins; None for any file, such as one converted to safetensors.
        resize: "tensorflow", the bilinear filter without antialiasing that published numbers are made with; or
            "antialias", bicubic with antialiasing to whole values of 0..255, which does not fold fine detail of large
            images into the features. Numbers of one are not to be compared with numbers of the other.
        batch_size: images in one forward pass.
    """

    def __init__(
        self, checkpoint: str, sha256: str | None = "6726825d", resize: str = "tensorflow", batch_size: int = 32
    ) -> None:
        if resize not in ("tensorflow", "antialias"):
            raise ValueError(f'InceptionV3: resize must be "tensorflow" or "antialias", got {resize!r}')
        self.checkpoint, self.sha256, self.resize, self.batch_size = checkpoint, sha256, resize, batch_size

    def features(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """The 2048 averages of the last block, one row per image, float32, where the images are."""
        return self._both(images)[:, :2048]

    def logits(self, images: Sequence[Image]) -> Float[Tensor, "n c"]:
        """The 1008 logits without the last layer's bias, as the Inception Score takes them."""
        return self._both(images)[:, 2048:]

    @property
    def settings(self) -> dict[str, str]:
        """What, besides the weights, decides the features."""
        return {"network": "InceptionV3", "layer": "2048", "resize": f"{self.resize} 299", "dtype": "float32"}

    def digest(self) -> str:
        """Of the weights: the same for the same tensors, in whichever file they were."""
        return digest_of(self._network)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return self._file.checkpoints

    def check(self) -> None:
        """Make sure that the weights are here; see ``WeightsFile``."""
        self._file.check()

    @torch.inference_mode()
    def _both(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        if not images:
            return torch.zeros(0, 2048 + 1008)
        return torch.stack(in_batches(self._see, images, self.batch_size, alike=lambda x: x.shape))

    def _see(self, images: list[Image]) -> list[Tensor]:
        stack = torch.stack(images)
        if self.resize == "antialias":  # the network's own resize then changes nothing
            stack = resized(stack, 299, InterpolationMode.BICUBIC)
        with exactly():
            return list(torch.cat(self._network.to(stack.device)(stack), 1))

    @property
    def _file(self) -> WeightsFile:
        return WeightsFile(self.checkpoint, _INCEPTION, self.sha256 or "")

    @cached_property
    def _network(self) -> Any:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Bare(FeatureExtractorInceptionV3):
            """Takes what weights there are: its constructor wants to download some, or to unpickle anything."""

            def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
                return super().load_state_dict(state_dict, strict=False, assign=assign)

        tensors, nothing = self._file.tensors(), io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        network = Bare("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
        counters = {name: x for name, x in network.state_dict().items() if name.endswith(_COUNTER)}
        fill(network, counters | tensors, self.checkpoint)
        return network.eval()


class DINOv2:
    """A DINOv2 of transformers: the class token after the last layer's norm.

    Any image is squeezed to a square whole, with antialiasing, to whole values of 0..255.

    Args:
        checkpoint: a folder or a hub id.
        size: of the square, in pixels.
        resize: the filter, "bicubic" or "bilinear".
        batch_size: images in one forward pass.
        dtype: of the weights: "float32", "bfloat16", "float16".

    Source: Stein et al. 2023, arXiv 2306.04675, which takes ViT-L/14 at 224 pixels.
    """

    def __init__(
        self,
        checkpoint: str = "facebook/dinov2-large",
        revision: str = "main",
        size: int = 224,
        resize: str = "bicubic",
        batch_size: int = 32,
        dtype: str = "float32",
    ) -> None:
        if resize not in ("bicubic", "bilinear"):
            raise ValueError(f'DINOv2: resize must be "bicubic" or "bilinear", got {resize!r}')
        self.checkpoint, self.revision, self.size, self.resize = checkpoint, revision, size, resize
        self.batch_size, self.dtype = batch_size, dtype

    @torch.inference_mode()
    def features(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """The class token, one row per image, float32, where the images are."""
        if not images:
            return torch.zeros(0, self._network.config.hidden_size)
        return torch.stack(in_batches(self._see, images, self.batch_size))

    @property
    def settings(self) -> dict[str, str]:
        """What, besides the weights, decides the features."""
        resize = f"antialiased {self.resize} {self.size}"
        return {"network": "DINOv2", "layer": "class token", "resize": resize, "dtype": self.dtype}

    def digest(self) -> str:
        """Of the weights: the same for the same tensors, wherever they came from."""
        return digest_of(self._network)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, ("config.json", "model.safetensors"))]

    def _see(self, images: list[Image]) -> list[Tensor]:
        stack = torch.stack([resized(x, self.size, InterpolationMode(self.resize)) for x in images])
        network = self._network.to(stack.device)
        pixels = normalize(stack.float() / 255, list(_MEAN), list(_STD)).to(network.dtype)
        with exactly():
            return list(network(pixel_values=pixels).last_hidden_state[:, 0].float())

    @cached_property
    def _network(self) -> Any:
        from transformers import Dinov2Model

        return load_network(Dinov2Model, self.checkpoints[0], dtype=self.dtype)


def resized(images: Image | Images, size: int, filter: InterpolationMode) -> Any:
    """Squeezed to a square, with antialiasing."""
    return resize(images, [size, size], interpolation=filter, antialias=True)


def exactly() -> AbstractContextManager[Any]:
    """On a GPU, convolutions in full float32, by the same algorithm for any batch."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def digest_of(network: torch.nn.Module) -> str:
    """Of all tensors but counters."""
    every = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith(_COUNTER):
            every.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            every.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return every.hexdigest()
