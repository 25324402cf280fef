"""Objectness: which of the groups look like things, judged by their outlines and their surroundings."""

import numpy as np
from jaxtyping import Float, Int

from scenewright.annotators.detectors.superpixels.grouping import Groups
from scenewright.annotators.detectors.superpixels.segmentation import DIRECTIONS, Pieces

#: What each cue adds to the log-odds that a group is a thing: a logistic regression on drawn scenes, rounded.
WEIGHTS = {
    "one": -7.2,
    "closed": 2.5,
    "inner_edge": 1.0,
    "border": -4.8,
    "unlike": 0.7,
    "kin_behind": -3.8,
    "ground": -6.0,
    "on_ground": 3.3,
    "size": -9.9,
    "size_squared": -10.3,
    "solid": 2.0,
    "aspect": 2.0,
    "many": -0.9,
    "life": 1.0,
    "sibling": -1.5,
}

#: Colour distances in CIELAB: up to the first, two pieces may belong to one pattern; from the second, they differ.
KIN, UNLIKE = 10.0, 12.0

#: Mean strength of a boundary that counts as an edge.
CLOSED = 0.12

#: Power of a score where a group is weighed against its parts.
SHARPNESS = 4.0


def score(pieces: Pieces, groups: Groups) -> Float[np.ndarray, " m"]:
    """Score how much each group looks like a thing, in [0, 1]; the whole image scores 0."""
    log_odds = sum(WEIGHTS[name] * cue for name, cue in cues(pieces, groups).items())
    scores = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64)))
    scores[-1] = 0
    return scores


def cues(pieces: Pieces, groups: Groups) -> dict[str, Float[np.ndarray, " m"]]:
    """Measure what speaks for and against each group."""
    inside = groups.members.astype(np.float32)
    areas = inside @ pieces.areas
    return {
        "one": np.ones(len(groups), np.float32),
        **_outlines(pieces, inside),
        **_surroundings(pieces, inside, areas),
        **_forms(pieces, groups, areas),
        **_places(groups, areas),
    }


def _outlines(pieces, inside):
    """How much of the outline is an edge, how much of it the image's border, and how strong the edges within are."""
    outside = 1 - inside
    lengths, strengths = inside @ pieces.lengths, inside @ pieces.strengths
    seam = np.maximum((lengths * outside).sum(1), 1)
    edges = pieces.lengths * (pieces.strengths > CLOSED * pieces.lengths)
    border = inside @ pieces.border
    return {
        "closed": ((inside @ edges) * outside).sum(1) / seam,
        "inner_edge": (strengths * inside).sum(1) / np.maximum((lengths * inside).sum(1), 1),
        "border": border / (border + seam),
    }


def _surroundings(pieces, inside, areas):
    """How the colours around differ: from the group, from any of its pieces, and from the image's border."""
    outside = 1 - inside
    touching = (inside @ pieces.lengths) * outside
    touching /= np.maximum(touching.sum(1, keepdims=True), 1)
    steps = pieces.lengths / np.maximum(pieces.lengths.sum(1, keepdims=True), 1)
    near = (touching @ steps) * outside  # the pieces behind the neighbours
    colours = pieces.means / pieces.areas[:, None]
    apart = _distances(colours, colours)
    kin = (inside * pieces.areas) @ (apart < KIN).astype(np.float32) / areas[:, None]
    ground = np.exp(-((apart / UNLIKE) ** 2)) @ (pieces.border / pieces.border.sum())
    mean = (inside @ pieces.means) / areas[:, None]
    return {
        "unlike": (touching * (_distances(mean, colours) > UNLIKE)).sum(1),
        "kin_behind": (near * kin).sum(1) / np.maximum(near.sum(1), 1e-6),
        "ground": np.sqrt((inside @ (pieces.areas * ground)) / areas),
        "on_ground": np.sqrt(touching @ ground),
    }


def _forms(pieces, groups, areas):
    """Size and shape."""
    width = groups.supports[:, 0] + groups.supports[:, 8]
    height = groups.supports[:, 4] + groups.supports[:, 12]
    size = np.log(areas / pieces.areas.sum()) / 5
    return {
        "size": size,
        "size_squared": size**2,
        "solid": np.minimum(areas / hull_areas(groups.supports), 1),
        "aspect": np.minimum(width, height) / np.maximum(width, height),
        "many": 1 - 1 / groups.members.sum(1),
    }


def _places(groups, areas):
    """Where it stands in the tree: how long it lasted, and how large its sibling was."""
    parents = groups.parents
    return {
        "life": np.clip(groups.births, -3, 3) - np.where(parents == np.arange(len(groups)), 0, groups.births[parents]),
        "sibling": 1 - areas / areas[parents],
    }


def _distances(a, b):
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def hull_areas(supports):
    """Areas of the polygons that the support lines bound: the convex hull's, seen from 16 directions."""
    turn = 2 * np.pi / DIRECTIONS
    sides = (np.roll(supports, 1, 1) + np.roll(supports, -1, 1) - 2 * np.cos(turn) * supports) / np.sin(turn)
    return np.maximum((supports * sides).sum(1) / 2, 1)


def choose(groups: Groups, scores: Float[np.ndarray, " m"], threshold: float, most: int) -> Int[np.ndarray, " k"]:
    """Choose groups of which none holds another, the best scored first.

    A group stands against the best choice among its parts: it wins when its score,
    cubed, is at least the sum of theirs. Cubing lets one good whole win over many
    fair parts, and two good parts over a fair whole; a choice by score alone takes
    whole crowds for one thing.
    """
    values = np.where(scores > threshold, scores**SHARPNESS, 0)
    best, split = values.copy(), np.zeros(len(values), bool)
    for at, (left, right) in enumerate(groups.children):
        if left >= 0 and best[left] + best[right] > values[at]:
            best[at], split[at] = best[left] + best[right], True
    chosen, open_ = [], [len(values) - 1]
    while open_:
        at = open_.pop()
        if split[at]:
            open_.extend(groups.children[at])
        elif values[at] > 0:
            chosen.append(at)
    order = np.array(sorted(chosen, key=lambda at: (-scores[at], at)), int)
    return _apart(groups.supports[order], order)[:most]


def _apart(supports, order):
    """Leave out what repeats the box of a better one."""
    boxes = supports[:, ::4]
    kept: list[int] = []
    for at in range(len(order)):
        if all(_overlap(boxes[at], boxes[other]) < 0.5 for other in kept):
            kept.append(at)
    return order[kept]


def _overlap(a, b):
    shared = np.minimum(a, b)
    width, height = max(shared[0] + shared[2], 0), max(shared[1] + shared[3], 0)
    both = width * height
    return both / ((a[0] + a[2]) * (a[1] + a[3]) + (b[0] + b[2]) * (b[1] + b[3]) - both)
