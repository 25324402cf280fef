"""Whether boxes can be used for the things that were asked for, and if not, why: in words that a model can act on."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from scenewright.datasets.gen4gen.planner.parsing import NamedBox
from scenewright.datasets.gen4gen.planner.phrase import normalised

#: Height and width of the canvas that a model plans on, whatever the size of the real one.
SIDE = 512

_REASONS = 6  # that are listed at once


@dataclass(frozen=True)
class Limits:
    """What boxes must keep to.

    Attributes:
        max_overlap: the largest intersection over union of two boxes, in [0, 1].
        min_side: of a box, in pixels of a canvas of 512 x 512.
        min_area, max_area: of a box, as fractions of the canvas.
        max_aspect: the longer side over the shorter one, on the real canvas.
    """

    max_overlap: float = 0.1
    min_side: float = 32.0
    min_area: float = 0.004
    max_area: float = 0.9
    max_aspect: float = 8.0


def check(
    boxes: Sequence[NamedBox],
    names: Sequence[str],
    size: tuple[int, int] = (SIDE, SIDE),
    limits: Limits | None = None,
    by_order: bool = False,
) -> Float[Tensor, "n 4"]:
    """The boxes in the order of ``names``, ``x_min y_min x_max y_max`` as fractions of the canvas.

    Args:
        boxes: names, and left, top, width and height in pixels of a canvas of 512 x 512.
        names: of what is to be placed; as many boxes must have each name. Spelling is compared by ``normalised``;
            of several boxes of one name, the first in ``boxes`` is for the first in ``names``.
        size: height and width of the real canvas.
        by_order: where not one box has a name that was asked for, but there are as many as names, take them in the
            order of a prompt, which is alphabetical.

    Raises:
        ValueError: names are missing or too many, or a box breaks a limit; all reasons are given.
    """
    limits = limits or Limits()
    order = _match([name for name, _ in boxes], names, by_order)
    said = [boxes[i][0] for i in order]
    corners = torch.tensor([boxes[i][1] for i in order], dtype=torch.float64)
    corners[:, 2:] += corners[:, :2]
    reasons = [*_outside(said, corners), *_misshapen(said, corners, size, limits), *_overlaps(said, corners, limits)]
    if reasons:
        more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        raise ValueError("; ".join(reasons[:_REASONS]) + more)
    return (corners / SIDE).float()


def _match(said: Sequence[str], names: Sequence[str], by_order: bool) -> list[int]:
    """For each of ``names`` the index in ``said``.

    Raises:
        ValueError: the names are not the same, or not as often.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(said):
        places[normalised(name)].append(i)
    wanted, found = Counter(map(normalised, names)), Counter(map(normalised, said))
    if wanted == found:
        return [places[normalised(name)].pop(0) for name in names]
    if by_order and len(said) == len(names) and not wanted.keys() & found.keys():
        alphabetical = sorted(range(len(names)), key=lambda i: names[i])
        return [alphabetical.index(i) for i in range(len(names))]
    raise ValueError(f"there must be exactly these boxes: {_listed(names)}; got {_listed(said) or 'none'}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{count} x {name!r}" for name, count in sorted(Counter(names).items()))[:400]


def _outside(names: Sequence[str], corners: Float[Tensor, "n 4"]) -> list[str]:
    reasons = []
    for name, (x0, y0, x1, y1) in zip(names, corners.tolist(), strict=True):
        if x0 < 0 or y0 < 0:
            reasons.append(f"the box of {name!r} begins outside the canvas, at x = {x0:g}, y = {y0:g}")
        if x1 > SIDE or y1 > SIDE:
            reasons.append(
                f"the box of {name!r} goes beyond the canvas: x + width = {x1:g}, y + height = {y1:g}, "
                f"and neither may be above {SIDE}"
            )
    return reasons


def _misshapen(names: Sequence[str], corners: Float[Tensor, "n 4"], size: tuple[int, int], limits: Limits) -> list[str]:
    reasons = []
    for name, (x0, y0, x1, y1) in zip(names, corners.tolist(), strict=True):
        width, height = x1 - x0, y1 - y0
        if min(width, height) < max(limits.min_side, 1e-6):
            what = f"is {width:g} x {height:g}"
            reasons.append(f"the box of {name!r} {what}, but its sides must be at least {limits.min_side:g}")
            continue
        share, aspect = width * height / SIDE**2, width * size[1] / (height * size[0])
        if not limits.min_area <= share <= limits.max_area:
            allowed = f"{limits.min_area:.1%} to {limits.max_area:.0%}"
            reasons.append(f"the box of {name!r} covers {share:.1%} of the canvas, but {allowed} are allowed")
        if max(aspect, 1 / aspect) > limits.max_aspect:
            thin = "long" if aspect > 1 else "tall"
            reasons.append(f"the box of {name!r} ({width:g} x {height:g}) is too {thin} for its other side")
    return reasons


def _overlaps(names: Sequence[str], corners: Float[Tensor, "n 4"], limits: Limits) -> list[str]:
    overlaps = box_iou(corners, corners).tolist()
    return [
        f"the boxes of {a!r} and {b!r} overlap (intersection over union {overlaps[i][j]:.2f}, "
        f"at most {limits.max_overlap:g} is allowed)"
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2)
        if math.isfinite(overlaps[i][j]) and overlaps[i][j] > limits.max_overlap
    ]
