"""LavisBLIP2: BLIP-2 with FLAN-T5 as LAVIS runs it, in the legacy environment.

The captioner of InstanceDiffusion's data; ``blip2`` is the same network of transformers. Source: Li et al. 2023,
"BLIP-2", arXiv 2301.12597; salesforce-lavis 1.0.2 (BSD-3-Clause). Weights: ``blip2_pretrained_flant5xxl.pth`` (or
``..._flant5xl.pth``) and ``eva_vit_g.pth`` of LAVIS (BSD-3-Clause; EVA-CLIP: MIT), at
https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/; google/flan-t5-xxl (Apache-2.0).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from scenewright.annotators.captions import describe
from scenewright.annotators.isolation.legacy import ENVIRONMENT, check_environment, legacy_worker
from scenewright.annotators.isolation.process import Worker
from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.layout import Image, Layout

VISION_FILE = "eva_vit_g.pth"

#: What of a FLAN-T5 is read: its configuration and vocabulary, and weights in one file or in parts.
LANGUAGE_FILES = ("config.json", "spiece.model", "tokenizer.json", "tokenizer_config.json", "*.safetensors*", "*.bin*")


class LavisBLIP2:
    """Describes each region's crop, squashed to 224 x 224, in a few words.

    Its defaults are those of InstanceDiffusion's data: five beams, 30 tokens, no prompt; with ``legacy=true``,
    ``small=empty`` and ``clean=false`` it describes the very same crops. In half precision on a GPU, as LAVIS runs it,
    and in full precision on a CPU.

    Args:
        checkpoint: a folder with LAVIS's two files.
        filename: the one with the Q-Former.
        language: the FLAN-T5 that it belongs to: a folder or hub id.
        prompt: for regions; ``{label}`` stands for the label.
        image_prompt: for whole images.
        padding: context around a crop, as a fraction of the box's width and height.
        blur: of what is around the region in its crop, as a fraction of the crop's longer side.
        min_area: regions of fewer pixels are not looked at.
        small: what these get: their "label", or "empty" text.
        legacy: crop as the reference pipelines do: truncated corners, black outside of the image, no padding.
        clean: make one plain sentence of each caption.
        num_beams: 1 is greedy.
        length_penalty: above 0 favours long captions; of beam search only.
        changes: for weights of one's own, what is not as published: fields of "vision" and of "qformer".
        batch_size: crops that are looked at together, of any images.
        environment: folder of the virtual environment with salesforce-lavis.
        timeout: seconds for a batch.
        log: a file for what the package prints; None for one in the system's temporary folder.
    """

    def __init__(
        self,
        checkpoint: str = "./weights/lavis",
        *,
        filename: str = "blip2_pretrained_flant5xxl.pth",
        language: str = "google/flan-t5-xxl",
        language_revision: str = "main",
        prompt: str = "",
        image_prompt: str = "",
        padding: float = 0.0,
        blur: float = 0.0,
        min_area: int = 1024,
        small: str = "label",
        legacy: bool = False,
        clean: bool = True,
        max_new_tokens: int = 30,
        num_beams: int = 5,
        length_penalty: float = 1.0,
        image_size: int = 224,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
        batch_size: int = 8,
        environment: str = ENVIRONMENT,
        timeout: float = 600.0,
        log: str | None = None,
    ) -> None:
        self.checkpoint, self.filename = checkpoint, filename
        self.language, self.language_revision = language, language_revision
        self.prompt, self.image_prompt = prompt, image_prompt
        self.padding, self.blur, self.min_area, self.small = padding, blur, min_area, small
        self.legacy, self.clean = legacy, clean
        self.max_new_tokens, self.num_beams, self.length_penalty = max_new_tokens, num_beams, length_penalty
        self.image_size, self.changes, self.batch_size = image_size, changes, batch_size
        self.environment, self.timeout, self.log = environment, timeout, log

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """LAVIS's files, and the language model."""
        return [
            Checkpoint(self.checkpoint, files=(self.filename, VISION_FILE)),
            Checkpoint(self.language, self.language_revision, LANGUAGE_FILES[:2]),
        ]

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Raises:
            CheckpointError: the environment or the weights are not there, or not these.
            WorkerError: the package failed.
        """
        return describe(
            images,
            layouts,
            self._ask,
            prompt=self.prompt,
            image_prompt=self.image_prompt,
            padding=self.padding,
            blur=self.blur,
            min_area=self.min_area,
            small=self.small,
            legacy=self.legacy,
            batch_size=self.batch_size,
            clean=self.clean,
            max_aspect=float("inf"),  # squashed anyway
        )

    def _ask(self, crops: list[Image], prompts: list[str]) -> list[str]:
        return self._worker.ask(crops, prompts)

    def check(self) -> None:
        """Make sure that the environment is there.

        Raises:
            CheckpointError: it is not; it says how to get it.
        """
        check_environment(self.environment)

    @cached_property
    def _worker(self) -> Worker:
        lavis, language = self.checkpoints
        settings = {
            "checkpoint": str(lavis.path().absolute()),
            "vision": str(lavis.path(VISION_FILE).absolute()),
            "language": _folder(language),
            "image_size": self.image_size,
            "changes": {name: dict(fields) for name, fields in (self.changes or {}).items()},
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,
            "length_penalty": self.length_penalty,
        }
        return legacy_worker("lavis_blip2", "caption", self.environment, settings, timeout=self.timeout, log=self.log)


def _folder(checkpoint: Checkpoint) -> str:
    """A folder with all of a language model, as the other environment has no way to ask the hub."""
    checkpoint.check()
    if checkpoint.is_local:
        return str(Path(checkpoint.name).expanduser().absolute())
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": list(LANGUAGE_FILES)}
    if checkpoint.commit is not None:  # it is here
        options |= {"local_files_only": True}
    try:
        return snapshot_download(checkpoint.name, revision=checkpoint.revision, **options)
    except OSError as error:
        raise CheckpointError(f"{checkpoint.name} cannot be fetched as a whole: {error}") from error
