"""A layout model small enough to train on a CPU."""

from scenewright.layout_models.tiny.model import Tiny

__all__ = ["Tiny"]
