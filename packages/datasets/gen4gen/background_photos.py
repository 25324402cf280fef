"""Photos of places, sorted into folders by what they show.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.3.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scenewright.datasets.files import IMAGE_EXTENSIONS, extension
from scenewright.datasets.gen4gen.backgrounds import PHRASES
from scenewright.layout import Image, decode

logger = logging.getLogger(__name__)

#: What ``backdrop`` shows.
BACKDROP = "in front of a plain backdrop"

_LITTLE = {"a", "an", "the", "in", "on", "at", "over", "with", "of", "by", "near"}

#: A folder that begins with one of these says already where things are.
_PREPOSITIONS = frozenset(
    "above across along at before behind below beside by in inside near on outside over under".split()
)


class BackgroundPhotos:
    """Photos below a folder; each folder that holds some is a scene.

    A scene's name says what its photos show: of names like "garden" or "living-room" it is known how that is put ("in
    a garden"); of any other, "old bridge", it is "in the old bridge"; one that says where, "on the bridge", is taken as
    it is. Upper case, spaces, hyphens and underscores make no difference.

    Args:
        directory: of the folders; they may lie deeper, and photos may lie in it too.
        photos_per_scene: at most so many of each scene, the same ones each time; null for all.

    Raises:
        ValueError: ``photos_per_scene`` is below 1.
    """

    def __init__(self, directory: str | Path, photos_per_scene: int | None = None) -> None:
        if photos_per_scene is not None and photos_per_scene < 1:
            raise ValueError(f"photos_per_scene must be at least 1, got {photos_per_scene}")
        self.directory, self.photos_per_scene = str(directory), photos_per_scene

    @property
    def phrases(self) -> list[str]:
        """What there are photos of, in the order of the folders' paths, each phrase once.

        Raises:
            FileNotFoundError: there is no such folder, or no photo in it.
        """
        return list(self._scenes)

    @property
    def photos(self) -> list[Path]:
        """All files, in the order of the phrases.

        Raises:
            FileNotFoundError: there is no such folder, or no photo in it.
        """
        return [photo for some in self._scenes.values() for photo in some]

    def choose(self, phrase: str | None, seed: int) -> tuple[str, Path]:
        """A photo that shows what a phrase says; any photo if none does, or without a phrase.

        Returns:
            The phrase that the photo goes with, and its file: what was asked for where there is such a folder, else
            the chosen folder's.

        Raises:
            FileNotFoundError: there is no such folder, or no photo in it.
        """
        random = np.random.default_rng(seed)
        known = self._matching(phrase) if phrase else None
        said = (phrase or "").strip() if known else ""
        if known is None:
            phrases = self.phrases
            known = said = phrases[int(random.integers(len(phrases)))]
        photos = self._scenes[known]
        return said, photos[int(random.integers(len(photos)))]

    def read(self, photo: Path) -> Image:
        """Decode a photo.

        Raises:
            ValueError: it cannot be read; the message names the file.
        """
        try:
            return decode(photo.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"the background photo {photo} cannot be read: {error}") from error

    def _matching(self, phrase: str) -> str | None:
        """The phrase of a folder with the same words, or else with the most words that all occur in this one."""
        asked = _words(phrase)
        found = [(x, _words(x)) for x in self._scenes]
        same = [x for x, words in found if words == asked]
        within = sorted((x for x in found if x[1] and x[1] <= asked), key=lambda x: -len(x[1]))
        return same[0] if same else within[0][0] if within else None

    @cached_property
    def _scenes(self) -> dict[str, list[Path]]:
        """Photos by phrase."""
        root = Path(self.directory).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {self.directory!r} of background photos")
        scenes: dict[str, list[Path]] = {}
        visited = set()  # folders behind links too, each once
        for folder, folders, files in os.walk(root, followlinks=True):
            visited.add(os.path.realpath(folder))
            folders[:] = sorted(x for x in folders if os.path.realpath(os.path.join(folder, x)) not in visited)
            photos = sorted(x for x in files if extension(x) in IMAGE_EXTENSIONS and not x.startswith("."))
            if photos:
                scenes.setdefault(_phrase_of(Path(folder).resolve().name), []).extend(Path(folder, x) for x in photos)
        if not scenes:
            raise FileNotFoundError(
                f"no photo in {self.directory!r} (looked for {', '.join(sorted(IMAGE_EXTENSIONS))})"
            )
        return {phrase: self._some(photos) for phrase, photos in scenes.items()}

    def _some(self, photos: list[Path]) -> list[Path]:
        count = self.photos_per_scene
        if count is None or count >= len(photos):
            return photos
        chosen = np.random.default_rng(0).choice(len(photos), count, replace=False)
        return [photos[i] for i in sorted(chosen)]


def backdrop(height: int, width: int, seed: int) -> Image:
    """A studio's wall: one pale colour, lit from above, darker towards the corners and the floor."""
    random = np.random.default_rng(seed)
    colour = 150 + 70 * random.random(3)
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0 if height > width else 1]
    middle = np.array([0.35 * height, (0.35 + 0.3 * random.random()) * width]) / max(height, width)
    light = 1.12 - 0.45 * np.hypot(y - middle[0], x - middle[1])
    grain = random.normal(0, 1.0, (height, width))  # else eight bits show steps
    pixels = (colour[:, None, None] * light + grain).clip(0, 255).round().astype(np.uint8)
    return torch.from_numpy(pixels)


def _phrase_of(folder: str) -> str:
    """What a folder's photos show."""
    phrase = _KNOWN.get(_plain(folder))
    if phrase is None:
        name = unicodedata.normalize("NFC", folder).strip()
        phrase = re.sub(r"[\s_-]+", " ", name)
        if phrase.split(" ")[0].casefold() not in _PREPOSITIONS:
            phrase = f"in the {phrase}"
        logger.warning("the background folder %r is no scene with a phrase of its own; taking %r", folder, phrase)
    return phrase


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name)).casefold()


def _words(phrase: str) -> frozenset[str]:
    """The words of a phrase that say something."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", phrase).casefold())
    return frozenset(words) - _LITTLE


_KNOWN = {_plain(name): phrase for name, phrase in PHRASES.items()}
