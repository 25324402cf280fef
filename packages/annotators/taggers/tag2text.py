"""Tag2Text: names what is in a picture, out of 3429 common tags. Its captioner is not part of this.

Source: "Tag2Text: Guiding Vision-Language Model via Image Tagging", Huang et al. 2023, arXiv 2303.05657. Weights:
``tag2text_swin_14m.pth`` of xinyu1205/recognize_anything_model (4.5 GB, of which 0.5 GB are read), Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.recognition.network import TaggingNetwork
from scenewright.annotators.recognition.pictures import tag_images
from scenewright.annotators.recognition.tags import TagList, find_tags, tag2text_tags
from scenewright.annotators.recognition.weights import read_network
from scenewright.checkpoints import Checkpoint, CheckpointError
from scenewright.layout import Image
from scenewright.networks import precision

FILE = "tag2text_swin_14m.pth"
LIST = "tag2text_ori_tag_list.txt"

#: Upstream's thresholds that are not 0.68.
RAISED = {"person": 0.7, "man": 0.7, "woman": 0.7}

#: Classes before this one are things, the others actions and attributes: so says Grounded-SAM's Tag2Text demo.
THINGS = 3012

#: What upstream never reports, because it disturbs captions.
DELETED = ("quarter", "back", "two", "three", "four", "five", "one")


class Tag2Text:
    """Tags each image with those of Tag2Text's classes whose probability is above the class's threshold.

    Pictures are squashed to a square of 384 pixels.

    Args:
        checkpoint: the published file, its folder, or a hub's repository with it. Sizes are read off its tensors.
        tag_list: names of the classes, or a file with one per line; ``tag2text_ori_tag_list.txt`` beside the
            checkpoint, else the list that comes along.
        thresholds: one for all, or a file with one per line; upstream's if not given: 0.68, and 0.7 for "person",
            "man" and "woman".
        deleted: tags that are never reported; upstream's seven if not given, where the list has them.
        things_only: never report actions and attributes, which are the classes from 3012 on.
        image_size: another side of the square, a multiple of 32; the windows of attention grow with it.
        dtype: "float32", "bfloat16" or "float16".
        compile: compile the network on first use.
    """

    def __init__(
        self,
        checkpoint: str = "xinyu1205/recognize_anything_model",
        revision: str = "main",
        *,
        tag_list: Sequence[str] | str | None = None,
        thresholds: str | float | None = None,
        deleted: Sequence[str] | None = None,
        things_only: bool = False,
        image_size: int | None = None,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.tag_list, self.thresholds, self.deleted = tag_list, thresholds, deleted
        self.things_only = things_only
        self.image_size, self.batch_size, self.dtype, self.compile = image_size, batch_size, dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.checkpoint, self.revision, (FILE,))]

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The tags of each image, in the order of the list of classes.

        Raises:
            CheckpointError: the weights are missing or of another kind, or the list does not fit them.
        """
        return tag_images(self._network, images, self._tags, batch_size=self.batch_size, dtype=precision(self.dtype))

    @cached_property
    def _network(self) -> TaggingNetwork:
        network = read_network(self.checkpoints[0].path(), "Tag2Text", self.image_size)
        if self.compile:
            network.compile()
        return network

    @cached_property
    def _tags(self) -> TagList:
        found = find_tags(
            self.tag_list,
            self.thresholds,
            checkpoint=self.checkpoints[0].path(),
            filename=LIST,
            count=self._network.queries.classes,
            default=tag2text_tags(),
            by_name=RAISED,
        )
        if self.things_only:
            found = self._things(found)
        deleted = [x for x in DELETED if x in found.names] if self.deleted is None else self.deleted
        return found.without(deleted)

    def _things(self, tags: TagList) -> TagList:
        """The same list, in which no action and no attribute is ever seen."""
        if len(tags.names) != len(tag2text_tags()):
            raise CheckpointError(
                f"things_only needs the {len(tag2text_tags())} classes of the published weights, got {len(tags.names)}"
            )
        thresholds = tags.thresholds.clone()
        thresholds[THINGS:] = 1.0
        return TagList(tags.names, thresholds)
