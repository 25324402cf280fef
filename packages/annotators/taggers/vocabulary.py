"""Vocabulary: the same tags for every image, for detectors that are to look for a closed set."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from scenewright.annotators.recognition.tags import ram_tags, read_names
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Image


class Vocabulary:
    """Gives every image the whole list, in its order; looks at no image and needs no weights.

    Args:
        tags: the names; or the path of a text file with one per line; or the name of a known set: "coco" (80 things),
            "voc" (20 things), "imagenet" (1000 classes), "ram" (the 4575 tags that RAM reports).
    """

    def __init__(self, tags: Sequence[str] | str = "coco") -> None:
        self.tags = tags

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The list, once for each image.

        Raises:
            CheckpointError: there is no such file and no such set, or the list is empty.
        """
        return [list(self._names) for _ in images]

    @cached_property
    def _names(self) -> list[str]:
        if isinstance(self.tags, str) and not Path(self.tags).expanduser().is_file():
            names = _known(self.tags)
        else:
            names = read_names(self.tags) if isinstance(self.tags, str) else [str(x).strip() for x in self.tags]
        names = list(dict.fromkeys(x for x in names if x))
        if not names:
            raise CheckpointError("tags must hold at least one name, got none")
        return names


def _known(name: str) -> list[str]:
    """A set that torchvision's models were trained for, without its placeholders; or RAM's."""
    from torchvision.models import ResNet50_Weights
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    sets = {
        "coco": FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"],
        "voc": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"],
        "imagenet": ResNet50_Weights.IMAGENET1K_V2.meta["categories"],
        "ram": [tag for tag, threshold in ram_tags().items() if threshold < 1],
    }
    if name not in sets:
        raise CheckpointError(f"tags must be names, a text file or one of {', '.join(sets)}; {name} is none of these")
    return [x for x in sets[name] if x not in ("__background__", "N/A")]
