"""CachedSegmenter: any segmenter, whose results are kept on disk. No weights of its own."""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.cache import Cache, masks_from_json, masks_to_json
from scenewright.layout import Image, Layout, RunLengths
from scenewright.protocols import Segmenter


class CachedSegmenter:
    """Asks a segmenter only about what it was never asked before, with these settings, weights and packages.

    Args:
        segmenter: any whose results are the same in every run.
        directory: of the entries, small JSON files; all plugins and processes can share it.
    """

    def __init__(self, segmenter: Segmenter, directory: str = "~/.cache/scenewright") -> None:
        self.segmenter, self.directory = segmenter, directory

    def segment(
        self, images: Sequence[Image], layouts: Sequence[Layout], *, seeds: Sequence[int] | None = None
    ) -> list[list[RunLengths]]:
        """The segmenter's masks, computed or remembered; seeds count if the segmenter takes them.

        Raises:
            ValueError: the segmenter returned another number of results than it was given images.
        """
        return self._cache.call(images, layouts, seeds=seeds)

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.segmenter, "segment", self.directory, masks_to_json, masks_from_json)
