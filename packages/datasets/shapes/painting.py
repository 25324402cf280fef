"""Pixels: backgrounds, patterns, shadows, and one object painted over the other."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from scenewright.datasets.shapes.scene import Background, Look, Scene, Thing
from scenewright.datasets.shapes.stamp import Stamp, cover


def paint(scene: Scene) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a scene."""
    height, width = scene.owner.shape
    canvas = _paint_background(scene.background, height, width)
    for thing in scene.things:
        if thing.look.shadow:
            _cast_shadow(canvas, thing)
        _paint_thing(canvas, thing)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _mix(first: Sequence[int], second: Sequence[int], share: np.ndarray) -> np.ndarray:
    """From the first colour to the second by a share per pixel."""
    start = np.array(first, np.float32)
    return start + share[..., None] * (np.array(second, np.float32) - start)


def _paint_thing(canvas: np.ndarray, thing: Thing) -> None:
    look, stamp = thing.look, thing.stamp
    height, width = stamp.coverage.shape
    if look.second is None:
        fill = np.broadcast_to(np.array(look.colour.rgb, np.float32), (height, width, 3))
    else:
        fill = _mix(look.colour.rgb, look.second.rgb, pattern_share(look, thing.size, height, width))
    if look.edge is not None:
        edge = cover(stamp.contours, height, width, line=max(1.6, 0.1 * thing.size))
        fill = fill + (edge / np.float32(255))[..., None] * (np.array(look.edge, np.float32) - fill)
    region, own = stamp.crop(canvas.shape[:2])
    below = canvas[region]
    below += (stamp.coverage[own] / np.float32(255))[..., None] * (fill[own] - below)


def pattern_share(look: Look, size: float, height: int, width: int) -> Float[np.ndarray, "height width"]:
    """How much of the second colour each pixel of an object's crop has, in [0, 1]; edges are one pixel soft."""
    angle = np.deg2rad(look.angle)
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2
    x = np.arange(width, dtype=np.float32)[None, :] + 0.5 - width / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if look.pattern == "striped":
        return np.clip(0.5 + 0.2 * look.period - _to_middle(along, look.period), 0, 1)
    if look.pattern == "dotted":
        apart = np.hypot(_to_middle(along, look.period), _to_middle(across, look.period))
        return np.clip(0.5 + 0.33 * look.period - apart, 0, 1)
    if look.pattern == "checkered":
        columns, rows = (np.clip(_to_middle(a, 2 * look.period) - look.period / 2, -0.5, 0.5) for a in (along, across))
        return 0.5 + 2 * columns * rows
    reach = np.abs(along).max()
    return np.clip(0.5 + 0.6 * along / reach, 0, 1) ** 1.2


def _to_middle(position: np.ndarray, period: float) -> np.ndarray:
    """Distance to the middle of the nearest period, in [0, period / 2]; the origin is in the middle of one."""
    return np.abs(position - period * np.rint(position / period))


def _cast_shadow(canvas: np.ndarray, thing: Thing) -> None:
    """Darken what lies to the lower right of an object."""
    offset = max(1, round(0.05 * thing.size))
    room = np.pad(thing.stamp.coverage, 2 * offset)
    soft = cv2.GaussianBlur(room, (0, 0), 0.7 * offset)
    shadow = Stamp(thing.stamp.top - offset, thing.stamp.left - offset, soft, [])
    region, own = shadow.crop(canvas.shape[:2])
    canvas[region] *= (1 - soft[own] * np.float32(0.45 / 255))[..., None]


def _paint_background(ground: Background, height: int, width: int) -> np.ndarray:
    """``(height, width, 3)``, float32, 0..255."""
    if ground.kind == "plain":
        return np.full((height, width, 3), ground.first.rgb, np.float32)
    if ground.kind == "cloudy":
        return _mix(ground.first.rgb, ground.second.rgb, _clouds(ground.seed, height, width))
    angle = np.deg2rad(ground.angle)
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2
    x = np.arange(width, dtype=np.float32)[None, :] + 0.5 - width / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    reach = float(np.abs(along).max())
    if ground.kind == "striped":
        share = np.clip(0.5 + 0.25 * ground.period - _to_middle(along, ground.period), 0, 1)
    elif ground.kind == "two-tone":
        share = np.clip(along - (2 * ground.place - 1) * reach + 0.5, 0, 1)
    else:
        share = 0.5 + 0.5 * along / reach
    return _mix(ground.first.rgb, ground.second.rgb, share)


def _clouds(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise of three octaves in [0, 1]."""
    rng = np.random.default_rng(seed)
    share = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.55), (6, 0.3), (12, 0.15)):
        noise = rng.random((cells + 1, cells + 1), np.float32)
        share += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip((share - 0.3) / 0.4, 0, 1)
