"""Blending: pasted things before a photo, in its light and on its ground, without weights.

Source: Reinhard et al. 2001, "Color Transfer between Images" (means and contrasts in an opponent space); Pérez, Gangnet
& Blake 2003, "Poisson Image Editing", as OpenCV implements it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from scenewright.datasets.gen4gen.records import Composition, Pasted, RepaintJob
from scenewright.datasets.gen4gen.repainter.preparing import background_of
from scenewright.layout import Image

_MODES = ("alpha", "poisson")
_AROUND = 0.25  # of a thing's sides: how far what is around it reaches
_TINT = 0.5  # colour follows half as much as light: it is what things are known by
_CONTRAST = (0.8, 1.25)  # between which contrast may change
_FLAT = 0.14  # a shadow's depth, as a share of its thing's width
_SINK = 0.35  # of its depth that a shadow reaches up behind its thing
_SURE = 0.9  # alpha of what surely is the thing


class Blend:
    """Lays pasted things over a photo that covers the canvas.

    Things take on a part of the light around them and cast a soft shadow where they stand. Their outlines are their
    own alpha. Nothing is drawn at random, but the background of a job without a photo, which is noise from its seed.

    Args:
        mode: where the change of a thing's colour comes from: "alpha" from means and contrast of what is around it;
            "poisson" from what its rim would have to become to join the photo, spread over it smoothly.
        harmonise: how much of that change is made, from 0, where colours stay untouched, to 1.
        shadow: how dark the middle of a shadow is, from 0, for none, to 1.
        background_blur: of the photo, a standard deviation in pixels.

    Raises:
        ValueError: a setting out of its range.
    """

    #: It shows what photos show: without one, nothing is said of a place.
    paints = False

    def __init__(
        self, mode: str = "alpha", harmonise: float = 0.3, shadow: float = 0.35, background_blur: float = 1.0
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        for name, value in (("harmonise", harmonise), ("shadow", shadow)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")
        self.mode, self.harmonise, self.shadow, self.background_blur = mode, harmonise, shadow, background_blur

    def repaint(self, jobs: Sequence[RepaintJob]) -> list[Image]:
        """One image per job, in order, of its canvas's size and where its canvas is."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and OpenCV let go of Python's lock
            images = list(pool.map(self._blend, jobs))
        return [x.to(job.composition.image.device) for x, job in zip(images, jobs, strict=True)]

    def _blend(self, job: RepaintJob) -> Image:
        composition = job.composition
        photo = background_of(job, self.background_blur).permute(1, 2, 0).contiguous().numpy()
        things = composition.image.cpu().permute(1, 2, 0).float().contiguous().numpy()  # multiplied with alpha
        alpha = composition.alpha.cpu().numpy()
        if self.harmonise:
            things = self._harmonised(things, alpha, composition, photo)
        ground = photo.astype(np.float32)
        for thing in composition.pasted if self.shadow else ():
            _shade(ground, thing, self.shadow)
        ground *= (1 - alpha)[..., None]
        ground += things
        whole = cv2.convertScaleAbs(ground)  # rounds, up to 255
        return torch.from_numpy(whole).permute(2, 0, 1).contiguous()

    def _harmonised(
        self, things: Float[ndarray, "h w 3"], alpha: Float[ndarray, "h w"], composition: Composition, photo: ndarray
    ) -> Float[ndarray, "h w 3"]:
        """The things' colours in the light around them, multiplied with alpha."""
        change = _poisson_change if self.mode == "poisson" else _light_change
        changed = things.copy()
        for thing in composition.pasted:
            visible = thing.visible.cpu().numpy()
            rows, columns = _region(thing, visible.shape)
            part = visible[rows, columns]
            if not (part > _SURE).any():
                continue
            straight = things[rows, columns] / np.maximum(alpha[rows, columns], 1e-3)[..., None]
            np.clip(straight, 0, 255, out=straight)
            delta = change(straight, part, photo[rows, columns])
            changed[rows, columns] += self.harmonise * part[..., None] * delta
        return np.clip(changed, 0, alpha[..., None] * 255)


def _region(thing: Pasted, shape: tuple[int, int]) -> tuple[slice, slice]:
    """A thing's rows and columns of the canvas, and some around it."""
    (left, top), (height, width) = thing.corner, thing.size
    y, x = max(2, round(_AROUND * height)), max(2, round(_AROUND * width))
    return (
        slice(max(0, top - y), min(shape[0], top + height + y)),
        slice(max(0, left - x), min(shape[1], left + width + x)),
    )


def _light_change(
    straight: Float[ndarray, "h w 3"], visible: Float[ndarray, "h w"], photo: ndarray
) -> Float[ndarray, "h w 3"]:
    """What must be added so that a thing's mean and contrast in Lab are those of the photo around it."""
    sure = visible > _SURE
    own, there = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (straight, photo))
    mean, wanted = own[sure].mean(0), there.reshape(-1, 3).mean(0)
    contrast = np.clip((there[..., 0].std() + 5) / (own[sure][:, 0].std() + 5), *_CONTRAST)
    lit = own.copy()
    lit[..., 0] = (own[..., 0] - mean[0]) * contrast + wanted[0]
    lit[..., 1:] += _TINT * (wanted[1:] - mean[1:])
    np.clip(lit[..., 0], 0, 100, out=lit[..., 0])
    return cv2.cvtColor(lit, cv2.COLOR_LAB2RGB).clip(0, 1) * 255 - straight


def _poisson_change(
    straight: Float[ndarray, "h w 3"], visible: Float[ndarray, "h w"], photo: ndarray
) -> Float[ndarray, "h w 3"]:
    """What Poisson blending adds to a thing, carried on over its soft rim."""
    sure = _clear_of_sides(visible > _SURE)
    if not sure.any():
        return np.zeros_like(straight)
    source = np.where(sure[..., None], straight, photo).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(sure.astype(np.uint8))
    middle = (x + width // 2, y + height // 2)
    target = np.ascontiguousarray(photo)
    cloned = cv2.seamlessClone(source, target, sure.astype(np.uint8) * 255, middle, cv2.NORMAL_CLONE)
    delta = (cloned.astype(np.float32) - source) * sure[..., None]
    sigma = max(1.0, 0.01 * max(straight.shape[:2]))  # the field is smooth but for the photo's grain at the rim
    weight = cv2.GaussianBlur(sure.astype(np.float32), (0, 0), sigma)
    return cv2.GaussianBlur(delta, (0, 0), sigma) / np.maximum(weight, 1e-3)[..., None]


def _clear_of_sides(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """A mask that keeps off the sides of its picture, where there is nothing to join."""
    mask = mask.copy()
    mask[:2] = mask[-2:] = False
    mask[:, :2] = mask[:, -2:] = False
    return mask


def _shade(ground: Float[ndarray, "h w 3"], thing: Pasted, strength: float) -> None:
    """Darken the ground where a thing stands: its outline, laid flat below it and blurred."""
    (left, top), (height, width) = thing.corner, thing.size
    depth, sigma = max(2, round(_FLAT * width)), max(1.0, 0.035 * width)
    margin = int(3 * sigma) + 1
    outline = thing.alpha[top : top + height, left : left + width].cpu().numpy()
    foot = outline[-max(1, height // 5) :]  # what is high above the ground hardly darkens it
    flat = cv2.resize(foot, (width, depth), interpolation=cv2.INTER_AREA)
    flat = cv2.copyMakeBorder(flat, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    flat = cv2.GaussianBlur(flat, (0, 0), sigmaX=sigma, sigmaY=max(1.0, 0.4 * sigma))
    y, x = top + height - round(depth * (1 - _SINK)) - margin, left - margin
    rows, columns = slice(max(0, y), y + flat.shape[0]), slice(max(0, x), x + flat.shape[1])
    part = ground[rows, columns]
    flat = flat[rows.start - y : rows.start - y + part.shape[0], columns.start - x : columns.start - x + part.shape[1]]
    part *= 1 - strength * flat[..., None]
