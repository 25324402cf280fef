"""CachedTagger: any tagger, whose results are kept on disk. No weights of its own."""

from collections.abc import Sequence
from functools import cached_property

from scenewright.annotators.cache import Cache, texts_from_json, texts_to_json
from scenewright.layout import Image
from scenewright.protocols import Tagger


class CachedTagger:
    """Asks a tagger only about what it was never asked before, with these settings, weights and packages.

    Args:
        tagger: any whose results are the same in every run.
        directory: of the entries, small JSON files; all plugins and processes can share it.
    """

    def __init__(self, tagger: Tagger, directory: str = "~/.cache/scenewright") -> None:
        self.tagger, self.directory = tagger, directory

    def tag(self, images: Sequence[Image], *, seeds: Sequence[int] | None = None) -> list[list[str]]:
        """The tagger's tags, computed or remembered; seeds count if the tagger takes them.

        Raises:
            ValueError: the tagger returned another number of results than it was given images.
        """
        return self._cache.call(images, seeds=seeds)

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.tagger, "tag", self.directory, texts_to_json, texts_from_json)
