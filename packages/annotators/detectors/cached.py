"""CachedDetector: any detector, whose results are kept on disk. No weights of its own."""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.cache import Cache, layout_from_json, layout_to_json
from scenewright.layout import Image, Layout
from scenewright.protocols import Detector


class CachedDetector:
    """Asks a detector only about what it was never asked before, with these settings, weights and packages.

    Args:
        detector: any whose results are the same in every run.
        directory: of the entries, small JSON files; all plugins and processes can share it.
    """

    def __init__(self, detector: Detector, directory: str = "~/.cache/scenewright") -> None:
        self.detector, self.directory = detector, directory

    def detect(
        self, images: Sequence[Image], tags: Sequence[Sequence[str]], *, seeds: Sequence[int] | None = None
    ) -> list[Layout]:
        """The detector's regions, computed or remembered; seeds count if the detector takes them.

        Raises:
            ValueError: the detector returned another number of results than it was given images.
        """
        return self._cache.call(images, tags, seeds=seeds)

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.detector, "detect", self.directory, layout_to_json, layout_from_json)
