"""The tiny model's twin that sees the caption alone: what is left when the layout is not told."""

from pathlib import Path

from scenewright.layout_models.tiny.model import Tiny


class TinyCaptionOnly(Tiny):
    """The same network and training without regional layers and without boxes.

    Args: as of ``Tiny``; layouts are ignored.
    """

    grounded = False

    @property
    def shipped(self) -> Path:
        """The file that comes with the package."""
        return super().shipped.with_name("caption_only.safetensors")
