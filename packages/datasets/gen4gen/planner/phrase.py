"""Names as a prompt says them, and as they are told apart."""

import re
from collections import Counter
from collections.abc import Sequence

_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)

_IRREGULAR = {
    **{"person": "people", "man": "men", "woman": "women", "child": "children", "fireman": "firemen"},
    **{"snowman": "snowmen", "policeman": "policemen", "foot": "feet", "tooth": "teeth", "goose": "geese"},
    **{"mouse": "mice", "ox": "oxen", "cactus": "cacti", "knife": "knives", "leaf": "leaves", "loaf": "loaves"},
    **{"shelf": "shelves", "bookshelf": "bookshelves", "wolf": "wolves", "calf": "calves", "scarf": "scarves"},
    **{"potato": "potatoes", "tomato": "tomatoes", "ski": "skis", "canvas": "canvases"},
}

#: One of them is said as many are.
_UNCHANGED = frozenset(
    ("sheep deer fish goldfish moose bison salmon aircraft spacecraft bonsai broccoli furniture luggage "
     "scissors glasses sunglasses eyeglasses goggles jeans pants trousers shorts headphones pliers tongs skis").split()
)  # fmt: skip

_SINGULAR = {many: one for one, many in _IRREGULAR.items()}

_LEADING = frozenset(("a", "an", "the", *_NUMBERS))


def object_phrase(names: Sequence[str]) -> str:
    """How many there are of what, sorted by name: "one cat, two dogs and one houseplant".

    Args:
        names: any number but none; a name may occur more than once.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
    """
    parts = [
        f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {name if count == 1 else plural(name)}"
        for name, count in sorted(Counter(names).items())
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def plural(name: str) -> str:
    """Several of it: "house plants", "glasses", "puppies"; the last word is what changes."""
    start, word = re.fullmatch(r"(.*?)([^\W\d_]*)\W*", name, re.DOTALL).groups()  # type: ignore[union-attr]
    low = word.lower()
    if low in _UNCHANGED or not word:
        return name
    if low in _IRREGULAR:
        many = _IRREGULAR[low]
        return start + (many.capitalize() if word[0].isupper() else many)
    if re.search(r"(s|x|z|ch|sh)$", low):
        return start + word + "es"
    if re.search(r"[^aeiou]y$", low):
        return start + word[:-1] + "ies"
    return start + word + "s"


def normalised(name: str) -> str:
    """A key that is equal for "House plant", "house_plants", "the houseplant" and "one house-plant 2".

    Case, spaces, marks, digits, a leading article or number and the number of the last word make no difference. It is
    for comparing, not for reading.
    """
    words = re.findall(r"[^\W\d_]+", name.casefold())
    while len(words) > 1 and words[0] in _LEADING:
        words = words[1:]
    if not words:
        return name.casefold().strip()
    return "".join([*words[:-1], _stem(words[-1])])


def _stem(word: str) -> str:
    """What one and many have in common: "bus" and "buses", "vase" and "vases", "puppy" and "puppies"."""
    word = _SINGULAR.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = _SINGULAR.get(word, word[:-1])
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") else word
