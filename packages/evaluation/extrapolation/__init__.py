"""Which retrieved images stayed, and why the others did not, on one page."""

from scenewright.evaluation.extrapolation.page import write_extrapolation

__all__ = ["write_extrapolation"]
