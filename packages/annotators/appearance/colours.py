"""Colour terms: what people call a colour, and how one says that it is dark or pale.

The eleven basic colour terms are those of Berlin & Kay 1969, "Basic Color Terms". Which colours each term covers is
read off the XKCD colour survey (Munroe 2010, 222 500 people, public domain): of its 954
named colours those count whose last word is a basic term ("brick red", "very dark blue"); a colour gets the term of
its neighbours in CIELAB. The survey names few greys and only two blacks and whites, so what has next to no chroma
goes by lightness alone. Learning the terms' ranges from names in use instead of fixing eleven centres follows van de
Weijer et al. 2009, "Learning Color Names for Real-World Applications", IEEE TIP 18(7).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Integer, UInt8
from numpy import ndarray

from scenewright.annotators.appearance.survey import SURVEY

TERMS = ("black", "grey", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_BLACK, _GREY, _WHITE, _BROWN = 0, 1, 2, 5
_BITS = 5  # of each channel in the table: 32 768 colours, 3 ΔE apart in the middle of the range
_NEIGHBOURS = 7
_EXACT_TREE = 4  # FLANN's FLANN_INDEX_KDTREE_SINGLE: one tree, searched in full


def to_lab(pixels: UInt8[ndarray, "*shape 3"]) -> Float[ndarray, "*shape 3"]:
    """CIELAB (L in 0..100) of RGB pixels of any arrangement."""
    flat = (pixels.reshape(-1, 1, 3) / np.float32(255)).astype(np.float32)
    if not len(flat):
        return np.zeros(pixels.shape, np.float32)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2Lab).reshape(pixels.shape)


def terms(pixels: UInt8[ndarray, "*shape 3"]) -> Integer[ndarray, "*shape"]:
    """The colour term of each RGB pixel, as an index into ``TERMS``."""
    r, g, b = (pixels[..., i].astype(np.int32) >> (8 - _BITS) for i in range(3))
    return _table()[(r << 2 * _BITS) | (g << _BITS) | b]


def tone(lab: Float[ndarray, " 3"], term: str) -> str:
    """``dark``, ``pale``, ``bright`` or, most of the time, nothing: how a colour departs from its term's usual look."""
    lightness, chroma = float(lab[0]), float(np.hypot(lab[1], lab[2]))
    if term in ("black", "white"):
        return ""
    if term == "grey":
        return "dark" if lightness < 38 else "pale" if lightness > 76 else ""
    if lightness < (22 if term == "brown" else 45 if term == "yellow" else 32):
        return "dark"
    if lightness > 72 and chroma < 35:
        return "pale"
    # yellow and orange are always vivid, else they are brown
    return "bright" if chroma > 80 and lightness > 45 and term not in ("yellow", "orange") else ""


@lru_cache(maxsize=1)
def _table() -> UInt8[ndarray, " colours"]:
    """The term of every colour of ``_BITS`` bits per channel."""
    levels = ((np.arange(2**_BITS) + 0.5) * 2 ** (8 - _BITS)).astype(np.uint8)
    lab = to_lab(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3))
    names, owners = _survey()
    tree = cv2.flann.Index(names, {"algorithm": _EXACT_TREE})
    nearest, distance = tree.knnSearch(lab, _NEIGHBOURS, params={"checks": -1})  # squared
    ballots = np.arange(len(lab))[:, None] * len(TERMS) + owners[np.asarray(nearest, np.int64)]
    votes = np.bincount(ballots.ravel(), (1 / (distance + 9)).ravel(), len(lab) * len(TERMS)).reshape(len(lab), -1)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    votes[lightness > 78, _BROWN] = 0  # what is that light is cream, and goes to yellow, orange or pink
    winner = votes.argmax(1)
    # the eye forgives a darker or a lighter grey more chroma than a middle one
    winner[chroma < 9] = _GREY
    winner[(lightness < 16) & (chroma < 14) | (lightness < 8)] = _BLACK
    winner[(lightness < 22) & (chroma < 9)] = _BLACK
    winner[(lightness > 86) & (chroma < 9)] = _WHITE
    return winner.astype(np.uint8)


def _survey() -> tuple[Float[ndarray, "n 3"], Integer[ndarray, " n"]]:
    """The survey's colours that end in a basic term: their CIELAB and the term's index."""
    rows = [(int(code, 16), TERMS.index(term)) for term, codes in SURVEY.items() for code in codes.split()]
    values, owners = np.array(rows).T
    rgb = np.stack([values >> 16, values >> 8 & 255, values & 255], 1).astype(np.uint8)
    return to_lab(rgb), owners
