"""AppearanceTagger: names colours, light and texture, without weights."""

from __future__ import annotations

from collections.abc import Sequence

from scenewright.annotators.appearance.scene import Scene, describe_scene
from scenewright.layout import Image


class AppearanceTagger:
    """Tags an image with what its pixels alone can claim: main colours, light, contrast, palette and texture.

    Knows no names of things: a photograph of a cat is "brown", "textured", "muted", never "cat". Use a pretrained
    tagger where a detector needs names. It looks at a copy of at most 128 pixels.

    Args:
        max_tags: as many tags at most, the colours first.
    """

    def __init__(self, max_tags: int = 8) -> None:
        self.max_tags = max_tags

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        """The tags of each image, in a fixed order: colours by their share, then light to texture."""
        return [_tags(describe_scene(image.permute(1, 2, 0).cpu().numpy()))[: self.max_tags] for image in images]


def _tags(scene: Scene) -> list[str]:
    words = (scene.light, scene.contrast, scene.palette, scene.texture)
    return [*scene.colours, *(word.replace("-", " ") for word in words if word)]
