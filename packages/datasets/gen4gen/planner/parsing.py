"""What a language model answered, as values. Nothing of it is ever run."""

import ast
import json
import math
import re
import reprlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

_Number = int | float

#: A name, and left, top, width and height.
NamedBox = tuple[str, tuple[_Number, _Number, _Number, _Number]]

#: Longer answers are refused unread.
MAX_LENGTH = 20_000

_TRIES = 30  # brackets that are looked into

_NAME_KEYS = ("name", "object", "object_name", "label", "category", "class")
_BOX_KEYS = ("box", "bbox", "bounding_box", "boundingbox", "coordinates", "rect")
_SIDE_KEYS = (("x", "left"), ("y", "top"), ("width", "w"), ("height", "h"))
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
#: A name and its box however they are quoted: what is left when an answer is neither JSON nor Python.
_LOOSE_BOX = re.compile(
    r"([^\W\d_][^\n()\[\]{},:=\"]{0,80})[\"'*`]{0,3}[ \t]{0,3}[,:=][ \t]{0,3}[\[(][ \t]{0,3}"
    rf"({_NUMBER}(?:[ \t]{{0,3}},[ \t]{{0,3}}{_NUMBER}){{3}})[ \t]{{0,3}}[\])]"
)
_PREPOSITIONS = frozenset(
    ("aboard above across against along alongside amid amidst among around at atop before behind below beneath beside "
     "between beyond by down in inside near next on onto opposite out outside over past through throughout under "
     "underneath up upon with within").split()
)  # fmt: skip


def parse_boxes(reply: str) -> list[NamedBox]:
    """The names and boxes of a layout, in the answer's order.

    Understood are lists of ``(name, [x, y, width, height])`` in JSON or in Python's writing, objects with a name and a
    box, a mapping from names to boxes, and all of these with a code fence, a text or a "Background prompt:" around
    them. The first list that has boxes counts; a model may go on with examples of its own.

    Raises:
        ValueError: there is no box in it, or one that is no four finite numbers; it is too long.
    """
    reply = _without_thoughts(reply)
    reply = re.split(r"(?im)^[ \t*_#>-]*background\b[^\n:\[{]*:", reply, maxsplit=1)[0]
    boxes: list[NamedBox] = []
    for value in _values(reply):
        if isinstance(value, tuple) and _is_pair(value):  # one per line, without a list around them
            boxes += _boxes_in(value)
            continue
        if not boxes and (found := list(_boxes_in(value))):
            return found
    boxes = boxes or [(name.strip(" \t*_`'"), _numbers(box.split(","))) for name, box in _LOOSE_BOX.findall(reply)]
    if not boxes:
        raise ValueError("the answer has no list of (object name, [x, y, width, height])")
    return boxes


def parse_backgrounds(reply: str) -> list[str]:
    """The background phrases, such as "in the garden", without repetitions and in the answer's order.

    They stand after "Background:", separated by commas, or in the second of two lines, or in JSON.

    Raises:
        ValueError: there are none, or none says where: it has no "in", "on", "at" before it.
    """
    reply = _without_thoughts(reply)
    phrases = _phrases_in_json(reply) or _phrases_in_lines(reply)
    cleaned = [re.sub(r"\s+", " ", x).strip(" \t.;*_`'\"“”[](){}") for x in phrases]
    sound = [x for x in cleaned if x.split(" ")[0].casefold() in _PREPOSITIONS and 1 < len(x.split(" ")) <= 12]
    if not sound:
        said = f", but {', '.join(map(repr, cleaned[:3]))[:120]}" if any(cleaned) else ""
        raise ValueError(
            "the answer has no line 'Background: phrase, phrase, phrase' with phrases such as 'in the garden'" + said
        )
    return list(dict.fromkeys(sound))


def parse_ratios(reply: str, count: int) -> list[float]:
    """The sizes of ``count`` things relative to the largest, which is 1; each in (0, 1].

    Raises:
        ValueError: there are more or fewer numbers, or one is not above zero.
    """
    reply = re.sub(r"(?m)^[ \t]*\d+[.)][ \t]+", "", _without_thoughts(reply))  # the numbers of a list
    after = re.split(r"(?i)\bratios?\b[^\n\d:]*:", reply, maxsplit=1)[-1]
    texts = [*[x for x in after.splitlines() if x.strip()], after, reply]
    # a digit that belongs to a word ("cat2") is no number
    found = [[float(x) for x in re.findall(rf"(?<![\w.]){_NUMBER}(?![^\W_])", text)] for text in texts]
    fitting = next((x for x in found if len(x) == count), None)
    if fitting is None:
        raise ValueError(f"expected {count} numbers separated by commas, got {len(max(found[:-1], key=len))}")
    if not all(math.isfinite(x) and x > 0 for x in fitting):
        raise ValueError(f"each ratio must be above 0, got {', '.join(f'{x:g}' for x in fitting)}")
    return [x / max(fitting) for x in fitting]


def _without_thoughts(reply: str) -> str:
    """The answer without what a model thought before it, and without the marks of code.

    Raises:
        ValueError: it is too long.
    """
    if len(reply) > MAX_LENGTH:
        raise ValueError(f"the answer has {len(reply)} characters, more than {MAX_LENGTH}")
    reply = re.sub(r"(?s)^.*</think>", "", reply)
    return re.sub(r"(?m)^[ \t]*```\w*[ \t]*$|```", "", reply)


def _values(reply: str) -> Iterator[Any]:
    """What is written in brackets, outermost first, from left to right; what cannot be read is looked into."""
    start, tries = 0, 0
    while (opening := re.compile(r"[\[({]").search(reply, start)) and tries < _TRIES:
        tries += 1
        end = _end_of_brackets(reply, opening.start())
        value = _literal(reply[opening.start() : end]) if end else None
        if value is not None:
            yield value
        start = end if value is not None and end else opening.end()


def _end_of_brackets(text: str, start: int) -> int | None:
    """Where the bracket at ``start`` is closed, brackets in quotes left out of account; None if it is not."""
    depth, quote, at = 0, "", start
    while at < len(text):
        sign = text[at]
        if quote:
            if sign == "\\":
                at += 1
            elif sign == quote:
                quote = ""
        elif sign == '"' or (sign == "'" and not text[at - 1 : at].isalnum()):  # not the one of "cat's"
            quote = sign
        elif sign in "[({":
            depth += 1
        elif sign in "])}":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    return None


def _literal(text: str) -> Any:
    """A value in JSON or in Python's writing, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd backslashes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _boxes_in(value: Any, depth: int = 0) -> Iterator[NamedBox]:
    """All named boxes in a value.

    Raises:
        ValueError: one has a name but is no box.
    """
    if depth > 8:
        return
    if isinstance(value, Mapping):
        yield from _boxes_in_mapping(value, depth)
    elif isinstance(value, (list, tuple)):
        if _is_pair(value):
            yield str(value[0]), _numbers(value[1] if len(value) == 2 else value[1:])
            return
        for part in value:
            yield from _boxes_in(part, depth + 1)


def _boxes_in_mapping(value: Mapping[Any, Any], depth: int) -> Iterator[NamedBox]:
    keys = {re.sub(r"[\s-]+", "_", str(k).strip().casefold()): v for k, v in value.items()}
    name = next((keys[k] for k in _NAME_KEYS if isinstance(keys.get(k), str)), None)
    if name is not None:
        box = next((keys[k] for k in _BOX_KEYS if k in keys), keys)
        yield name, _numbers(box)
        return
    for key, part in value.items():
        if isinstance(key, str) and _is_box(part):
            yield key, _numbers(part)
        elif isinstance(key, str) and isinstance(part, list) and part and all(map(_is_box, part)):
            yield from ((key, _numbers(x)) for x in part)
        else:
            yield from _boxes_in(part, depth + 1)


def _is_pair(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether this is a name and its box, or a name and four numbers."""
    if not value or not isinstance(value[0], str) or _is_number(value[0]):
        return False
    return (len(value) == 2 and isinstance(value[1], (list, tuple, Mapping))) or (
        len(value) == 5 and all(map(_is_number, value[1:]))
    )


def _is_box(value: Any) -> bool:
    if isinstance(value, Mapping):
        low = {str(k).strip().casefold() for k in value}
        return all(any(k in low for k in side) for side in _SIDE_KEYS)
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(rf"\s*{_NUMBER}\s*(?:px)?\s*", value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(box: Any) -> tuple[float, float, float, float]:
    """Raises: ValueError, where these are no four finite numbers."""
    if isinstance(box, Mapping):
        low = {str(k).strip().casefold(): v for k, v in box.items()}
        box = [next((low[k] for k in side if k in low), None) for side in _SIDE_KEYS]
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"a box must be [x, y, width, height], got {reprlib.repr(box)}")
    try:
        x, y, w, h = (float(v.strip().removesuffix("px")) if isinstance(v, str) else float(v) for v in box)
    except OverflowError:
        raise ValueError(f"a box must have finite numbers, got {reprlib.repr(box)}") from None
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError(f"a box must have finite numbers, got {reprlib.repr(box)}")
    return x, y, w, h


def _phrases_in_json(reply: str) -> list[str]:
    for value in _values(reply):
        if isinstance(value, Mapping):
            value = next((v for k, v in value.items() if "background" in str(k).casefold()), None)
        if isinstance(value, str):
            value = value.split(",")
        if isinstance(value, (list, tuple)) and value and all(isinstance(x, str) for x in value):
            return list(value)
    return []


def _phrases_in_lines(reply: str) -> list[str]:
    label = re.search(r"(?im)^[ \t*_#>-]*backgrounds?\b[^\n:]*:[ \t*_]*(.*(?:\n[ \t]*[-*•\d].*)*)", reply)
    if label and label[1].strip():
        return re.split(r"[,;]|\n[ \t]*(?:[-*•]|\d+[.)])[ \t]*", label[1])
    lines = [x for x in reply.splitlines() if x.strip()]
    return lines[min(1, len(lines) - 1)].split(":")[-1].split(",") if lines else []
