"""The eleven basic colour terms of English, as ranges in which each term stays true.

Source: the terms are those of Berlin and Kay 1969, "Basic Color Terms"; the ranges are ours.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from numpy.random import Generator

#: Red, green and blue, each 0..255.
RGB = tuple[int, int, int]

#: Hue in degrees, saturation and value in [0, 1], each from .. to.
_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-5, 5), (0.82, 1.0), (0.72, 0.95)),
    "orange": ((24, 33), (0.85, 1.0), (0.94, 1.0)),
    "yellow": ((50, 57), (0.72, 1.0), (0.93, 1.0)),
    "green": ((105, 145), (0.6, 1.0), (0.45, 0.75)),
    "blue": ((212, 232), (0.7, 1.0), (0.65, 0.98)),
    "purple": ((277, 294), (0.55, 0.85), (0.5, 0.75)),
    "pink": ((325, 345), (0.3, 0.5), (0.96, 1.0)),
    "brown": ((18, 28), (0.6, 0.8), (0.35, 0.5)),
    "black": ((0, 360), (0.0, 0.2), (0.03, 0.11)),
    "white": ((0, 360), (0.0, 0.03), (0.96, 1.0)),
    "grey": ((0, 360), (0.0, 0.04), (0.45, 0.62)),
}

TERMS = tuple(_RANGES)

#: Which terms each tone goes with; the others have their own word for it: light red is pink, dark orange is brown.
TONES = {
    "": TERMS,
    "light": ("orange", "yellow", "green", "blue", "purple", "pink", "grey"),
    "dark": ("red", "green", "blue", "purple", "grey"),
}


@dataclass(frozen=True)
class Colour:
    """A colour and the words for it.

    Attributes:
        term: one of ``TERMS``.
        rgb: each in [0, 255].
        tone: one of ``TONES``.
    """

    term: str
    rgb: RGB
    tone: str = ""

    @property
    def name(self) -> str:
        """Tone and term: "blue", "light blue"."""
        return f"{self.tone} {self.term}".strip()

    @cached_property
    def lab(self) -> tuple[float, float, float]:
        """The colour in CIELAB under D65, where distances are about what people see.

        Source: CIE 1976 L*a*b* of IEC 61966-2-1 sRGB.
        """
        r, g, b = (_linear(x / 255) for x in self.rgb)
        x = _cube_root((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047)
        y = _cube_root(0.2126729 * r + 0.7151522 * g + 0.0721750 * b)
        z = _cube_root((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883)
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    def distance(self, others: Sequence["Colour"]) -> float:
        """How different it is from the nearest of others, in CIELAB; infinite where there is none.

        Source: CIE 1976, Delta E*ab.
        """
        return min((math.dist(self.lab, other.lab) for other in others), default=math.inf)

    def towards(self, other: RGB, share: float) -> "Colour":
        """The same words for a colour that lies a share of the way to another."""
        red, green, blue = (round(a + share * (b - a)) for a, b in zip(self.rgb, other, strict=True))
        return Colour(self.term, (red, green, blue), self.tone)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _cube_root(value: float) -> float:
    return value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116


def draw_colour(rng: Generator, term: str, tone: str = "") -> Colour:
    """A random colour that the words are true of."""
    hue, saturation, value = (
        low + (high - low) * x for (low, high), x in zip(_RANGES[term], rng.random(3).tolist(), strict=True)
    )
    red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))
    colour = Colour(term, (red, green, blue), tone)
    if tone == "light":
        return colour.towards((255, 255, 255), 0.38)
    return colour.towards((0, 0, 0), 0.4) if tone == "dark" else colour
