"""One call per image: all regions numbered in one prompt, one JSON object back.

A caption per crop costs a call, a prompt and the crop's own tokens for every region. Here the
image is shown once, its regions are listed by number, label and box, and the reply maps each
number to a sentence. Replies are checked; what they leave out is asked for once more, then alone.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from scenewright.annotators.captions import clean
from scenewright.crops import areas, corners
from scenewright.layout import Image, Layout

_PROMPT = """\
The picture has {count} numbered regions{drawn}. Each line below gives the number of a region, what it was found to \
be, and its box as [x_min, y_min, x_max, y_max] in {unit}.
{regions}
Describe each region in one sentence: what it is, how it looks, and where it is in relation to what is around it. \
Reply with nothing but a JSON object that maps each number to its sentence: {example}"""

# a pair whose value is a whole JSON string, also in an object that breaks off after it
_PAIR = re.compile(r'"(\d{1,4})"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)

# a backslash with what it stands before: models write \' and others that JSON does not know
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)

#: Height and width, in pixels.
Frame = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Question:
    """One structured call.

    Attributes:
        picture: the image, with its numbered boxes drawn if that was asked for.
        prompt: names the regions 1 to ``regions``.
        regions: how many sentences are expected.
    """

    picture: Image
    prompt: str
    regions: int


def describe_together(
    images: Sequence[Image],
    layouts: Sequence[Layout],
    ask: Callable[[list[Question]], Sequence[str]],
    alone: Callable[[list[Image], list[Layout]], list[list[str]]],
    *,
    regions_per_call: int = 16,
    frame: Callable[[Image], Frame | None] = lambda image: None,
    draw_boxes: bool = False,
    min_area: int = 1024,
) -> list[list[str]]:
    """One caption per region, in the layouts' order, by as few calls as possible.

    Args:
        ask: answers all questions, in order, with the model's raw replies.
        alone: one caption per region by a call per crop, and the label where a region is too small for one. It is
            given what two structured calls did not answer, the regions below ``min_area``, and images with only
            one region, for which a structured call saves nothing.
        regions_per_call: longer layouts take several calls.
        frame: the height and width of an image as the model sees it, to state boxes in its pixels; None to state
            them in thousandths.
        draw_boxes: draw the numbered boxes into the picture as well.
        min_area: in pixels; smaller regions are not part of a structured call.

    Raises:
        ValueError: ``regions_per_call`` is below 1.
    """
    if regions_per_call < 1:
        raise ValueError(f"regions_per_call must be at least 1, got {regions_per_call}")
    answers: list[dict[int, str]] = [{} for _ in images]
    for _ in range(2):  # once, and once more for what is missing
        chunks = []
        for i, (image, layout) in enumerate(zip(images, layouts, strict=True)):
            wanted = [j for j in _large(image, layout, min_area) if j not in answers[i]]
            chunks += [(i, wanted[k : k + regions_per_call]) for k in range(0, len(wanted), regions_per_call)]
        questions = [_question(images[i], _pick(layouts[i], x), frame(images[i]), draw_boxes) for i, x in chunks]
        replies = ask(questions) if questions else []
        for (i, chunk), reply in zip(chunks, replies, strict=True):
            answers[i] |= {chunk[number - 1]: text for number, text in parse(reply, len(chunk)).items()}
    rests = [[j for j in range(len(x)) if j not in known] for x, known in zip(layouts, answers, strict=True)]
    others = alone(list(images), [_pick(x, rest) for x, rest in zip(layouts, rests, strict=True)])
    for known, rest, captions in zip(answers, rests, others, strict=True):
        known |= zip(rest, captions, strict=True)
    return [[known[j] for j in range(len(x))] for x, known in zip(layouts, answers, strict=True)]


def parse(reply: str, count: int) -> dict[int, str]:
    """The cleaned sentences of a reply by their number, from 1 to ``count``; what is no sentence is left out.

    A fence or chatter around the object, objects around it, a list of ``{"number", "caption"}`` instead of it,
    escapes that JSON does not know, and an end that is cut off are all put up with.
    """
    best: dict[int, str] = {}
    for pairs in _pairs(reply):
        found = {}
        for number, text in pairs:
            text, digits = clean(text) if isinstance(text, str) else "", str(number).strip()
            if text and digits.isdecimal() and len(digits) < 10 and 1 <= int(digits) <= count:
                found[int(digits)] = text
        if len(found) > len(best):
            best = found
    return best


def schema(count: int) -> dict[str, Any]:
    """The JSON schema of a reply: an object of ``count`` strings under "1", "2", …"""
    numbers = [str(i + 1) for i in range(count)]
    return {
        "type": "object",
        "properties": {number: {"type": "string"} for number in numbers},
        "required": numbers,
        "additionalProperties": False,
    }


def draw_numbers(image: Image, layout: Layout) -> Image:
    """The image with each box outlined and numbered from 1, each in a colour of its own."""
    import supervision as sv  # takes seconds

    height, width = image.shape[1:]
    boxes = np.array(corners(image, layout), dtype=np.float64).reshape(-1, 4)
    regions = sv.Detections(xyxy=boxes, class_id=np.arange(len(boxes)))
    thickness, scale = max(1, round(min(height, width) / 300)), max(0.35, min(height, width) / 1000)
    by_region = sv.ColorLookup.INDEX
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()[..., ::-1])  # BGR, as OpenCV draws
    pixels = sv.BoxAnnotator(thickness=thickness, color_lookup=by_region).annotate(pixels, regions)
    names = [str(i + 1) for i in range(len(boxes))]
    labels = sv.LabelAnnotator(
        text_scale=scale, text_padding=2, text_thickness=thickness, color_lookup=by_region, smart_position=True
    )
    pixels = labels.annotate(pixels, regions, labels=names)
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1])).permute(2, 0, 1).contiguous().to(image.device)


def _question(image: Image, layout: Layout, size: Frame | None, draw_boxes: bool) -> Question:
    height, width = size or (1000, 1000)
    unit = f"pixels of the picture, {width} wide and {height} high" if size else "thousandths of its width and height"
    boxes = layout.pixel_boxes(height, width).round().int().tolist()
    names = [" ".join(label.split()) or "something" for label in layout.labels]
    prompt = _PROMPT.format(
        count=len(layout),
        drawn=", whose boxes are drawn in it" if draw_boxes else "",
        unit=unit,
        regions="\n".join(f"{i + 1}: {name} {box}" for i, (name, box) in enumerate(zip(names, boxes, strict=True))),
        example=json.dumps({str(i + 1): "…" for i in range(min(len(layout), 2))}, ensure_ascii=False),
    )
    return Question(draw_numbers(image, layout) if draw_boxes else image, prompt, len(layout))


def _large(image: Image, layout: Layout, min_area: int) -> list[int]:
    """The regions that a structured call is worth it for."""
    large = [i for i, area in enumerate(areas(image, layout)) if area >= min_area]
    return large if len(large) > 1 else []


def _pick(layout: Layout, places: list[int]) -> Layout:
    return layout.keep(torch.tensor(places, dtype=torch.int64))


def _pairs(reply: str) -> Iterator[list[tuple[Any, Any]]]:
    """Candidates for the numbered sentences of a reply: every JSON value in it, then what a cut-off one still says."""
    decoder = json.JSONDecoder(strict=False)  # models leave line breaks in strings
    reply = _ESCAPE.sub(lambda x: x[0] if len(x[1]) > 1 or x[1] in '"\\/bfnrt' else x[1], reply)
    for start in islice(re.finditer(r"[{\[]", reply), 100):  # a model gone wrong may say nothing but brackets
        try:
            value, _ = decoder.raw_decode(reply, start.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, Mapping):
            yield list(value.items())
        elif isinstance(value, list):
            rows = [x for x in value if isinstance(x, Mapping)]
            yield [(x.get("number", x.get("id")), x.get("caption", x.get("description"))) for x in rows]
    yield [(number, decoder.decode(text)) for number, text in _PAIR.findall(reply)]
