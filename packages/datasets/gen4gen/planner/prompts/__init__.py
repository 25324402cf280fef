"""What a language model is asked, word for word as it was published.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504; the layout prompt comes from Lian et al. 2023, "LLM-grounded
Diffusion", arXiv 2305.13655.
"""

from functools import cache
from importlib.resources import files

#: The texts: backgrounds for a phrase; boxes, with the exemplars built in or to be added; its end; real sizes.
NAMES = ("backgrounds", "layout", "layout_with_exemplars", "layout_end", "ratios")


def backgrounds(phrase: str) -> str:
    """Ask for scenes and background phrases that suit "one cat and one dog"."""
    return _filled("backgrounds", phrase)


def layout(caption: str, exemplars: str = "") -> str:
    """Ask for the boxes of a caption's things, on a canvas of 512 x 512 pixels.

    Args:
        exemplars: captions with their boxes, written out; the prompt's own if there are none.
    """
    start = text("layout_with_exemplars") + exemplars if exemplars else text("layout")
    return start + _filled("layout_end", caption)


def ratios(names: str) -> str:
    """Ask for the real sizes of "cat, dog" relative to the largest."""
    return _filled("ratios", names)


@cache
def text(name: str) -> str:
    """One of ``NAMES``, with ``{prompt}`` where the question goes."""
    return (files("scenewright.datasets.gen4gen.planner.prompts") / f"{name}.txt").read_text(encoding="utf-8")


def _filled(name: str, words: str) -> str:
    # not str.format: what is filled in may have braces
    return text(name).replace("{prompt}", words)
