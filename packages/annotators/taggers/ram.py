"""RAM: names what is in a picture, out of 4585 common tags.

Source: "Recognize Anything: A Strong Image Tagging Model", Zhang et al. 2023, arXiv 2306.03514. Weights:
``ram_swin_large_14m.pth`` of xinyu1205/recognize_anything_model (5.6 GB, of which 0.9 GB are read), Apache-2.0.
"""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.recognition.network import TaggingNetwork, TextQueries
from scenewright.annotators.recognition.pictures import tag_images
from scenewright.annotators.recognition.tags import TagList, find_tags, ram_tags
from scenewright.annotators.recognition.weights import read_network
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image
from scenewright.networks import precision

FILE = "ram_swin_large_14m.pth"
LIST = "ram_tag_list.txt"


class RAM:
    """Tags each image with those of RAM's classes whose probability is above the class's own threshold.

    Pictures are squashed to a square of 384 pixels. Ten classes ("body", "set", …) are switched off by their
    threshold, as upstream does.

    Args:
        checkpoint: the published file, its folder, or a hub's repository with it. Sizes are read off its tensors.
        tag_list: names of the classes, or a file with one per line; ``ram_tag_list.txt`` beside the checkpoint, else
            the English list that comes along.
        thresholds: one for all, or a file with one per line; ``ram_tag_list_threshold.txt`` beside the list, else
            upstream's.
        deleted: tags that are never reported: attributes and actions, say.
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
        deleted: Sequence[str] = (),
        image_size: int | None = None,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.tag_list, self.thresholds, self.deleted = tag_list, thresholds, deleted
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
        network = read_network(self.checkpoints[0].path(), "RAM", self.image_size)
        if isinstance(network.queries, TextQueries):
            network.queries = network.queries.fixed()  # the same for every image
        if self.compile:
            network.compile()
        return network

    @cached_property
    def _tags(self) -> TagList:
        known = ram_tags()
        found = find_tags(
            self.tag_list,
            self.thresholds,
            checkpoint=self.checkpoints[0].path(),
            filename=LIST,
            count=self._network.queries.classes,
            default=list(known),
            by_name=known,
        )
        return found.without(self.deleted)
