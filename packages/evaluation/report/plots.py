"""The statistics as the literature plots them, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from scenewright.evaluation.plot import FIRST, SECOND, plot
from scenewright.evaluation.report.statistics import Heat, Histogram, Statistics, Texts

_HEAT = (217, 119, 66)


def objects_per_image(counts: Counter[int]) -> str:
    """Bars, one per number of regions; 30 and more share the last."""

    def draw(axes: Axes) -> None:
        _bars_of_counts(axes, counts, last=30)
        axes.set(xlabel="regions in an image", ylabel="images")

    return plot("objects", draw)


def _bars_of_counts(axes: Axes, counts: Counter[int], last: int) -> None:
    most = min(last, max(counts, default=0))
    heights = [counts[i] for i in range(most)] + [sum(n for value, n in counts.items() if value >= most)]
    _bars(axes, np.array(heights), np.arange(most + 2) - 0.5)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.yaxis.set_major_locator(_whole_numbers())


def _bars(axes: Axes, counts: np.ndarray, edges: np.ndarray) -> None:
    """Bars with gaps, as one outline: two dozen rectangles take matplotlib ten times as long."""
    gap = 0.06 * np.diff(edges)
    ends = np.stack([edges[:-1] + gap, edges[1:] - gap], axis=1).ravel()
    axes.stairs(np.stack([counts, np.zeros_like(counts)], axis=1).ravel()[:-1], ends, fill=True, color=FIRST)
    axes.set_ylim(0, 1.05 * max(1, counts.max()))


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10])


def histogram(name: str, values: Histogram, xlabel: str, ylabel: str, ticks: dict[float, str] | None = None) -> str:
    """Bars of a histogram, over its whole range."""

    def draw(axes: Axes) -> None:
        edges = values.edges
        _bars(axes, values.counts, edges)
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(edges[0], edges[-1]))
        axes.yaxis.set_major_locator(_whole_numbers())
        if ticks:
            axes.set_xticks(list(ticks), list(ticks.values()))

    return plot(name, draw)


def heat_map(heat: Heat) -> str:
    """Where boxes have their centres: the more, the more opaque."""
    smooth = gaussian_filter(heat.counts.astype(np.float64), sigma=1.2, mode="nearest")
    share = smooth / (smooth.max() or 1.0)

    def draw(axes: Axes) -> None:
        colour = np.broadcast_to(np.array(_HEAT) / 255, (*share.shape, 3))
        picture = np.dstack([colour, share**0.7])
        axes.imshow(picture, extent=(0, 1, 1, 0), interpolation="none", aspect="auto")
        axes.grid(False)
        axes.spines[:].set_visible(True)
        axes.set(xlabel="share of the width", ylabel="share of the height")

    return plot("centres", draw)


def label_frequency(labels: Counter[str], most: int = 30) -> str:
    """The most frequent labels, as bars from top to bottom."""
    ranked = sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:most]

    def draw(axes: Axes) -> None:
        names = [_short(label) for label, _ in reversed(ranked)]
        bars = axes.barh(range(len(ranked)), [count for _, count in reversed(ranked)], height=0.72, color=FIRST)
        axes.bar_label(bars, padding=4, fmt="{:,.0f}", fontsize=9)
        axes.set_yticks(range(len(ranked)), names)
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.grid(False)
        axes.margins(x=0.1)

    longest = max((len(_short(label)) for label, _ in ranked), default=0)
    return plot("labels", draw, height=0.56 + 0.21 * max(3, len(ranked)), left=0.15 + 0.075 * longest)


def _short(label: str, longest: int = 28) -> str:
    label = " ".join("".join(c if c.isprintable() else " " for c in label).split()) or "(no name)"
    return label if len(label) <= longest else label[: longest - 1] + "…"


def caption_lengths(images: Texts, regions: Texts, last: int = 60) -> str:
    """Words per caption, as shares of the captions of images and of regions."""

    def draw(axes: Axes) -> None:
        most = min(last, max([*images.lengths, *regions.lengths], default=1))
        edges = np.arange(most + 2) - 0.5
        for texts, colour, name in ((regions, FIRST, "regions"), (images, SECOND, "images")):
            counts = np.zeros(most + 1)
            for length, captions in texts.lengths.items():
                counts[min(length, most)] += captions
            _outline(axes, counts, edges, colour, name)
        axes.set(xlabel="words in a caption", ylabel="share of captions", xlim=(edges[0], edges[-1]))

    return plot("lengths", draw)


def fog(images: Texts, regions: Texts) -> str:
    """Gunning fog per caption, as shares of the captions of images and of regions."""

    def draw(axes: Axes) -> None:
        for texts, colour, name in ((regions, FIRST, "regions"), (images, SECOND, "images")):
            _outline(axes, texts.fog.counts, texts.fog.edges, colour, name)
        axes.set(xlabel="Gunning fog", ylabel="share of captions", xlim=(0, 24))

    return plot("fog", draw)


def _outline(axes: Axes, counts: np.ndarray, edges: np.ndarray, colour: str, name: str) -> None:
    if not counts.sum():
        return
    share = counts / counts.sum()
    axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
    axes.stairs(share, edges, color=colour, linewidth=1.4, label=name)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(handlelength=1.2, loc="upper right")


def all_plots(statistics: Statistics) -> dict[str, str]:
    """Every plot that has something to show, by its name on the page."""
    aspects = {-2.0: "1:4", -1.0: "1:2", 0.0: "1:1", 1.0: "2:1", 2.0: "4:1"}
    shapes = {-3.0: "1:8", **aspects, 3.0: "8:1"}
    sides = {float(p): f"{2**p:,}" for p in (4, 6, 8, 10, 12, 14)}
    texts = statistics.image_captions, statistics.region_captions
    has_captions = any(text.total for text in texts)
    drawn: dict[str, tuple[bool, Callable[[], str]]] = {
        "objects": (bool(statistics.objects), lambda: objects_per_image(statistics.objects)),
        "boxes": (
            statistics.box_sizes.total > 0,
            lambda: histogram("boxes", statistics.box_sizes, "square root of the box's share of its image", "boxes"),
        ),
        "centres": (statistics.box_sizes.total > 0, lambda: heat_map(statistics.centres)),
        "shapes": (
            statistics.box_shapes.total > 0,
            lambda: histogram("shapes", statistics.box_shapes, "width : height", "boxes", shapes),
        ),
        "fills": (
            statistics.fills.total > 0,
            lambda: histogram("fills", statistics.fills, "share of its box that a mask covers", "masks"),
        ),
        "labels": (bool(statistics.labels), lambda: label_frequency(statistics.labels)),
        "lengths": (has_captions, lambda: caption_lengths(*texts)),
        "fog": (has_captions, lambda: fog(*texts)),
        "scores": (
            statistics.scores.total > 0,
            lambda: histogram("scores", statistics.scores, "score", "regions"),
        ),
        "aspects": (
            statistics.aspects.total > 0,
            lambda: histogram("aspects", statistics.aspects, "width : height", "images", aspects),
        ),
        "sides": (
            statistics.sides.total > 0,
            lambda: histogram("sides", statistics.sides, "longer side in pixels", "images", sides),
        ),
    }
    return {name: draw() for name, (has_data, draw) in drawn.items() if has_data}
