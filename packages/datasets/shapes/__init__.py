"""Procedural scenes with exact ground truth: no file, no network, any size.

``dataset`` is the source, ``scene`` decides what is where, ``outlines`` and ``colours``
hold the vocabulary, ``stamp`` and ``painting`` make pixels, ``wording`` makes sentences.
"""

from scenewright.datasets.shapes.dataset import Shapes

__all__ = ["Shapes"]
