"""CPCLIP: are all the personal concepts in the image, and do they look as their reference pictures do?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import nms

from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.crops import cut
from scenewright.evaluation.image_text import ImageText
from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, Layout, Sample, decode
from scenewright.protocols import Detector

#: What a file of a folder of references ends in, if it is a picture.
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class CPCLIP(RecordingMetric):
    """How much the objects that a detector finds look like the references of the concepts that were asked for.

    A layout's regions are its concepts; where they are in it does not matter. The detector looks for the labels, and
    of each label the surest box is kept. A box's score is the mean cosine of its crop and the references of one
    concept, the largest over all concepts of the layout, whatever the box's label. Numbers, each the mean over a
    layout's concepts (0 for one that is not found), then over images:

    - ``cp_clip``: of the kept boxes, their scores. Further boxes change nothing. Regions of one label have one box
      together, so that two cats reach 1/2 at most. The same object from other sides has about 0.6 to 0.7;
    - ``matched``: of a label that n regions have, the n surest boxes are kept, and boxes and concepts are paired one
      to one such that the cosines sum up to the most;
    - ``found``: concepts that have a kept box of ``cp_clip``, as a share.

    A layout without regions counts for nothing. An image is not scored if one of its concepts has no references. The
    layout's boxes and captions play no part.

    Args:
        detector: looks for labels; any.
        image_text: a CLIP, whose pictures are compared.
        references: by concept, picture files; or a folder with a subfolder of pictures for each. A region's concept
            is its label, or what ``metadata["concepts"]`` has for it: two cats of their own. Case, white space and
            underscores make no difference.
        nms_threshold: of boxes of one label, one goes when its IoU with a surer one is above this.
        compat: of crops and references only the middle square is looked at, as by CLIP's own preprocessing. Else all
            of them, in a square of the colour that CLIP sees as zero.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.5 and appendix 9.
    """

    def __init__(
        self,
        detector: Detector,
        image_text: ImageText,
        references: Mapping[str, Sequence[str]] | str | Path,
        nms_threshold: float = 0.5,
        compat: bool = False,
    ) -> None:
        super().__init__()
        self.detector, self.image_text, self.references = detector, image_text, references
        self.nms_threshold, self.compat = nms_threshold, compat

    def check(self) -> None:
        """Make sure that there are references.

        Raises:
            CheckpointError: there are none.
        """
        missing = [x for some in self._files.values() for x in some if not x.is_file()]
        if missing or not any(self._files.values()):
            raise CheckpointError(
                "references must be a folder with a subfolder of pictures for each concept, or lists of files by "
                f"concept, got {missing[0] if missing else self.references}"
            )

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The references, since the numbers depend on what is in them as on weights."""
        if isinstance(self.references, Mapping):
            found = [x for some in self._files.values() for x in some if x.is_file()]
        else:
            found = [x for x in [Path(self.references).expanduser()] if x.is_dir()]
        return [Checkpoint(str(x), files=(".",)) for x in found]

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        """The crops of all images go through the network together; references do so once in a run.

        Raises:
            ValueError: a reference is no picture.
        """
        concepts = [_concepts(x) for x in samples]
        problems = [self._problem(x, names) for x, names in zip(samples, concepts, strict=True)]
        tags = [[] if problem else list(x.layout.labels) for x, problem in zip(samples, problems, strict=True)]
        found = self.detector.detect(generated, tags)
        kept = [self._kept(x, own) for x, own in zip(found, tags, strict=True)]
        crops = [crop for image, boxes in zip(generated, kept, strict=True) for crop in cut(image, boxes)]
        seen = self._see(crops).split([len(x) for x in kept])
        rows = zip(samples, concepts, problems, kept, seen, strict=True)
        return [self._record(*x) for x in rows]

    def _record(
        self, sample: Sample, concepts: list[str], problem: str, kept: Layout, seen: Float[Tensor, "k d"]
    ) -> Record:
        n = len(sample.layout)
        if problem:
            return Record(sample.key, dict.fromkeys(_NAMES, [math.nan] * n), problems=[problem])
        scores = {name: [0.0] * n for name in _NAMES}
        if len(kept):
            likeness = (seen @ torch.stack([self._of_concept(x, seen.device) for x in concepts]).T).cpu().numpy()
            labels = [_plain(x) for x in sample.layout.labels]
            for i, label in enumerate(map(_plain, kept.labels)):
                first = labels.index(label)
                if not scores["found"][first]:  # the surest of its label
                    scores["found"][first], scores["cp_clip"][first] = 1.0, float(likeness[i].max())
            for i, j in zip(*linear_sum_assignment(likeness, maximize=True), strict=True):
                scores["matched"][j] = float(likeness[i, j])
        return Record(sample.key, scores)

    def _kept(self, found: Layout, tags: Sequence[str]) -> Layout:
        """Of each label as many boxes as there are regions of it, the surest first."""
        boxes = found.boxes.float().cpu()
        scores = torch.zeros(len(found)) if found.scores is None else found.scores.float().cpu()
        wanted, names = [_plain(x) for x in tags], np.array([_plain(x) for x in found.labels], dtype=str)
        kept = []
        for name in dict.fromkeys(wanted):
            own = torch.from_numpy(np.flatnonzero(names == name))
            surest = nms(boxes[own], scores[own], self.nms_threshold)
            kept += own[surest][: wanted.count(name)].tolist()
        return found.keep(torch.tensor(kept, dtype=torch.long))

    def _problem(self, sample: Sample, concepts: Sequence[str]) -> str:
        """Why an image cannot be scored; empty if it can."""
        if len(concepts) != len(sample.layout):
            return f"metadata.concepts must name all {len(sample.layout)} regions' concepts, got {len(concepts)}"
        missing = next((x for x in concepts if not self._files.get(_plain(x))), None)
        return "" if missing is None else f"there are no reference pictures of {missing!r}"

    def _see(self, pictures: Sequence[Image]) -> Float[Tensor, "n d"]:
        if not pictures:
            return torch.zeros(0, 1, dtype=torch.float64)
        return self.image_text.of_pictures(pictures, whole=not self.compat).double()

    def _of_concept(self, concept: str, device: torch.device) -> Float[Tensor, " d"]:
        """The mean of its references: the mean of cosines with them is the product with it."""
        name = _plain(concept)
        if name not in self._known:
            self._known[name] = self._see([_read(x).to(device) for x in self._files[name]]).mean(0)
        return self._known[name].to(device)

    @cached_property
    def _known(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """The pictures of each concept."""
        if isinstance(self.references, Mapping):
            return {_plain(name): [Path(x).expanduser() for x in some] for name, some in self.references.items()}
        root = Path(self.references).expanduser()
        folders = sorted(x for x in root.iterdir() if x.is_dir()) if root.is_dir() else []
        return {_plain(x.name): sorted(y for y in x.iterdir() if y.suffix.lower() in _PICTURES) for x in folders}


_NAMES = ("cp_clip", "matched", "found")


def _concepts(sample: Sample) -> list[str]:
    """What each region is to show."""
    return [str(x) for x in sample.metadata.get("concepts") or sample.layout.labels]


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _read(path: Path) -> Image:
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"the reference picture {path} cannot be read: {error}") from error
