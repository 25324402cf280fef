"""Personal concepts and their photos, as folders: ``<scene>/<object>/<photos>``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from scenewright.datasets.files import IMAGE_EXTENSIONS, extension
from scenewright.datasets.gen4gen.records import Concept

logger = logging.getLogger(__name__)

#: What is taken for a photo, by its extension in any case.
PHOTO_EXTENSIONS = IMAGE_EXTENSIONS | {"avif", "jfif", "pbm", "pgm", "ppm"}


@dataclass(frozen=True)
class Scene:
    """Concepts that may occur together.

    Attributes:
        name: its folder.
        concepts: sorted by their folders; at least one.
    """

    name: str
    concepts: tuple[Concept, ...]


def read_concepts(directory: str | Path) -> list[Scene]:
    """The scenes of a folder ``<scene>/<object>/<photos>``, sorted by name.

    Whatever begins with a dot is ignored. Files that are no photos are ignored too, with a warning where they lie
    among photos.

    Raises:
        FileNotFoundError: there is no such folder, no scene in it, no object in a scene, or no photo of an object.
        ValueError: photos lie beside the folders of scenes or objects.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(directory)!r}; it must hold <scene>/<object>/<photos>")
    scenes = [_read_scene(folder) for folder in _folders_of(root, "<scene>/<object>/<photos>")]
    if not scenes:
        raise FileNotFoundError(f"no scene in {str(directory)!r}; it must hold <scene>/<object>/<photos>")
    return scenes


def display_name(folder: str) -> str:
    """What an object's folder is called in prompts: without digits, underscores as spaces.

    ``cat1`` and ``cat_2`` are both "cat". A name of which nothing would be left stays as it is.
    """
    words = " ".join(re.sub(r"\d", "", folder).replace("_", " ").split())
    return words.strip(" -") or folder


def _read_scene(folder: Path) -> Scene:
    objects = _folders_of(folder, "<object>/<photos>")
    if not objects:
        raise FileNotFoundError(f"no object in the scene {str(folder)!r}; it must hold <object>/<photos>")
    return Scene(folder.name, tuple(_read_concept(x) for x in objects))


def _read_concept(folder: Path) -> Concept:
    files = [x for x in _visible(folder) if x.is_file()]
    photos = tuple(x for x in files if extension(x.name) in PHOTO_EXTENSIONS)
    others = [x.name for x in files if x not in photos]
    if not photos:
        found = f"; found {_some(others)}" if others else ""
        kinds = ", ".join(sorted(PHOTO_EXTENSIONS))
        raise FileNotFoundError(f"no photo in {str(folder)!r}{found}; a photo ends in one of {kinds}")
    if others:
        logger.warning("%s: ignored %s, which end as no photo does", folder, _some(others))
    return Concept(f"{folder.parent.name}/{folder.name}", display_name(folder.name), photos)


def _folders_of(folder: Path, layout: str) -> list[Path]:
    """The folders in a folder, sorted.

    Raises:
        ValueError: photos lie beside them.
    """
    inside = _visible(folder)
    loose = [x.name for x in inside if x.is_file() and extension(x.name) in PHOTO_EXTENSIONS]
    if loose:
        raise ValueError(f"photos lie directly in {str(folder)!r} ({_some(loose)}); it must hold {layout}")
    return [x for x in inside if x.is_dir()]


def _visible(folder: Path) -> list[Path]:
    return sorted((x for x in folder.iterdir() if not x.name.startswith(".")), key=lambda x: x.name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
