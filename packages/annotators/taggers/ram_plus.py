"""RAM++: names what is in a picture, out of 4585 common tags or of any that one writes down.

Source: "Open-Set Image Tagging with Multi-Grained Text Supervision", Huang et al. 2023, arXiv 2310.15200. Weights:
``ram_plus_swin_large_14m.pth`` of xinyu1205/recognize-anything-plus-model (3 GB), Apache-2.0; for tags of one's own
also the text tower of openai/clip-vit-base-patch16, MIT.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from scenewright.annotators.recognition.network import FixedQueries, TaggingNetwork
from scenewright.annotators.recognition.pictures import tag_images
from scenewright.annotators.recognition.prompts import read_vocabulary, text_features
from scenewright.annotators.recognition.tags import TagList, find_tags, ram_tags
from scenewright.annotators.recognition.weights import read_network
from scenewright.checkpoints import Checkpoint
from scenewright.layout import Image
from scenewright.networks import precision

FILE = "ram_plus_swin_large_14m.pth"
LIST = "ram_tag_list.txt"

#: For classes that were not trained on: inference_ram_plus_openset.py of recognize-anything.
OPEN_THRESHOLD = 0.5


class RAMPlus:
    """Tags each image with those classes whose probability is above the class's own threshold.

    Every class is known by 51 descriptions, weighed anew for each image. With ``tags`` it looks for these instead:
    they become CLIP's text features, of sentences about the name or of the descriptions that are given.

    Args:
        checkpoint: the published file, its folder, or a hub's repository with it. Sizes are read off its tensors.
        tags: what to look for instead of the classes: names, descriptions by name, or a file: ``.txt`` with a name
            per line, ``.json`` with descriptions by name.
        text_checkpoint: the CLIP whose text features the weights were trained with; only read for ``tags``.
        tag_list: names of the classes, or a file with one per line; ``ram_tag_list.txt`` beside the checkpoint, else
            the English list that comes along.
        thresholds: one for all, or a file with one per line; ``ram_tag_list_threshold.txt`` beside the list, else
            upstream's: those of the classes, and 0.5 for ``tags``.
        deleted: tags that are never reported: attributes and actions, say.
        image_size: another side of the square, a multiple of 32; the windows of attention grow with it.
        dtype: "float32", "bfloat16" or "float16".
        compile: compile the network on first use.
    """

    def __init__(
        self,
        checkpoint: str = "xinyu1205/recognize-anything-plus-model",
        revision: str = "main",
        *,
        tags: Mapping[str, Sequence[str]] | Sequence[str] | str | None = None,
        text_checkpoint: str = "openai/clip-vit-base-patch16",
        text_revision: str = "57c216476eefef5ab752ec549e440a49ae4ae5f3",
        tag_list: Sequence[str] | str | None = None,
        thresholds: str | float | None = None,
        deleted: Sequence[str] = (),
        image_size: int | None = None,
        batch_size: int = 8,
        dtype: str = "float32",
        compile: bool = False,
    ) -> None:
        self.checkpoint, self.revision = checkpoint, revision
        self.tags, self.text_checkpoint, self.text_revision = tags, text_checkpoint, text_revision
        self.tag_list, self.thresholds, self.deleted = tag_list, thresholds, deleted
        self.image_size, self.batch_size, self.dtype, self.compile = image_size, batch_size, dtype, compile

    @property
    def checkpoints(self) -> list[Checkpoint]:
        own = Checkpoint(self.checkpoint, self.revision, (FILE,))
        return [own] if self.tags is None else [own, Checkpoint(self.text_checkpoint, self.text_revision)]

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The tags of each image, in the order of the list of classes, or of ``tags``.

        Raises:
            CheckpointError: weights are missing or of another kind, or the list does not fit them.
        """
        if not images:
            return []
        if self.tags is not None:
            self._learn_tags(images[0].device)
        return tag_images(self._network, images, self._tags, batch_size=self.batch_size, dtype=precision(self.dtype))

    @cached_property
    def _network(self) -> TaggingNetwork:
        network = read_network(self.checkpoints[0].path(), "RAM++", self.image_size)
        if self.compile:
            network.compile()
        return network

    @cached_property
    def _vocabulary(self) -> dict[str, list[str]]:
        return read_vocabulary(self.tags) if self.tags is not None else {}

    def _learn_tags(self, device: torch.device) -> None:
        """Put the tags' own queries in the place of the classes', once; they are encoded where the images are."""
        known = self._network.queries
        if not isinstance(known, FixedQueries):
            width = known.label_embed.shape[1]
            with torch.inference_mode(False), torch.no_grad():
                features = text_features(self._vocabulary, self.checkpoints[1], width, device).clone()
                self._network.queries = known.fixed(features)

    @cached_property
    def _tags(self) -> TagList:
        path = self.checkpoints[0].path()
        if self.tags is not None:
            names, chosen = list(self._vocabulary), OPEN_THRESHOLD if self.thresholds is None else self.thresholds
            return find_tags(
                names, chosen, checkpoint=path, filename=LIST, count=len(names), default=(), by_name={}
            ).without(self.deleted)
        known = ram_tags()
        found = find_tags(
            self.tag_list,
            self.thresholds,
            checkpoint=path,
            filename=LIST,
            count=self._network.queries.classes,
            default=list(known),
            by_name=known,
        )
        return found.without(self.deleted)
