"""RulesPlanner: places things by their usual sizes on a common ground, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from scenewright.datasets.gen4gen.backgrounds import PHRASES
from scenewright.datasets.gen4gen.planner.sizes import metres
from scenewright.datasets.gen4gen.records import LayoutPlan, LayoutRequest

#: Where things can stand, for requests that name no background.
GROUNDS = ("garden", "room", "farm", "grass", "office", "forest", "beach", "museum", "nationalpark", "sand", "park",
           "field", "countryside", "living-room", "playroom", "kitchen", "meadow", "sidewalk", "playground", "city",
           "gallery", "cafe")  # fmt: skip

_SOFTNESS = 0.8  # exponent of real sizes
_LEAST = 0.4  # of the largest thing's longer side that the smallest has at least
_NEAR, _FAR = 0.95, 0.66  # of the canvas's height: where the nearest and the farthest thing stand
_MARGIN = 0.02  # of the canvas's width that stays free at both sides, where there is room
_SHRINKS = 0.25  # of its size that a thing loses from the nearest to the farthest
_HIDDEN = 0.3  # of a thing's box that another one may cover
_CANDIDATES = 24  # places that are tried for each thing
_TRIES = 24  # arrangements at one scale
_STEP = 0.93  # from one scale to the next


class RulesPlanner:
    """Stands things side by side on a ground: the farther up, the smaller. No model, no network.

    Each box has its cut-out's aspect, so that the cut-out fills it. Sizes follow the things' real ones, softened: the
    smallest has at least 0.4 of the largest's longer side. It always succeeds; the more things, the smaller they are.

    Args:
        max_overlap: the largest intersection over union of two boxes, in [0, 1].
        fill: of the canvas that all boxes cover together, in (0, 1]: the range from which each canvas draws. Where they
            do not fit, they shrink.

    Raises:
        ValueError: a setting is out of its range.

    Source: in the place of the language model of Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
    """

    def __init__(self, max_overlap: float = 0.1, fill: Sequence[float] = (0.35, 0.55)) -> None:
        if not 0 <= max_overlap <= 1:
            raise ValueError(f"max_overlap must be in [0, 1], got {max_overlap}")
        if len(fill) != 2 or not 0 < fill[0] <= fill[1] <= 1:
            raise ValueError(f"fill must be a range in (0, 1], such as [0.35, 0.55], got {list(fill)}")
        self.max_overlap, self.fill = max_overlap, (float(fill[0]), float(fill[1]))

    def plan(self, requests: Sequence[LayoutRequest]) -> list[LayoutPlan]:
        """One plan per request, in order; each depends on its request alone."""
        return [self._plan(x) for x in requests]

    def _plan(self, request: LayoutRequest) -> LayoutPlan:
        rng = np.random.default_rng(request.seed)
        phrases = request.backgrounds or tuple(PHRASES[x] for x in GROUNDS)
        background = phrases[int(rng.integers(len(phrases)))]
        shape = request.width / request.height
        # widths and heights as fractions of the canvas, of things whose longer side is one canvas height
        sides = np.array([(min(a, 1.0) / shape, min(1 / a, 1.0)) for a in request.aspects])
        ranks = _softened([metres(x) for x in request.names])
        depths, sizes = _depths(ranks, rng), ranks * rng.uniform(0.94, 1.06, len(ranks))
        sizes = sizes * (1 - _SHRINKS * depths)
        sides = sides * np.maximum(sizes, _LEAST * sizes.max())[:, None]
        scale = float((rng.uniform(*self.fill) / sides.prod(1).sum()) ** 0.5)
        scale = min(scale, *(np.array([0.9, 0.8]) / sides.max(0)))  # some of the background is to be seen
        boxes, scale = self._arranged(sides, depths, scale, rng)
        log = [{"call": "rules", "metres": [metres(x) for x in request.names], "scale": scale, "seed": request.seed}]
        return LayoutPlan(torch.from_numpy(boxes).float().clamp(0, 1), background, log=log)

    def _arranged(
        self, sides: Float[ndarray, "n 2"], depths: Float[ndarray, " n"], scale: float, rng: np.random.Generator
    ) -> tuple[Float[ndarray, "n 4"], float]:
        """Boxes at the largest scale at which they go together; at the latest, in one row."""
        in_a_row = min(0.95 * (1 - 2 * _MARGIN) / sides[:, 0].sum(), 0.9 / sides[:, 1].max())
        while scale > in_a_row:
            boxes = self._placed(sides * scale, depths, rng)
            if boxes is not None:
                return boxes, scale
            scale *= _STEP
        return _row(sides * min(scale, in_a_row), depths, rng), min(scale, in_a_row)

    def _placed(
        self, sides: Float[ndarray, "n 2"], depths: Float[ndarray, " n"], rng: np.random.Generator
    ) -> Float[ndarray, "n 4"] | None:
        """The best of many arrangements, or None if none is allowed.

        In each, one thing after the other is placed, the largest first, where it overlaps the others least.
        """
        boxes, costs = np.zeros((_TRIES, len(sides), 4)), np.zeros(_TRIES)
        done: list[int] = []
        for i in np.argsort(-sides.prod(1), kind="stable"):
            width, height = sides[i]
            margin = min(_MARGIN, (1 - width) / 2)
            left = rng.uniform(margin, 1 - margin - width, (_TRIES, _CANDIDATES))
            bottom = _NEAR + (_FAR - _NEAR) * depths[i] + rng.uniform(-0.03, 0.03, left.shape)
            bottom = bottom.clip(height, 1)
            places = np.stack([left, bottom - height, left + width, bottom], -1)
            found = _costs(places, boxes[:, done], self.max_overlap)
            best = found.argmin(1)
            costs += found[np.arange(_TRIES), best]
            boxes[:, i] = places[np.arange(_TRIES), best]
            done.append(int(i))
        chosen = int(costs.argmin())
        return boxes[chosen] if np.isfinite(costs[chosen]) else None


def _softened(sizes: Sequence[float]) -> Float[ndarray, " n"]:
    """Sizes relative to the largest, drawn nearer to each other, in their order; in [0.4, 1]."""
    sized = np.array(sizes)
    return _LEAST + (1 - _LEAST) * (sized / sized.max()) ** _SOFTNESS


def _depths(ranks: Float[ndarray, " n"], rng: np.random.Generator) -> Float[ndarray, " n"]:
    """How far away each thing stands, in [0, 1]: by chance, but large ones rather behind small ones.

    Few things stand near each other, many are spread.
    """
    behind = ranks.argsort().argsort() / max(1, len(ranks) - 1)
    return min(1.0, (len(ranks) + 1) / 6) * (0.6 * rng.uniform(0, 1, len(ranks)) + 0.4 * behind)


def _costs(
    places: Float[ndarray, "t k 4"], boxes: Float[ndarray, "t n 4"], max_overlap: float
) -> Float[ndarray, "t k"]:
    """How much a place overlaps boxes and how far it is from the middle of the canvas; infinite where not allowed."""
    a, b = places[:, :, None], boxes[:, None]
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)  # (t, k, n)
    areas, others = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    overlaps, hidden = shared / (areas + others - shared), shared / np.minimum(areas, others)
    # a little less than allowed, for the rounding to 32 bits
    allowed = ((overlaps <= max(max_overlap - 1e-5, 0)) & (hidden <= _HIDDEN)).all(-1)
    off_centre = np.abs(places[..., [0, 2]].mean(-1) - 0.5)
    return np.where(allowed, hidden.sum(-1) + 0.3 * off_centre, np.inf)


def _row(sides: Float[ndarray, "n 2"], depths: Float[ndarray, " n"], rng: np.random.Generator) -> Float[ndarray, "n 4"]:
    """Boxes side by side in any order, with what is left between them."""
    widths, heights = sides[:, 0], sides[:, 1]
    order = rng.permutation(len(sides))
    gaps = max(0.0, 1 - 2 * _MARGIN - widths.sum()) * rng.dirichlet(np.ones(len(sides) + 1))
    left = np.empty(len(sides))
    left[order] = _MARGIN + np.cumsum(gaps[:-1]) + np.cumsum(widths[order]) - widths[order]
    bottom = np.clip(_NEAR + (_FAR - _NEAR) * depths, heights, 1)
    return np.stack([left, bottom - heights, left + widths, bottom], 1)
