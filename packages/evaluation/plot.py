"""One figure as SVG for the inside of a page, in the page's own colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Colours that are drawn with, and the page's variables that take their place.
INK, FIRST, SECOND = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "var(--soft)", FIRST: "var(--first)", SECOND: "var(--second)"}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read, found and styled
    "text.parse_math": False,  # a label may hold dollar signs
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def plot(name: str, draw: Callable[[Axes], None], height: float = 2.7, left: float = 0.62) -> str:
    """Draw one figure as SVG for the inside of a page; ``height`` and the margin ``left`` are in inches.

    The same data give the same bytes; ``name`` keeps the identifiers of several figures apart.
    """
    file, width = io.StringIO(), 4.6
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has its own fonts
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.46 / height, 1 - (left + 0.1) / width, 1 - 0.56 / height))
        draw(axes)
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return _inline(file.getvalue(), name)


_METADATA = ("Date", "Creator", "Format", "Type")


def _inline(svg: str, name: str) -> str:
    """Strip what only a file needs: prologue, name spaces, a style for all of the page, unused identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style type=\"text/css\">.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"image-rendering:[\w-]+;?", "", svg)  # the heat map may be smooth
    svg = re.sub(r" xmlns(:\w+)?=\"[^\"]*\"", "", svg).replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    svg = re.sub(r" id=\"([^\"]*)\"", lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"^<svg[^>]*?viewBox=\"([^\"]*)\"[^>]*>", rf'<svg class="plot {name}" viewBox="\1">', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
