"""Words for sizes, places and looks: the grammar of the captions, the same that the drawn scenes use."""

from __future__ import annotations

from collections.abc import Sequence

from scenewright.annotators.appearance.colours import TERMS

#: Size words, and the share of the image that the box stays below.
SIZES = (("tiny", 0.015), ("small", 0.05), ("medium", 0.13), ("large", 0.3), ("huge", float("inf")))

#: Places on a grid of three rows and three columns.
PLACES = (
    ("at the upper left", "at the top", "at the upper right"),
    ("on the left", "in the center", "on the right"),
    ("at the lower left", "at the bottom", "at the lower right"),
)

_PATTERNS = {
    "striped": "with {} stripes",
    "dotted": "with {} dots",
    "checkered": "with {} checker pattern",
    "gradient": "fading to {}",
}
_GENERIC = {"", "region", "object", "thing", "image", "patch", "area"}
_TONES = ("dark", "light", "pale", "bright")


def with_article(words: str) -> str:
    """ "a red star", "an orange ring"."""
    return f"{'an' if words[:1].lower() in set('aeiou') else 'a'} {words}"


def size_word(box: Sequence[float]) -> str:
    """The size word of a box in fractions."""
    share = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
    return next(word for word, limit in SIZES if share < limit)


def place(box: Sequence[float]) -> str:
    """Where the middle of a box in fractions is."""
    column, row = (min(2, max(0, int(3 * (a + b) / 2))) for a, b in ((box[0], box[2]), (box[1], box[3])))
    return PLACES[row][column]


def noun(label: str, shape: str) -> str:
    """What to call a region: the name its label gives it, else its shape, else "region".

    Colours and tones in a label are left out, they are looked up in the picture: of "red star" "star" stays, which
    yields to the shape that is seen; of "red car" "car" stays.
    """
    name = " ".join(word for word in label.split() if word.lower() not in (*TERMS, *_TONES))
    return shape or "region" if name.lower() in _GENERIC else name


def colour_phrase(colours: Sequence[str], tones: Sequence[str], pattern: str, name: str) -> str:
    """ "bright red star with white stripes", "brown and white region", "region" for no colour at all."""
    named = [" ".join(filter(None, pair)) for pair in zip(tones, colours, strict=True)]
    if pattern in _PATTERNS and len(colours) > 1:
        other = with_article(named[1]) if pattern == "checkered" else named[1]
        return f"{named[0]} {name} {_PATTERNS[pattern].format(other)}"
    words = " and ".join([*named[:1], *colours[1:]])
    if pattern in ("striped", "dotted", "checkered"):  # in two shades of one colour
        words = f"{pattern} {words}"
    return f"{words} {name}".strip()


def join(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
