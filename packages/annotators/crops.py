"""A region's own picture: what a captioner or a judge is shown of it."""

import torch
from torchvision.transforms.v2.functional import gaussian_blur

from scenewright.layout import Image, Layout


def corners(image: Image, layout: Layout, padding: float = 0.0) -> list[tuple[int, int, int, int]]:
    """Whole pixels ``x_min y_min x_max y_max`` of each box, widened, inside the image, at least one pixel each way.

    Args:
        padding: added on every side, as a fraction of the box's own width and height.
    """
    height, width = image.shape[1:]
    found = []
    for x_min, y_min, x_max, y_max in layout.pixel_boxes(height, width).tolist():
        dx, dy = padding * (x_max - x_min), padding * (y_max - y_min)
        left, top = (max(0, min(int(x_min - dx), width - 1)), max(0, min(int(y_min - dy), height - 1)))
        right, bottom = min(width, int(x_max + dx + 0.999)), min(height, int(y_max + dy + 0.999))
        found.append((left, top, max(right, left + 1), max(bottom, top + 1)))
    return found


def cut(image: Image, layout: Layout, *, padding: float = 0.0, blur: float = 0.0) -> list[Image]:
    """The crop of every region, in the layout's order.

    Args:
        padding: context around the box, as a fraction of its own width and height.
        blur: strength of a Gaussian blur over what is around the region, as a fraction of the crop's longer
            side; outside its mask if it has one, else outside its box. 0 leaves it sharp.
    """
    crops = []
    for i, (left, top, right, bottom) in enumerate(corners(image, layout, padding)):
        crop = image[:, top:bottom, left:right]
        if blur > 0:
            inside = _inside(image, layout, i)[top:bottom, left:right].to(crop.device)
            crop = torch.where(inside, crop, _blurred(crop, blur))
        crops.append(crop)
    return crops


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
