"""The text features of the images that are left, and those that their originals do not explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenewright.datasets.extrapolated.originals import Originals
from scenewright.datasets.extrapolated.records import Decision
from scenewright.datasets.extrapolated.solving import Solved, extrapolate, nearest, rescaled


class LinearExtrapolation:
    """Text features as the combination of those originals whose images combine to the image.

    Args:
        neighbours: the nearest originals of an image; where there are fewer, all of them.
        among: "all" originals, or those of the image's "class".
        ridge: of the least squares, relative to the mean squared length of the neighbours; 0 for none.
        rescale: give all text features the mean length of the originals'.
        drop_worst: the share of images, in [0, 1), with the largest residuals, which are left out.
        batch_size: images that are solved together.

    Raises:
        ValueError: a setting is out of its range.

    Source: Ye and Liu 2024, arXiv 2410.01638; the ridge, the length and what is dropped are ours.
    """

    def __init__(
        self,
        neighbours: int = 6,
        among: str = "all",
        ridge: float | int = 1e-3,
        rescale: bool = False,
        drop_worst: float | int = 0.05,
        batch_size: int = 4096,
    ) -> None:
        if neighbours < 1 or batch_size < 1 or not ridge >= 0 or not 0 <= drop_worst < 1:
            raise ValueError(
                "neighbours and batch_size must be at least 1, ridge not negative and drop_worst in [0, 1), "
                f"got {neighbours}, {batch_size}, {ridge}, {drop_worst}"
            )
        if among not in ("all", "class"):
            raise ValueError(f"among must be all or class, got {among!r}")
        self.neighbours, self.among, self.ridge = neighbours, among, ridge
        self.rescale, self.drop_worst, self.batch_size = rescale, drop_worst, batch_size

    def apply(
        self, decisions: Sequence[Decision], features: Float[Tensor, "n d"], originals: Originals
    ) -> tuple[Float[Tensor, "kept c"], dict[str, Any]]:
        """Extrapolate for all that are kept so far, and leave out those that cannot or should not be.

        Returns:
            The text features of those that are kept, in their order, and what is to be said of it all.
        """
        alive = [i for i, x in enumerate(decisions) if x.stage == "kept"]
        places, valid = self._neighbours([decisions[i].keyword for i in alive], features[alive], originals)
        texts = torch.zeros(len(alive), originals.texts.shape[1])
        for start in range(0, len(alive), self.batch_size):
            some = slice(start, start + self.batch_size)
            solved = self._solve(features[alive[some]], places[some], valid[some], originals)
            texts[some] = solved.texts
            for row, i in enumerate(alive[some]):
                self._note(decisions[i], solved, row, places[start + row][valid[start + row]].tolist(), originals)
        length = float(originals.texts.norm(dim=1).mean())
        texts = rescaled(texts, length) if self.rescale else texts
        threshold = self._drop_worst([decisions[i] for i in alive])
        kept = [row for row, i in enumerate(alive) if decisions[i].stage == "kept"]
        about = {"neighbours": places.shape[1], "residual threshold": threshold, "mean length": round(length, 6)}
        return texts[kept], about

    def _neighbours(
        self, keywords: Sequence[str], features: Float[Tensor, "n d"], originals: Originals
    ) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """Places of each image's nearest originals, and which of these there are."""
        if self.among == "all":
            _, places = nearest(features, originals.features, self.neighbours)
            return places, torch.ones_like(places, dtype=torch.bool)
        k = min(self.neighbours, max(originals.keywords.count(x) for x in set(originals.keywords)))
        places = torch.zeros(len(keywords), k, dtype=torch.long)
        valid = torch.zeros(len(keywords), k, dtype=torch.bool)
        for keyword in sorted(set(keywords)):
            own = torch.tensor([i for i, x in enumerate(originals.keywords) if x == keyword])
            rows = torch.tensor([i for i, x in enumerate(keywords) if x == keyword])
            _, found = nearest(features[rows], originals.features[own], k)
            places[rows, : found.shape[1]] = own[found]
            valid[rows, : found.shape[1]] = True
        return places, valid

    def _solve(
        self,
        images: Float[Tensor, "b d"],
        places: Int[Tensor, "b k"],
        valid: Bool[Tensor, "b k"],
        originals: Originals,
    ) -> Solved:
        return extrapolate(images, originals.features[places], originals.texts[places], self.ridge, valid)

    def _note(self, decision: Decision, solved: Solved, row: int, places: Sequence[int], originals: Originals) -> None:
        decision.neighbours = [originals.keys[i] for i in places]
        if solved.singular[row]:
            decision.reject("singular", f"its {len(places)} nearest originals depend on each other; a ridge would do")
            return
        decision.residual = round(float(solved.residuals[row]), 6)
        decision.weights = [round(x, 6) for x in solved.weights[row, : len(places)].tolist()]

    def _drop_worst(self, decisions: Sequence[Decision]) -> float | None:
        """Leave out those with the largest residuals; the largest that is kept, or None where none is."""
        found = [(x.residual, i, x) for i, x in enumerate(decisions) if x.residual is not None]
        found.sort(key=lambda x: x[:2])
        count = len(found) - int(len(found) * self.drop_worst)
        if not count:
            return None
        threshold = found[count - 1][0]
        for residual, _, decision in found[count:]:
            decision.reject(
                "residual", f"its residual, {residual:.3f}, is one of the {self.drop_worst:.0%} largest", residual
            )
        return threshold
