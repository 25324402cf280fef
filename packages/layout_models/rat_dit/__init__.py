"""RAT-Diffusion: a diffusion transformer whose text comes through one recurrent cell."""

from scenewright.layout_models.rat_dit.model import RatDiT

__all__ = ["RatDiT"]
