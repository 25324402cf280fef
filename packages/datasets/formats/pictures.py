"""The image files of an export."""

import io
import os
import re
from pathlib import Path

from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from scenewright.datasets.files import IMAGE_EXTENSIONS, is_local, join
from scenewright.datasets.formats.folder import file_stem
from scenewright.layout import EncodedImage, Sample

MODES = ("copy", "link", "path", "none")

#: Width and height change places when such a file is decoded.
_TURNED = (5, 6, 7, 8)


class Pictures:
    """Puts images into a folder, or says where they are.

    Annotations are those of the picture as it is decoded. Where a file is turned by its EXIF tag or has a
    border around the picture, readers that ignore these would see other pixels, so ``copy`` writes such a
    picture anew as PNG; all other files are copied byte by byte.

    Args:
        folder: of the export; made when the first file is.
        mode: ``copy`` the files; ``link`` to them or give their ``path`` below ``root``; or ``none``.
        root: the folder or URL that the samples' own names start from.

    Raises:
        ValueError: ``mode`` is none of these, or ``root`` is missing or no folder for links.
    """

    def __init__(self, folder: Path, mode: str = "copy", root: str | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"images must be one of {', '.join(MODES)}, got {mode!r}")
        if mode in ("link", "path") and root is None:
            raise ValueError(f"images={mode} needs image_root, the folder that the images' names start from")
        if mode == "link" and not is_local(str(root)):
            raise ValueError(f"images=link needs an image_root on this machine, got {root}")
        self.folder, self.mode, self.root = folder, mode, root
        self.redrawn = 0

    def place(self, sample: Sample) -> str:
        """Write, link or find the file of a sample.

        Returns:
            its name in the folder; with ``path``, where it is.

        Raises:
            ValueError: the sample has no image, or its file is another than the annotations are of.
        """
        stem = file_stem(sample.key)
        if self.mode == "none":
            return f"{stem}.{'jpg' if sample.source is None else _extension(sample.source)}"
        source = _source(sample)
        if self.mode == "copy":
            return self._copy(stem, source)
        if _is_other_than_picture(source):
            raise ValueError(
                f"the file of {sample.key!r} is turned by its EXIF tag or has a border, so that annotations do not "
                f"fit it; say images=copy"
            )
        where = join(str(self.root), _inside(source.name))
        if self.mode == "path":
            return where
        name = f"{stem}.{_extension(source)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        os.symlink(Path(where).resolve(strict=True), self.folder / name)
        return name

    def _copy(self, stem: str, source: EncodedImage) -> str:
        if _is_other_than_picture(source):
            self.redrawn += 1
            source = EncodedImage.from_image(source.image)
        name = f"{stem}.{_extension(source)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(source.data)
        return name


def picture_file(sample: Sample) -> tuple[bytes, bool]:
    """The bytes of a file that shows exactly the picture, and whether they had to be made anew."""
    source = _source(sample)
    if _is_other_than_picture(source):
        return EncodedImage.from_image(source.image).data, True
    return source.data, False


def size_of(sample: Sample) -> tuple[int, int]:
    """Height and width of the picture; from its masks or the file's header where they say it."""
    if sample.layout.masks:
        return sample.layout.masks[0].size
    source = _source(sample)
    if not any(source.border):
        try:
            with PILImage.open(io.BytesIO(source.data)) as image:
                if image.format in ("JPEG", "PNG", "WEBP"):
                    width, height = image.size
                    return (width, height) if _orientation(image) in _TURNED else (height, width)
        except (UnidentifiedImageError, SyntaxError):  # decoding it says what is wrong with it
            pass
    height, width = sample.image.shape[1:]
    return height, width


def _source(sample: Sample) -> EncodedImage:
    if sample.source is None:
        raise ValueError(
            f"the shards hold no images; say which they belong to, as in "
            f"+dataset@images=image_folder images.directory=photos (first without: {sample.key!r})"
        )
    return sample.source


def _is_other_than_picture(source: EncodedImage) -> bool:
    if any(source.border):
        return True
    with PILImage.open(io.BytesIO(source.data)) as image:
        return _orientation(image) in range(2, 9)


def _orientation(image: PILImage.Image) -> int:
    return image.getexif().get(0x0112, 1)


def _extension(source: EncodedImage) -> str:
    return source.extension if source.extension in IMAGE_EXTENSIONS else "png"


def _inside(name: str) -> str:
    """A file's name below the root: the shards came from somewhere, and must not name what lies elsewhere."""
    if name.startswith("/") or not is_local(name) or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"the image's name must be a path below image_root, got {name!r}")
    return name
