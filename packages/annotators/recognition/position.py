"""A relative position bias table for a window of another size."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def resize_bias_table(table: Float[Tensor, "positions heads"], window: int) -> Float[Tensor, "new_positions heads"]:
    """Interpolate a table of ``(2w - 1)**2`` offsets to those of another window, head by head.

    Offsets are not stretched evenly: those near zero, which matter most, stay a pixel apart, and the distance
    grows geometrically towards the rim. Beyond the outermost known offset its value is kept.

    Args:
        window: side of the new window, in tokens.

    Source: ``interpolate_relative_pos_embed`` of BEiT (arXiv 2106.08254) and recognize-anything, whose spline was
        scipy's ``interp2d``; ``RectBivariateSpline`` agrees with it to 1e-6 on a grid.
    """
    from scipy.interpolate import RectBivariateSpline

    side, new_side = round(len(table) ** 0.5), 2 * window - 1
    if side == new_side:
        return table
    known = _known_offsets(side // 2, new_side // 2)
    wanted = np.clip(np.arange(new_side) - new_side // 2, known[0], known[-1])
    planes = table.double().cpu().numpy().reshape(side, side, -1)
    resized = [
        RectBivariateSpline(known, known, planes[..., i], kx=min(3, side - 1), ky=min(3, side - 1))(wanted, wanted)
        for i in range(planes.shape[-1])
    ]
    return torch.from_numpy(np.stack(resized, -1)).reshape(new_side**2, -1).to(table)


def _known_offsets(reach: int, new_reach: int) -> np.ndarray:
    """Where the known offsets lie among the new ones: a geometric series whose sum is the new reach."""
    low, high = 1.01, 1.5
    ratio = 0.0
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**reach) / (1 - ratio) > new_reach:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(reach))
    return np.concatenate([-steps[::-1], [0.0], steps])
