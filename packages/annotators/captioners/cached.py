"""CachedCaptioner: any captioner, whose results are kept on disk. No weights of its own."""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.cache import Cache, texts_from_json, texts_to_json
from scenewright.layout import Image, Layout
from scenewright.protocols import Captioner


class CachedCaptioner:
    """Asks a captioner only about what it was never asked before, with these settings, weights and packages.

    Args:
        captioner: any whose results are the same in every run.
        directory: of the entries, small JSON files; all plugins and processes can share it.
    """

    def __init__(self, captioner: Captioner, directory: str = "~/.cache/scenewright") -> None:
        self.captioner, self.directory = captioner, directory

    def caption(
        self, images: Sequence[Image], layouts: Sequence[Layout], *, seeds: Sequence[int] | None = None
    ) -> list[list[str]]:
        """The captioner's captions, computed or remembered; seeds count if the captioner takes them.

        Raises:
            ValueError: the captioner returned another number of results than it was given images.
        """
        return self._cache.call(images, layouts, seeds=seeds)

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.captioner, "caption", self.directory, texts_to_json, texts_from_json)
