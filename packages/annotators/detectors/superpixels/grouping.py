"""Hierarchical grouping: the two most alike neighbours are joined, again and again, until one group is left."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from scenewright.annotators.detectors.superpixels.segmentation import Pieces


@dataclass(frozen=True)
class Affinity:
    """How much each likeness of two neighbours counts.

    Attributes:
        colour: of their colours.
        texture: of their gradients.
        context: of their colours together with those around them; it holds stripes and checks together.
        size: small groups first, so that all grow at one pace.
        fill: groups first that fill each other's gaps.
        edge: those first between which no edge runs.
    """

    colour: float = 1.0
    texture: float = 0.5
    context: float = 1.0
    size: float = 1.0
    fill: float = 1.0
    edge: float = 1.0


@dataclass(frozen=True, eq=False)
class Groups:
    """The tree of groups over ``n`` pieces: first the pieces, then what was joined, in order; the last one is all.

    Attributes:
        members: which pieces each group holds.
        supports: how far each reaches, as in ``Pieces``.
        parents: the group that each became part of; the last one is its own.
        children: the two it was joined from; −1 for a piece.
        births: likeness of the two it was joined from; 1 for a piece.
    """

    members: Bool[np.ndarray, "m n"]
    supports: Float[np.ndarray, "m 16"]
    parents: Int[np.ndarray, " m"]
    children: Int[np.ndarray, "m 2"]
    births: Float[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.parents)


def group(pieces: Pieces, affinity: Affinity) -> Groups:
    """Join pieces until one group is left.

    Everything a pair's likeness needs is a sum over pieces, so a step costs a few
    operations on short rows and never looks at a pixel.

    Source: Uijlings et al. 2013, section 3; the context and edge terms are ours.
    """
    count = len(pieces)
    total = 2 * count - 1
    members = np.zeros((total, count), bool)
    members[:count] = np.eye(count, dtype=bool)
    supports = np.empty((total, pieces.supports.shape[1]), np.float32)
    supports[:count] = pieces.supports
    parents, children, births = np.arange(total), np.full((total, 2), -1), np.ones(total, np.float32)
    state = _Rows(pieces, affinity)
    node = list(range(count))  # the group that stands in each row
    for new in range(count, total):
        row, gone, births[new] = state.join()
        pair = node[row], node[gone]
        members[new] = members[pair[0]] | members[pair[1]]
        supports[new] = np.maximum(supports[pair[0]], supports[pair[1]])
        parents[list(pair)] = new
        children[new] = pair
        node[row] = new
    return Groups(members, supports, parents, children, births)


class _Rows:
    """The groups that are still apart, one in a row of each table."""

    def __init__(self, pieces: Pieces, affinity: Affinity) -> None:
        self.affinity = affinity
        self.total = float(pieces.areas.sum())
        self.areas = pieces.areas.copy()
        self.sides = pieces.supports[:, ::4].copy()  # right, down, left, up
        self.lengths, self.strengths = pieces.lengths.copy(), pieces.strengths.copy()
        self.shares = _histograms(pieces, affinity) / self.areas[:, None]
        self.likeness = np.full(self.lengths.shape, -np.inf, np.float32)
        self._compare(*np.nonzero(np.triu(self.lengths)))

    def join(self) -> tuple[int, int, float]:
        """Join the two most alike; they stand in the first's row from then on."""
        kept, gone = divmod(int(self.likeness.argmax()), len(self.areas))
        likeness = float(self.likeness[kept, gone])
        both = self.areas[kept] + self.areas[gone]
        self.shares[kept] += (self.shares[gone] - self.shares[kept]) * (self.areas[gone] / both)
        self.areas[kept] = both
        self.sides[kept] = np.maximum(self.sides[kept], self.sides[gone])
        for table in (self.lengths, self.strengths):
            row = table[kept] + table[gone]
            row[[kept, gone]] = 0
            table[kept] = table[:, kept] = row
            table[gone] = table[:, gone] = 0
        self.likeness[gone] = self.likeness[:, gone] = -np.inf
        self._compare(kept, np.flatnonzero(self.lengths[kept]))
        return kept, gone, likeness

    def _compare(self, rows: int | np.ndarray, others: np.ndarray) -> None:
        weights, area, areas = self.affinity, self.areas[rows], self.areas[others]
        shared = np.minimum(self.shares[rows], self.shares[others]).sum(-1)
        sides = np.maximum(self.sides[rows], self.sides[others])
        both = area + areas
        gaps = (sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3]) - both
        edge = self.strengths[rows, others] / self.lengths[rows, others]
        likeness = shared - (weights.size * both + weights.fill * gaps) / self.total - weights.edge * edge
        self.likeness[rows, others] = self.likeness[others, rows] = likeness


def _histograms(pieces, affinity):
    """All histograms of a piece in one row, times their weights: min(w a, w b) = w min(a, b)."""
    around = csr_array(pieces.lengths) @ (pieces.colours / pieces.areas[:, None])
    around *= (pieces.areas / np.maximum(pieces.lengths.sum(1), 1))[:, None]
    parts = (
        (affinity.colour / 3, pieces.colours),
        (affinity.texture, pieces.textures),
        (affinity.context / 3, (pieces.colours + around) / 2),
    )
    return np.concatenate([weight * table for weight, table in parts if weight], 1)
