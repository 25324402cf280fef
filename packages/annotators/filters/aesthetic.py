"""Aesthetic: keeps images that people would like, as LAION's predictor guesses from CLIP's features.

Source: Schuhmann 2022, "Improved Aesthetic Predictor"; Schuhmann et al. 2022, arXiv 2210.08402, section 3.
Weights: https://huggingface.co/trl-lib/ddpo-aesthetic-predictor and CLIP's ViT-L/14.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from scenewright.annotators.limits import check, outside, require
from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import Checkpoint, CheckpointError, read_tensors
from scenewright.layout import Sample, Verdict

#: The published predictor in the hub's repository.
FILE = "aesthetic-model.pth"

_HINT = "set filter.aesthetic.minimum: ratings are from 1 to 10, LAION-Aesthetics begins at 4.5, its better part at 6"


class Aesthetic:
    """Drops images by a rating from 1 to 10 of how pleasing they are.

    Args:
        minimum: of the rating; None for no limit.
        maximum: of the rating; None for no limit.
        predictor: the published file, its folder, or a hub's repository with it; LAION's linear ones work too.
        predictor_revision: of that.
        checkpoint: the CLIP that it was made for, a folder or a hub id.
        batch_size: images in one forward pass.
        dtype: of CLIP's weights: "float32", "bfloat16", "float16".

    Raises:
        ValueError: there is no limit, or they exclude everything.
    """

    after = "source"

    def __init__(
        self,
        minimum: float | int | None = None,
        maximum: float | int | None = None,
        predictor: str = "trl-lib/ddpo-aesthetic-predictor",
        predictor_revision: str = "main",
        checkpoint: str = "openai/clip-vit-large-patch14",
        revision: str = "main",
        batch_size: int = 64,
        dtype: str = "float32",
    ) -> None:
        check("aesthetic", minimum, maximum)
        require("aesthetic", minimum, maximum, hint=_HINT)
        self.minimum, self.maximum = minimum, maximum
        self.predictor, self.predictor_revision = predictor, predictor_revision
        self.checkpoint, self.revision, self.batch_size, self.dtype = checkpoint, revision, batch_size, dtype

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """CLIP's, and the predictor's."""
        return [
            Checkpoint(self.checkpoint, self.revision),
            Checkpoint(self.predictor, self.predictor_revision, (FILE,)),
        ]

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """A reason for each image that is rated too low or too high.

        Raises:
            CheckpointError: weights are not here, or are none of a CLIP and a predictor for it.
        """
        if not samples:
            return []
        return [
            # a whole hundredth, which is more than anybody can tell
            Verdict(image=outside("aesthetic rating", round(x, 2), self.minimum, self.maximum))
            for x in self._rate(samples).tolist()
        ]

    def _rate(self, samples: Sequence[Sample]) -> Float[Tensor, " n"]:
        weight, bias = self._map
        features = self._clip.of_pictures([x.image for x in samples]).float()
        if features.shape[1] != len(weight):
            raise CheckpointError(
                f"the aesthetic predictor {self.predictor} reads {len(weight)} values, {self.checkpoint} says "
                f"{features.shape[1]}; it belongs to another CLIP"
            )
        return features @ weight.to(features.device) + bias

    @cached_property
    def _map(self) -> tuple[Float[Tensor, " d"], float]:
        path = self.checkpoints[-1].path()
        return affine_map(read_tensors(path), str(path))

    @cached_property
    def _clip(self) -> CLIP:
        return CLIP(self.checkpoint, self.revision, self.batch_size, self.dtype)


def affine_map(tensors: Mapping[str, Tensor], name: str) -> tuple[Float[Tensor, " d"], float]:
    """Linear layers one after the other as the one map that they are: the published network has nothing in between.

    Args:
        tensors: ``layers.0.weight``, ``layers.0.bias``, ``layers.2.weight``, …; or ``weight`` and ``bias``.
        name: of the file, for errors.

    Raises:
        CheckpointError: there are other tensors, or layers that do not fit together into one number.
    """
    places = [re.fullmatch(r"(?:layers\.(\d+)\.)?(?:weight|bias)", x) for x in tensors]
    prefixes = sorted({int(x[1]) if x and x[1] else 0 for x in places})
    stems = [f"layers.{i}." for i in prefixes] if any(x and x[1] for x in places) else [""]
    if not tensors or set(tensors) != {f"{stem}{x}" for stem in stems for x in ("weight", "bias")}:
        raise CheckpointError(
            f"{name} is no aesthetic predictor: it holds {', '.join(sorted(tensors)[:4]) or 'nothing'}"
        )
    weight, bias = (tensors[f"{stems[0]}{x}"].double() for x in ("weight", "bias"))
    try:
        for stem in stems[1:]:
            after = tensors[f"{stem}weight"].double()
            weight, bias = after @ weight, after @ bias + tensors[f"{stem}bias"].double()
        return weight.float()[0], float(bias.reshape(()))
    except RuntimeError as error:
        raise CheckpointError(f"{name} is no aesthetic predictor: {error}") from error
