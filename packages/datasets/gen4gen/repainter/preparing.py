"""What a repainter is given to start from: backgrounds of the canvas's size, soft masks, first composites, prompts.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.3, and its reference implementation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image as PILImage
from PIL import ImageFilter
from torch import Tensor

from scenewright.datasets.gen4gen.records import Composition, RepaintJob
from scenewright.layout import Image

_BICUBIC = PILImage.Resampling.BICUBIC


def soft_mask(alpha: Float[Tensor, "h w"], radius: float | int) -> UInt8[ndarray, "h w"]:
    """Where to keep what is there, 255 for certain: alpha, blurred by a box of this radius in pixels, and eroded.

    What is half kept or less after the blur is not kept at all, so the edge lies within the thing.
    """
    mask = (alpha * 255).round().to(torch.uint8).cpu().numpy()
    blurred = np.asarray(PILImage.fromarray(mask).filter(ImageFilter.BoxBlur(radius)), np.float32)
    return ((blurred - 127.5).clip(0) * 2).astype(np.uint8)


def repaint_mask(alpha: Float[Tensor, "h w"], radius: float | int) -> UInt8[ndarray, "h w"]:
    """Where to paint, 255 for certain: what ``soft_mask`` does not keep."""
    return 255 - soft_mask(alpha, radius)


def cover_crop(image: Image, height: int, width: int) -> Image:
    """The middle of an image, scaled just so far that it covers this size."""
    have_height, have_width = image.shape[1:]
    scale = max(height / have_height, width / have_width)
    part = min(width / scale, have_width), min(height / scale, have_height)
    left, top = (have_width - part[0]) / 2, (have_height - part[1]) / 2
    return _resized(image, height, width, (left, top, left + part[0], top + part[1]))


def squash(image: Image, height: int, width: int) -> Image:
    """An image at another size, whatever becomes of its proportions; as the reference does it."""
    return _resized(image, height, width, None)


def noise(height: int, width: int, seed: int) -> Image:
    """A background of independent uniform values from 0 to 254, as the reference draws them, but from a seed."""
    values = np.random.default_rng(seed).integers(0, 255, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def background_of(job: RepaintJob, blur: float = 1.0, compat: bool = False) -> Image:
    """A job's background at the size of its canvas: its photo, a little blurred, or noise.

    Args:
        blur: standard deviation in pixels.
        compat: blur the photo at its own size and squash it, as the reference does, not crop it and blur it then.
    """
    height, width = job.composition.alpha.shape
    if job.background is None:
        return noise(height, width, job.seed)
    photo = job.background.cpu()
    return squash(blurred(photo, blur), height, width) if compat else blurred(cover_crop(photo, height, width), blur)


def blurred(image: Image, sigma: float) -> Image:
    """An image after a Gaussian blur of this standard deviation in pixels."""
    return image if sigma <= 0 else _from_pil(_to_pil(image).filter(ImageFilter.GaussianBlur(sigma)))


def precomposite(composition: Composition, background: Image) -> Image:
    """Pasted things over a background of the same size."""
    left = (1 - composition.alpha).cpu()
    return (composition.image.cpu() + background.cpu() * left).round().clamp(0, 255).to(torch.uint8)


def precomposite_compat(composition: Composition, background: Image, mask: UInt8[ndarray, "h w"]) -> Image:
    """The larger value of both in each channel, the background darkened by the mask of where to paint."""
    darkened = background.cpu().numpy() * (mask / np.float32(255))
    return torch.from_numpy(np.maximum(darkened, composition.image.cpu().numpy()).astype(np.uint8))


def repaint_prompt(objects: str, phrase: str, compat: bool = False) -> str:
    """What the whole picture is told to show.

    Args:
        objects: "one cat and one dog".
        phrase: of the background, "in the garden".
        compat: leave the objects out, as the reference does: "a realistic photo of in the garden".
    """
    parts = ("a realistic photo of", phrase) if compat else ("a realistic photo of", objects, phrase)
    return " ".join(x.strip() for x in parts if x.strip())


def psnr_inside(composition: Composition, image: Image, margin: float | int = 12) -> float:
    """How well a repainted image keeps the pasted things: the peak signal-to-noise ratio inside them, in dB.

    Args:
        margin: pixels from where things are not opaque that are left out.

    Returns:
        Infinity if nothing has changed; NaN if nothing is that far inside.
    """
    from skimage.metrics import peak_signal_noise_ratio

    inside = distance_inside(composition.alpha, 0.996) > margin  # 254.5 of 255 and more is opaque
    before, after = (x.cpu().numpy()[:, inside] for x in (composition.image, image))
    if not inside.any():
        return math.nan
    return math.inf if (before == after).all() else float(peak_signal_noise_ratio(before, after, data_range=255))


def distance_inside(alpha: Float[Tensor, "h w"], threshold: float) -> Float[ndarray, "h w"]:
    """Pixels from where alpha is above a threshold to the nearest where it is not; the canvas's sides do not count."""
    import cv2

    above = (alpha.cpu().numpy() > threshold).astype(np.uint8)
    if above.all():
        return np.full(above.shape, np.inf, np.float32)
    return cv2.distanceTransform(above, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def pasted_back(composition: Composition, painted: Image, feather: float | int) -> Image:
    """Put the pasted things back over what was painted; over so many pixels at their edges the two change over.

    Farther inside the things have every value that they had.
    """
    ramp = np.clip(distance_inside(composition.alpha, 0.5) / max(feather, 1e-6), 0, 1)
    ramp = torch.from_numpy(ramp * ramp * (3 - 2 * ramp)).float()
    kept = composition.image.cpu() * ramp + painted.cpu() * (1 - ramp * composition.alpha.cpu())
    return kept.round().clamp(0, 255).to(torch.uint8).to(painted.device)


def _resized(image: Image, height: int, width: int, box: tuple[float, float, float, float] | None) -> Image:
    if box is None and tuple(image.shape[1:]) == (height, width):
        return image
    return _from_pil(_to_pil(image).resize((width, height), _BICUBIC, box=box))


def _to_pil(image: Image) -> PILImage.Image:
    return PILImage.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _from_pil(picture: PILImage.Image) -> Image:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
