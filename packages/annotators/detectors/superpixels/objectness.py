"""Objectness: which of the groups look like things, judged by their outlines and their surroundings."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from scenewright.annotators.detectors.superpixels.grouping import Groups
from scenewright.annotators.detectors.superpixels.segmentation import DIRECTIONS, Pieces

#: What each cue adds to the log-odds that a group is a thing. Found by logistic regression on drawn scenes (which all
#: have crisp edges), then by random search on these and on a dozen photographs with things boxed by hand; rounded.
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
    areas = _sums(groups, pieces.areas[:, None])[:, 0]
    return {
        "one": np.ones(len(groups), np.float32),
        **_outlines(pieces, groups),
        **_surroundings(pieces, groups, areas),
        **_forms(pieces, groups, areas),
        **_places(groups, areas),
    }


def _sums(groups, table):
    """The sum over each group's pieces, added up along the tree.

    Not by a product with ``members``: that is no faster, and its last bits hang on the number of threads.
    """
    sums = np.empty((len(groups), table.shape[1]), np.float32)
    sums[: len(table)] = table
    for at in range(len(table), len(groups)):
        left, right = groups.children[at]
        np.add(sums[left], sums[right], out=sums[at])
    return sums


def _outlines(pieces, groups):
    """How much of the outline is an edge, how much of it the image's border, and how strong the edges within are."""
    edges = pieces.lengths * (pieces.strengths > CLOSED * pieces.lengths)
    tables = (pieces.lengths, edges, pieces.strengths, pieces.border[:, None])
    lengths, closed, strengths, border = np.split(_sums(groups, np.hstack(tables)), len(pieces) * np.arange(1, 4), 1)
    inside = groups.members
    seam = np.maximum(lengths.sum(1, where=~inside), 1)
    return {
        "closed": closed.sum(1, where=~inside) / seam,
        "inner_edge": strengths.sum(1, where=inside) / np.maximum(lengths.sum(1, where=inside), 1),
        "border": border[:, 0] / (border[:, 0] + seam),
    }


def _surroundings(pieces, groups, areas):
    """How the colours around differ: from the group's mean, from its pieces, and from the image's border."""
    outside = ~groups.members
    colours = pieces.means / pieces.areas[:, None]
    apart = _distances(colours, colours)
    # how much each piece looks like the border of the image, which on most pictures is ground
    ground = (np.exp(-((apart / UNLIKE) ** 2)) * pieces.border).sum(1) / pieces.border.sum()
    tables = pieces.lengths, (apart < KIN) * pieces.areas[:, None], pieces.means, (pieces.areas * ground)[:, None]
    places = np.cumsum([table.shape[1] for table in tables])[:-1]
    touching, kin, means, grounds = np.split(_sums(groups, np.hstack(tables)), places, 1)
    touching = touching * outside
    touching /= np.maximum(touching.sum(1, keepdims=True), 1)
    steps = pieces.lengths / np.maximum(pieces.lengths.sum(1, keepdims=True), 1)
    behind = (csr_array(steps.T) @ touching.T).T * outside  # the pieces on the far side of the neighbours
    shares = kin / areas[:, None]  # of the group that looks like each piece
    return {
        "unlike": touching.sum(1, where=_distances(means / areas[:, None], colours) > UNLIKE),
        "kin_behind": (behind * shares).sum(1) / np.maximum(behind.sum(1), 1e-6),
        "ground": np.sqrt(grounds[:, 0] / areas),
        "on_ground": np.sqrt((touching * ground).sum(1)),
    }


def _forms(pieces, groups, areas):
    """Size and shape."""
    width = groups.supports[:, 0] + groups.supports[:, 8]
    height = groups.supports[:, 4] + groups.supports[:, 12]
    size = np.log(areas / pieces.areas.sum()) / 5  # best near a tenth of the image
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
    return np.sqrt(sum((a[:, None, k] - b[None, :, k]) ** 2 for k in range(a.shape[1])))


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
