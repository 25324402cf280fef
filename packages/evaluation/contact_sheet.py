"""Generated images as people look at them: with their boxes drawn in, what was asked for below, many on one sheet.

A plate is one image (or the same one seen several ways, side by side), its caption and its list of regions; a sheet
is plates in columns. Small images are enlarged in whole pixels, so that nobody takes the enlargement for the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from scenewright.evaluation.report.pictures import COLOURS
from scenewright.layout import Image, Layout

#: With more regions than this, or on pictures narrower than that, numbers stand for names: the list has them.
MOST_NAMES, LEAST_NAMED = 6, 400

#: Numbers of more regions than this are not moved apart, which takes time with the square of them.
_MOST_SPREAD = 60

_PAPER, _INK = "white", "#1c1c1c"

#: Pixels between pictures of a plate, before words, and around a plate.
_GAP, _INDENT, _MARGIN = 8, 3, 12


def picture(image: Image, least: int = 256, most: int = 384) -> PILImage.Image:
    """An image for a plate.

    Args:
        least: images whose longer side, in pixels, is shorter are enlarged by a whole number.
        most: images whose longer side is longer are made smaller.
    """
    plain = PILImage.fromarray(image.permute(1, 2, 0).cpu().numpy())
    longer = max(plain.size)
    if longer < least:
        times = -(-least // longer)
        return plain.resize((plain.width * times, plain.height * times), PILImage.Resampling.NEAREST)
    if longer > most:
        sides = max(1, round(plain.width * most / longer)), max(1, round(plain.height * most / longer))
        return plain.resize(sides, PILImage.Resampling.LANCZOS)
    return plain


def boxed(image: PILImage.Image, layout: Layout) -> PILImage.Image:
    """The same picture with a layout's boxes, and their names or numbers."""
    if not len(layout):
        return image.copy()
    width, height = image.size
    longer = max(image.size)
    limits = np.array([width, height, width, height], np.float32) - 1
    corners = layout.pixel_boxes(height, width).detach().cpu().numpy().astype(np.float32)
    detections = sv.Detections(xyxy=np.nan_to_num(corners).clip(0, limits), class_id=np.arange(len(layout)))
    options = {"color": sv.ColorPalette.from_hex(list(COLOURS)), "color_lookup": sv.ColorLookup.INDEX}
    crowded = len(layout) > _MOST_SPREAD
    thickness = 1 if crowded else max(1, round(longer / 320))
    scene = sv.BoxAnnotator(thickness=thickness, **options).annotate(image.copy(), detections)
    if min(image.size) < 48:  # no room for a number
        return scene
    size = max(11, round(longer / (80 if crowded else 44)))
    written = sv.RichLabelAnnotator(
        text_color=sv.Color.BLACK,
        font_path=_typeface(),
        font_size=size,
        text_padding=max(1, size // 6),
        border_radius=max(1, size // 6),
        smart_position=not crowded,
        **options,
    )
    return written.annotate(scene, detections, labels=_names(layout, width))


def plate(
    pictures: Sequence[PILImage.Image],
    layout: Layout,
    caption: str = "",
    *,
    titles: Sequence[str] = (),
    text_size: int = 12,
    most_regions: int | None = None,
    lines_per_region: int = 2,
    lines_of_caption: int = 4,
) -> PILImage.Image:
    """Pictures side by side, with the caption and the list of regions below.

    Args:
        titles: of the pictures, written above them; none if left out.
        text_size: of the letters, in pixels.
        most_regions: a longer list ends with how many more there are.
        lines_per_region: what does not fit into them is cut.
        lines_of_caption: the same for the caption.
    """
    width = sum(x.width for x in pictures) + _GAP * (len(pictures) - 1)
    width = max(width, text_size * 16)  # room for words below a narrow picture
    title = _wrapped(caption, text_size, width - 2 * _INDENT, lines_of_caption)
    columns = _columns(layout, text_size, width - 2 * _INDENT, most_regions, lines_per_region)
    line = _line_height(text_size)
    above = line if titles else 0
    top = above + max(x.height for x in pictures) + _GAP // 2
    words = top + line * len(title) + (_GAP // 2 if title else 0)
    sheet = PILImage.new("RGB", (width, words + line * max(map(len, columns), default=0)), _PAPER)
    draw, left = ImageDraw.Draw(sheet), 0
    for one, name in zip_longest(pictures, titles, fillvalue=""):
        assert isinstance(one, PILImage.Image)
        draw.text((left, 0), str(name), _INK, _font(text_size))
        sheet.paste(one, (left, above))
        left += one.width + _GAP
    for i, text in enumerate(title):
        draw.text((_INDENT, top + i * line), text, _INK, _font(text_size))
    for i, column in enumerate(columns):
        _write(draw, column, _INDENT + i * (width - 2 * _INDENT + _GAP) // len(columns), words, text_size)
    return sheet


def contact_sheet(plates: Sequence[PILImage.Image], columns: int | None = None) -> PILImage.Image:
    """Plates in rows, in order.

    Args:
        columns: how many side by side; if not given, such that the sheet is about as wide as it is high.

    Raises:
        ValueError: there are none.
    """
    if not plates:
        raise ValueError("a contact sheet needs at least one plate")
    width = max(x.width for x in plates) + 2 * _MARGIN
    if columns is None:
        area = sum(x.height + 2 * _MARGIN for x in plates) * width
        columns = max(1, min(len(plates), round((area * 1.3) ** 0.5 / width)))
    rows = [plates[i : i + columns] for i in range(0, len(plates), columns)]
    heights = [max(x.height for x in row) + 2 * _MARGIN for row in rows]
    sheet = PILImage.new("RGB", (width * min(columns, len(plates)), sum(heights)), _PAPER)
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
        for i, one in enumerate(row):
            sheet.paste(one, (i * width + _MARGIN, int(top) + _MARGIN))
    return sheet


def _names(layout: Layout, width: int) -> list[str]:
    named = len(layout) <= MOST_NAMES and width >= LEAST_NAMED
    words = [_cut(" ".join(x.split()), 22) if named else "" for x in layout.labels]
    return [f"{i} {word}".strip() for i, word in enumerate(words, 1)]


def _columns(
    layout: Layout, text_size: int, width: int, most: int | None, lines_each: int
) -> list[list[tuple[int, str]]]:
    """The list of regions in columns of about equal height: lines, each with its region's number or 0."""
    count = max(1, min(width // (text_size * 19), len(layout)))
    room = (width - _GAP * (count - 1)) // count - _indent(text_size, len(layout))
    shown = len(layout) if most is None else min(most, len(layout))
    lines: list[tuple[int, str]] = []
    for i in range(shown):
        first, *others = _wrapped(_description(layout, i), text_size, room, lines_each) or [""]
        lines += [(i + 1, first), *((0, x) for x in others)]
    if shown < len(layout):
        lines.append((0, f"… and {len(layout) - shown} more"))
    high = -(-len(lines) // count) if lines else 0
    columns: list[list[tuple[int, str]]] = [[]]
    for number, text in lines:
        if len(columns[-1]) >= high and (number or not text.strip()) and len(columns) < count:
            columns.append([])
        columns[-1].append((number, text))
    return [*columns, *([[]] * (count - len(columns)))] if lines else []


def _description(layout: Layout, index: int) -> str:
    """The name of a region and its caption, the name only where the caption does not have it."""
    label, caption = layout.labels[index].strip(), (layout.captions[index] if layout.captions else "").strip()
    if not caption or caption.lower().startswith(label.lower()):
        return caption or label
    return caption if not label or label.lower() in caption.lower() else f"{label}: {caption}"


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[int, str]], left: int, top: int, size: int) -> None:
    """One column of the list, numbers on their regions' colours."""
    line = _line_height(size)
    digits = max((len(str(number)) for number, _ in lines), default=1)
    indent = _indent(size, 10 ** (digits - 1))
    for i, (number, text) in enumerate(lines):
        y = top + i * line
        if number:
            colour = COLOURS[(number - 1) % len(COLOURS)]
            draw.rounded_rectangle((left, y + 1, left + indent - size // 2, y + line - 2), size // 5, colour)
            middle = left + (indent - size // 2) / 2
            draw.text((middle, y + line / 2 - 0.5), str(number), "black", _font(size - 1), anchor="mm")
        draw.text((left + indent, y), text, _INK, _font(size))


def _indent(size: int, regions: int) -> int:
    """Room for a number and the space behind it."""
    return round(_font(size).getlength("0" * len(str(regions)))) + round(size * 1.1)


def _line_height(size: int) -> int:
    return round(size * 1.35)


def _wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Lines that fit ``width`` pixels, words whole where they fit; the last of ``most`` is cut."""
    font = _font(size)
    lines: list[str] = []
    most_letters = most * (4 * width // size + 8)  # few are narrower than a quarter of their height
    rest = " ".join(text.split())[:most_letters]
    while rest:
        if len(lines) == most - 1 or font.getlength(rest) <= width:
            lines.append(_fitting(rest, font, width))
            break
        fits = _longest(rest, font, width)
        space = rest.rfind(" ", 0, fits + 1)
        lines.append(rest[: space if space > 0 else fits])
        rest = rest[len(lines[-1]) :].lstrip()
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    return _cut(text, max(1, _longest(text + "…", font, width - round(font.getlength("…"))) + 1))


def _longest(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many characters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_typeface(), size)


@lru_cache
def _typeface() -> str:
    """A file that knows more scripts than Pillow's own; matplotlib brings it along."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
