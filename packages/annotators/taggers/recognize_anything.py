"""RecognizeAnything: RAM and RAM++ as their authors' package runs them, in the legacy environment.

To compare with, and for what the package learns to do; ``ram`` and ``ram_plus`` read the same files in this
environment. Source: Zhang et al. 2023, "Recognize Anything", arXiv 2306.03514; Huang et al. 2023, "Open-Set Image
Tagging with Multi-Grained Text Supervision", arXiv 2310.15200; recognize-anything (Apache-2.0). Weights:
``ram_plus_swin_large_14m.pth`` of xinyu1205/recognize-anything-plus-model (3 GB), ``ram_swin_large_14m.pth`` of
xinyu1205/recognize_anything_model (5.6 GB), Apache-2.0; BERT's vocabulary: google-bert/bert-base-uncased (Apache-2.0).
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.isolation.legacy import ENVIRONMENT, check_environment, legacy_worker
from scenewright.annotators.isolation.process import Worker
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image

FILES = {"ram_plus": "ram_plus_swin_large_14m.pth", "ram": "ram_swin_large_14m.pth"}


class RecognizeAnything:
    """Tags each image with those of the package's 4585 tags that pass their own thresholds, in the list's order.

    Args:
        checkpoint: the published file, a folder with it, or a hub id.
        model: "ram_plus" or "ram".
        text_encoder: a folder or hub id with BERT's vocabulary, which the package reads at the start.
        backbone: "swin_l", or "swin_b" for weights of one's own.
        image_size: side of the square that images are squashed to: 384, or 224 for weights of one's own.
        batch_size: images that run together.
        environment: folder of the virtual environment with recognize-anything.
        timeout: seconds for a batch.
        log: a file for what the package prints; None for one in the system's temporary folder.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(
        self,
        checkpoint: str = "xinyu1205/recognize-anything-plus-model",
        revision: str = "main",
        *,
        model: str = "ram_plus",
        text_encoder: str = "google-bert/bert-base-uncased",
        text_revision: str = "main",
        backbone: str = "swin_l",
        image_size: int = 384,
        batch_size: int = 8,
        environment: str = ENVIRONMENT,
        timeout: float = 600.0,
        log: str | None = None,
    ) -> None:
        if model not in FILES:
            raise ValueError(f"model must be one of {', '.join(FILES)}, got {model!r}")
        self.checkpoint, self.revision, self.model = checkpoint, revision, model
        self.text_encoder, self.text_revision = text_encoder, text_revision
        self.backbone, self.image_size, self.batch_size = backbone, image_size, batch_size
        self.environment, self.timeout, self.log = environment, timeout, log

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The network's file, and a vocabulary that it is built with."""
        return [
            Checkpoint(self.checkpoint, self.revision, (FILES[self.model],)),
            Checkpoint(self.text_encoder, self.text_revision, ("vocab.txt",)),
        ]

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The English tags of each image.

        Raises:
            CheckpointError: the environment or the weights are not there, or not these.
            WorkerError: the package failed.
        """
        return in_batches(lambda batch: self._worker.ask(batch), images, self.batch_size)

    def check(self) -> None:
        """Make sure that the environment is there.

        Raises:
            CheckpointError: it is not; it says how to get it.
        """
        check_environment(self.environment)

    @cached_property
    def _worker(self) -> Worker:
        network, text_encoder = self.checkpoints
        settings = {
            "checkpoint": str(network.path().absolute()),
            "model": self.model,
            "text_encoder": str(text_encoder.path().absolute().parent),
            "backbone": self.backbone,
            "image_size": self.image_size,
        }
        python = f"{self.environment}/bin/python"
        more = (
            "recognize-anything is in no registry; into that environment it comes by "
            f"`{python} -m pip install --no-deps git+https://github.com/xinyu1205/recognize-anything`"
        )
        return legacy_worker(
            "recognize_anything", "tag", self.environment, settings, timeout=self.timeout, log=self.log, more=more
        )
