"""How composed scenes came about, on one page."""

from scenewright.evaluation.compositions.page import write_compositions

__all__ = ["write_compositions"]
