"""The eleven basic colour terms of English, as ranges in which each term stays true.

Source: the terms are those of Berlin and Kay 1969, "Basic Color Terms"; the ranges are ours.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

#: Hue in degrees, saturation and value in [0, 1], each from .. to.
_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-6, 6), (0.82, 1.0), (0.72, 0.95)),
    "orange": ((24, 33), (0.85, 1.0), (0.94, 1.0)),
    "yellow": ((50, 57), (0.72, 1.0), (0.93, 1.0)),
    "green": ((105, 145), (0.6, 1.0), (0.45, 0.75)),
    "blue": ((212, 232), (0.7, 1.0), (0.65, 0.98)),
    "purple": ((272, 290), (0.55, 0.85), (0.5, 0.75)),
    "pink": ((325, 345), (0.3, 0.5), (0.96, 1.0)),
    "brown": ((18, 28), (0.6, 0.8), (0.35, 0.5)),
    "black": ((0, 360), (0.0, 0.2), (0.03, 0.11)),
    "white": ((0, 360), (0.0, 0.03), (0.96, 1.0)),
    "grey": ((0, 360), (0.0, 0.04), (0.45, 0.62)),
}

TERMS = tuple(_RANGES)

#: Terms of which a tone has no other name: light red is pink, dark orange is brown.
TONES = {
    "": TERMS,
    "light": ("orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey"),
    "dark": ("red", "green", "blue", "purple", "grey"),
}


@dataclass(frozen=True)
class Colour:
    """A colour and the words for it.

    Attributes:
        term: one of ``TERMS``.
        rgb: each in [0, 255].
        tone: "light", "dark" or empty.
    """

    term: str
    rgb: tuple[int, int, int]
    tone: str = ""

    @property
    def name(self) -> str:
        """ "blue", "light blue"."""
        return f"{self.tone} {self.term}".strip()


def draw_colour(rng: Generator, term: str, tone: str = "") -> Colour:
    """A random colour that the term is true of."""
    hue, saturation, value = (low + (high - low) * rng.random() for low, high in _RANGES[term])
    rgb = np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))
    if tone == "light":
        rgb = 1 - (1 - rgb) * 0.42
    elif tone == "dark":
        rgb = rgb * 0.5
    red, green, blue = (int(x) for x in np.rint(255 * rgb))
    return Colour(term, (red, green, blue), tone)


def lab(colours: Sequence[tuple[int, int, int]]) -> Float[np.ndarray, "n 3"]:
    """Colours in CIELAB, where distances are about what people see."""
    return cv2.cvtColor(np.array([colours], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def distance(colour: Colour, others: Sequence[tuple[int, int, int]]) -> float:
    """How different a colour is from the nearest of others, in CIELAB; infinite where there is none.

    Source: CIE 1976, Delta E*ab.
    """
    if not others:
        return float("inf")
    points = lab([colour.rgb, *others])
    return float(np.sqrt(((points[1:] - points[0]) ** 2).sum(1)).min())
