"""A region's own picture: what a captioner or a judge is shown of it."""

import math

import torch
from torchvision.transforms.v2.functional import gaussian_blur, resize

from scenewright.layout import Image, Layout

_Corners = tuple[int, int, int, int]

#: Pixels by which a coordinate may miss a whole number: what a fraction as float32 loses in 8192 pixels.
_TOLERANCE = 1e-3


def corners(image: Image, layout: Layout, padding: float = 0.0) -> list[_Corners]:
    """Whole pixels ``x_min y_min x_max y_max`` of each box, widened, inside the image, at least one pixel each way.

    Args:
        padding: added on every side, as a fraction of the box's own width and height.
    """
    height, width = image.shape[1:]
    found = []
    for x_min, y_min, x_max, y_max in layout.pixel_boxes(height, width).tolist():
        dx, dy = padding * (x_max - x_min) - _TOLERANCE, padding * (y_max - y_min) - _TOLERANCE
        left, top = (max(0, min(math.floor(x_min - dx), width - 1)), max(0, min(math.floor(y_min - dy), height - 1)))
        right, bottom = min(width, math.ceil(x_max + dx)), min(height, math.ceil(y_max + dy))
        found.append((left, top, max(right, left + 1), max(bottom, top + 1)))
    return found


def truncated(image: Image, layout: Layout) -> list[_Corners]:
    """Every box's coordinates in pixels, cut off toward zero; they may lie outside the image.

    Source: InstanceDiffusion's data generation, which measures and crops its boxes so.
    """
    height, width = image.shape[1:]
    boxes = layout.boxes.double().cpu() * torch.tensor([width, height, width, height])
    # a whole number of pixels must not lose one to the float32 of its fraction
    nearest = boxes.round()
    whole = torch.where((boxes - nearest).abs() < _TOLERANCE, nearest, boxes.trunc())
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in whole.int().tolist()]


def areas(image: Image, layout: Layout) -> list[int]:
    """Pixels of every box, counted on truncated corners; below zero is none."""
    return [max(0, x1 - x0) * max(0, y1 - y0) for x0, y0, x1, y1 in truncated(image, layout)]


def cut(
    image: Image,
    layout: Layout,
    *,
    padding: float = 0.0,
    blur: float = 0.0,
    max_aspect: float = math.inf,
    max_side: int | None = None,
) -> list[Image]:
    """The crop of every region, in the layout's order.

    Args:
        padding: context around the box, as a fraction of its own width and height.
        blur: strength of a Gaussian blur over what is around the region, as a fraction of the crop's longer
            side; outside its mask if it has one, else outside its box. 0 leaves it sharp.
        max_aspect: a crop whose longer side is more than so many times its shorter one is widened by what is
            beside it, and where the image ends by its outermost pixels, so that no model makes it huge by
            scaling its shorter side.
        max_side: larger crops are scaled down to this longer side, in pixels.
    """
    crops = []
    for i, box in enumerate(corners(image, layout, padding)):
        left, top, right, bottom = _widened(box, image.shape[1], image.shape[2], max_aspect)
        crop = image[:, top:bottom, left:right]
        if blur > 0:
            inside = _inside(image, layout, i)[top:bottom, left:right].to(crop.device)
            crop = torch.where(inside, crop, _blurred(crop, blur))
        crops.append(_stretched(_shrunk(crop, max_side), max_aspect))
    return crops


def cut_truncated(image: Image, layout: Layout, *, max_aspect: float = math.inf) -> list[Image]:
    """The crop of every region as the reference pipelines cut it: truncated corners, black outside of the image.

    Args:
        max_aspect: longer crops get black beside them, which the references do not do.

    Source: InstanceDiffusion's data generation (Pillow's ``Image.crop`` with integers).
    """
    height, width = image.shape[1:]
    crops = []
    for x0, y0, x1, y1 in truncated(image, layout):
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        least = _shortest(y1 - y0, x1 - x0, max_aspect)
        crop = image.new_zeros(3, max(y1 - y0, least), max(x1 - x0, least))
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left < right and top < bottom:
            crop[:, top - y0 : bottom - y0, left - x0 : right - x0] = image[:, top:bottom, left:right]
        crops.append(crop)
    return crops


def _shortest(height: int, width: int, max_aspect: float) -> int:
    """How long the shorter side must be."""
    return math.ceil(max(height, width) / max_aspect)


def _widened(box: _Corners, height: int, width: int, max_aspect: float) -> _Corners:
    """The box with its shorter side widened to both sides, as far as the image goes."""
    left, top, right, bottom = box
    least = _shortest(bottom - top, right - left, max_aspect)
    left, right = _spread(left, right, least, width)
    top, bottom = _spread(top, bottom, least, height)
    return left, top, right, bottom


def _spread(start: int, stop: int, least: int, end: int) -> tuple[int, int]:
    if stop - start >= least:
        return start, stop
    start = max(0, min(start - (least - (stop - start)) // 2, end - least))
    return start, min(end, start + least)


def _shrunk(crop: Image, max_side: int | None) -> Image:
    height, width = crop.shape[1:]
    if max_side is None or max(height, width) <= max_side:
        return crop
    scale = max_side / max(height, width)
    return resize(crop, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)


def _stretched(crop: Image, max_aspect: float) -> Image:
    """The crop with its outermost pixels repeated on both sides."""
    height, width = crop.shape[1:]
    least = _shortest(height, width, max_aspect)
    if min(height, width) >= least:
        return crop
    rows, columns = (
        (torch.arange(max(n, least), device=crop.device) - max(0, least - n) // 2).clamp(0, n - 1)
        for n in (height, width)
    )
    return crop[:, rows][:, :, columns]


def _inside(image: Image, layout: Layout, i: int) -> torch.Tensor:
    if layout.masks is not None:
        return layout.masks[i].decode()
    (box,) = corners(image, layout.keep(torch.tensor([i])))
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    return inside


def _blurred(crop: Image, blur: float) -> Image:
    sigma = max(blur * max(crop.shape[1:]), 0.1)
    # reflection needs a kernel that is smaller than the crop
    kernel = min(2 * int(2 * sigma) + 1, 2 * ((min(crop.shape[1:]) - 1) // 2) + 1)
    return crop if kernel < 3 else gaussian_blur(crop, [kernel, kernel], [sigma, sigma])
