"""What captioners share: what is asked about which crop, and what is made of the answers."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import chain, islice

from scenewright.batching import in_batches
from scenewright.crops import areas, cut, cut_truncated
from scenewright.layout import Image, Layout

#: Asked about a region's crop: says what it is that is to be described.
REGION = (
    "Describe the {label} in this picture in one short sentence: how it looks, what it does "
    "and what is right beside it. Answer with that sentence only."
)
#: Asked about a whole image.
IMAGE = "Describe this picture in one sentence. Answer with that sentence only."
#: Asked about every crop by Rich-Context's data pipeline, verbatim, as captions depend on it. Source: arXiv 2409.04847.
SPATIAL = (
    "You are viewing an image. Please describe the content of the image in one sentence, focusing specifically on "
    "the spatial relationships between objects. Include detailed observations about all the objects and how they are "
    "positioned in relation to other objects in the image. Your response should be limited to this description, "
    "without any additional information"
)
#: The same where the region's category is known: COCO-Stuff. Verbatim too.
SPATIAL_LABEL = (
    "You are viewing an image with the main subject {label}. Please describe the content of the image in one "
    "sentence, focusing specifically on the spatial relationships between objects, and the main subject of the "
    "description should be {label}. Include detailed observations about all the objects and how they are positioned "
    "in relation to other objects in the image. Your response should be limited to this description, without any "
    "additional information"
)
#: What a configuration may call them.
PROMPTS = {"region": REGION, "image": IMAGE, "spatial": SPATIAL, "spatial_label": SPATIAL_LABEL}

#: Takes crops and as many prompts, and answers each.
Ask = Callable[[list[Image], list[str]], Sequence[str]]

#: Crops are not made longer than this: a model that scales the shorter side up stays within eight squares.
MAX_ASPECT = 8.0
#: Longer crops than this broke the reference: 8 x 1024 pixels became a JPEG of 512 x 65536.
LEGACY_MAX_ASPECT = 127.0
#: Crops are scaled down to this longer side, in pixels: no captioner here sees more.
MAX_SIDE = 2048


def filled(prompt: str, label: str) -> str:
    """A prompt, or the one of that name in ``PROMPTS``, with a label in the place of ``{label}``.

    COCO-Stuff's ``-other`` ("wall-other") is taken off the label.
    """
    return PROMPTS.get(prompt, prompt).replace("{label}", label.replace("-other", ""))


def is_whole(layout: Layout) -> bool:
    """Whether a layout is ``Layout.whole()``: the region that is the image."""
    return layout.labels == ["image"] and layout.boxes.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def describe(
    images: Sequence[Image],
    layouts: Sequence[Layout],
    ask: Ask,
    *,
    prompt: str,
    image_prompt: str,
    padding: float = 0.0,
    blur: float = 0.0,
    min_area: int = 1024,
    small: str = "label",
    legacy: bool = False,
    batch_size: int = 16,
    clean: bool = True,
    max_aspect: float | None = None,
) -> list[list[str]]:
    """Ask about the crop of every region, in batches across images: one caption per region, in the layout's order.

    Args:
        ask: takes at most ``batch_size`` crops and their prompts.
        prompt: for a region, ``{label}`` stands for its label; or a name in ``PROMPTS``.
        image_prompt: for a layout that is the whole image.
        padding: context around the box, as a fraction of its own width and height.
        blur: of what is around the region, as a fraction of the crop's longer side.
        min_area: regions of fewer pixels are not asked about.
        small: what these get: their "label", or "empty" text.
        legacy: crop as the reference pipelines do: truncated corners, black outside, neither padding nor blur.
        clean: make one plain sentence of an answer, and the label of an empty one; else answers stay as they came.
        max_aspect: crops are kept from being longer than so many times their shorter side; None for 8, which was
            found sensible, and with ``legacy`` for 127, up to which the references run.

    Raises:
        ValueError: ``small`` is neither of both; there are not as many layouts as images.
    """
    if legacy:
        most = LEGACY_MAX_ASPECT if max_aspect is None else max_aspect
        crops = [cut_truncated(image, x, max_aspect=most) for image, x in zip(images, layouts, strict=True)]
    else:
        most = MAX_ASPECT if max_aspect is None else max_aspect
        crops = [
            cut(image, x, padding=padding, blur=blur, max_aspect=most, max_side=MAX_SIDE)
            for image, x in zip(images, layouts, strict=True)
        ]
    prompts = [[filled(image_prompt if is_whole(x) else prompt, label) for label in x.labels] for x in layouts]
    return answered(
        images, layouts, crops, prompts, ask, min_area=min_area, small=small, batch_size=batch_size, clean=clean
    )


def answered(
    images: Sequence[Image],
    layouts: Sequence[Layout],
    pictures: Sequence[Sequence[Image]],
    prompts: Sequence[Sequence[str]],
    ask: Ask,
    *,
    min_area: int = 1024,
    small: str = "label",
    batch_size: int = 16,
    clean: bool = True,
) -> list[list[str]]:
    """``describe`` for pictures and prompts of one's own: one of each per region.

    A whole image is asked about however small it is, and has no label to fall back to.

    Raises:
        ValueError: ``small`` is neither "label" nor "empty".
    """
    if small not in ("label", "empty"):
        raise ValueError(f'small regions get their "label" or stay "empty", got {small!r}')
    wholes = [is_whole(x) for x in layouts]
    enough = [
        [whole or area >= min_area for area in areas(image, x)]
        for image, x, whole in zip(images, layouts, wholes, strict=True)
    ]
    names = [["" if whole else label for label in x.labels] for x, whole in zip(layouts, wholes, strict=True)]
    every = zip(*(chain.from_iterable(x) for x in (pictures, prompts, names, enough)), strict=True)
    regions = list(every)
    answers = iter(_asked([(picture, text) for picture, text, _, large in regions if large], ask, batch_size))
    captions = []
    for _, text, name, large in regions:
        if not large:
            captions.append(name if small == "label" else "")
        elif clean:
            captions.append(_clean(next(answers), prompt=text) or name)
        else:
            captions.append(next(answers))
    rest = iter(captions)
    return [list(islice(rest, len(x))) for x in layouts]


def _asked(questions: list[tuple[Image, str]], ask: Ask, batch_size: int) -> list[str]:
    """The answers, in the questions' order; those of like size are asked together, so that little is padded."""
    order = sorted(range(len(questions)), key=lambda i: (math.prod(questions[i][0].shape), len(questions[i][1])))

    def together(chosen: list[tuple[Image, str]]) -> Sequence[str]:
        return ask([picture for picture, _ in chosen], [text for _, text in chosen])

    answers = in_batches(together, [questions[i] for i in order], batch_size)
    return [answer for _, answer in sorted(zip(order, answers, strict=True))]


# ---- one plain sentence of an answer


def clean(text: str, *, prompt: str = "") -> str:
    """Make one plain sentence of a model's answer; empty if nothing is left.

    Line breaks, a repeated prompt, an introduction ("Sure, here is a caption:"), Markdown, surrounding quotes,
    what comes after the first sentence, and words or phrases said twice in a row are taken out. An answer that
    only says that there can be none ("I'm sorry, but …") counts as nothing. Cleaning twice is cleaning once.
    """
    prompt = " ".join(prompt.split())
    # every round takes something out, so this ends; what one step uncovers, the next round sees
    while (cleaned := _cleaned(text, prompt)) != text:
        text = cleaned
    return text


_clean = clean  # where a switch has this name

_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•#>]|\d{1,2}[.)])\s)|```\w*")
_LEAD = re.compile(
    r"""(?: (?:sure|certainly|of\ course|absolutely|okay|ok)\b [,.!:\s]+ (?=here|this|the\ (?:image|picture)|$)
          | here(?:'s|’s|\ is|\ are)\b [^.!?:]{0,80} :
          | (?:assistant|answer|caption|description|response|output) \s* : )""",
    re.IGNORECASE | re.VERBOSE,
)
_BULLET = re.compile(r"(?:[-*+•>]|#{1,6}|\d{1,2}[.)])\s+")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_EMPHASIS = re.compile(r"(\*{1,3}|`+|(?<!\w)_{1,3})(?=\S)([^*`]*?\S)\1(?!\w)")
_REFUSAL = re.compile(
    r"(?:i['’]?m|i\ am|we['’]?re)\ (?:sorry|unable\ to|not\ able\ to)\b|sorry(?=[,.;]|\ (?:but|i)\b)|as\ an\ ai\b"
    r"|i\ (?:cannot|can['’]?t)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)""")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'“])(?:(?i:mr|mrs|ms|dr|st|mt|no|vs|ca|approx|prof|jr|sr|e\.g|i\.e)|[A-Z])\.$"""
)
_DANGLING = {"a", "an", "the", "and", "or", "of", "with"}
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}


def _cleaned(text: str, prompt: str) -> str:
    for paragraph in _PARAGRAPH.split(text):
        line = _without_lead(" ".join(paragraph.split()), prompt)
        line = _unquoted(_EMPHASIS.sub(r"\2", _LINK.sub(r"\1", line)))
        line = _once(_first_sentence(line))
        if any(c.isalnum() for c in line):
            return "" if _REFUSAL.match(line) else line
    return ""


def _without_lead(text: str, prompt: str) -> str:
    """The text without what comes before the answer."""
    if prompt and text.casefold().startswith(prompt.casefold()):
        text = text[len(prompt) :].lstrip(" .:,;-")
    while found := _LEAD.match(text) or _BULLET.match(text):
        text = text[found.end() :].lstrip()
    return text


def _unquoted(text: str) -> str:
    """The text without the quotes around all of it."""
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    # the closing one may be cut off, or stand behind the full stop's sentence
    if text[:1] in ('"', "“", "«", "„") and not any(c in text[1:] for c in '"”»“'):
        return text[1:].strip()
    return text


def _first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence: none of an abbreviation, an initial or a number."""
    for end in _SENTENCE.finditer(text):
        following = text[end.end() :].lstrip(" \"'“‘(*")[:1]
        sentence = text[: end.end()]
        if following.islower() and end.group()[0] not in "!?":
            continue
        if not _ABBREVIATION.search(sentence) and any(c.isalnum() for c in sentence):
            return sentence
    return text


def _once(text: str) -> str:
    """The text with every word or phrase that follows itself said once, and nothing that only begins at the end."""
    words = text.split()
    plain = [word.casefold().strip(".,;:!?") for word in words]
    for size in range(1, len(words) // 2 + 1):
        start = 0
        while start + 2 * size <= len(words):
            phrase = plain[start : start + size]
            # a number may rightly follow itself: "room 7 7"
            if phrase != plain[start + size : start + 2 * size] or not any(c.isalpha() for w in phrase for c in w):
                start += 1
                continue
            last = words[start + 2 * size - 1]
            del words[start + size : start + 2 * size], plain[start + size : start + 2 * size]
            words[start + size - 1] = last  # with what follows it: a comma, a full stop
            rest = plain[start + size :]
            if size > 2 and rest and len(rest) < size and rest == phrase[: len(rest)]:
                del words[start + size :], plain[start + size :]
    while words and words[-1].casefold() in _DANGLING:  # where the answer was cut off
        words.pop()
    return " ".join(words)
