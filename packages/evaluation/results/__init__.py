"""The page of one evaluation run: its numbers, its best and worst images, and what its scores depend on."""

from scenewright.evaluation.results.page import write_results

__all__ = ["write_results"]
