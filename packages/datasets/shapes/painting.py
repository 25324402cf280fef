"""Pixels: backgrounds, patterns, shadows, and one object painted over the other."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from scenewright.datasets.shapes.colours import RGB
from scenewright.datasets.shapes.scene import Background, Look, Scene, Thing
from scenewright.datasets.shapes.stamp import Stamp, cover

Picture = UInt8[np.ndarray, "height width 3"]

#: A weight per pixel in [0, 1].
Share = Float32[np.ndarray, "height width"]

_BYTE = np.float32(1 / 255)
_RAMP = np.arange(256, dtype=np.float32)[:, None] * _BYTE


def paint(scene: Scene) -> Picture:
    """The picture of a scene."""
    canvas = paint_background(scene.background, *scene.owner.shape)
    for thing in scene.things:
        if thing.look.shadow:
            _cast_shadow(canvas, thing)
        _blend(canvas, thing.stamp, _fill(thing), thing.stamp.coverage * _BYTE)
    return canvas


def paint_background(ground: Background, height: int, width: int) -> Picture:
    """What is seen where there is no object."""
    if ground.kind == "plain":
        return _plain(ground.first.rgb, height, width)
    if ground.kind == "cloudy":
        return _mix(ground.first.rgb, ground.second.rgb, _clouds(ground.seed, height, width))
    along, _ = _axes(ground.angle, height, width)
    reach = float(np.abs(along).max())
    if ground.kind == "striped":
        share = 0.5 + 0.25 * ground.period - _to_middle(along, ground.period)
    elif ground.kind == "two-tone":
        share = 0.5 + along - ground.place * reach
    else:
        share = 0.5 + 0.5 * along / reach
    return _mix(ground.first.rgb, ground.second.rgb, share)


def pattern_share(look: Look, height: int, width: int) -> Share:
    """How much of the second colour each pixel of an object's crop has; edges are one pixel soft."""
    along, across = _axes(look.angle, height, width)
    period = look.period
    if look.pattern == "striped":
        share = 0.5 + 0.2 * period - _to_middle(along, period)
    elif look.pattern == "dotted":
        share = 0.5 + 0.33 * period - np.hypot(_to_middle(along, period), _to_middle(across, period))
    elif look.pattern == "checkered":
        waves = [np.clip(_to_middle(axis, 2 * period) - 0.5 * period, -0.5, 0.5) for axis in (along, across)]
        share = 0.5 + 2 * waves[0] * waves[1]
    else:
        share = 0.45 + 0.65 * along / np.abs(along).max()
    return np.clip(share, 0, 1)


def _fill(thing: Thing) -> Picture:
    """The paint of an object's crop, outline included."""
    look, (height, width) = thing.look, thing.stamp.coverage.shape
    if look.second is None:
        fill = _plain(look.colour.rgb, height, width)
    else:
        fill = _mix(look.colour.rgb, look.second.rgb, pattern_share(look, height, width))
    if look.edge is None:
        return fill
    line = cover(thing.stamp.contours, height, width, line=max(1.8, 0.1 * thing.size)) * _BYTE
    return cv2.blendLinear(_plain(look.edge, height, width), fill, line, 1 - line)


def _cast_shadow(canvas: Picture, thing: Thing) -> None:
    """Darken what lies to the lower right of an object."""
    offset = max(1, round(0.05 * thing.size))
    room = 2 * offset
    soft = cv2.copyMakeBorder(thing.stamp.coverage, room, room, room, room, cv2.BORDER_CONSTANT)
    soft = cv2.GaussianBlur(soft, (0, 0), 0.7 * offset)
    shadow = Stamp(thing.stamp.top - offset, thing.stamp.left - offset, soft, [])
    _blend(canvas, shadow, _plain((0, 0, 0), *soft.shape), soft * (np.float32(0.45) * _BYTE))


def _blend(
    canvas: Picture, stamp: Stamp, fill: UInt8[np.ndarray, "_h _w 3"], share: Float32[np.ndarray, "_h _w"]
) -> None:
    region, own = stamp.crop(*canvas.shape[:2])
    weight = np.ascontiguousarray(share[own])
    above, below = np.ascontiguousarray(fill[own]), np.ascontiguousarray(canvas[region])
    canvas[region] = cv2.blendLinear(above, below, weight, 1 - weight)


def _plain(rgb: RGB, height: int, width: int) -> Picture:
    return np.full((height, width, 3), rgb, np.uint8)


def _mix(first: RGB, second: RGB, share: Share) -> Picture:
    """From the first colour to the second, in 256 steps."""
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    steps = (start + _RAMP * (end - start) + 0.5).astype(np.uint8)
    return np.take(steps, (255 * np.clip(share, 0, 1) + 0.5).astype(np.uint8), axis=0)


def _axes(degrees: float, height: int, width: int) -> tuple[Share, Share]:
    """Coordinates from the middle of a crop, in pixels: along a direction, and across it."""
    angle = np.deg2rad(degrees)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = np.arange(0.5 - width / 2, width / 2, dtype=np.float32)
    y = np.arange(0.5 - height / 2, height / 2, dtype=np.float32)[:, None]
    return x * cos + y * sin, y * cos - x * sin


def _to_middle(position: Float[np.ndarray, "*_"], period: float) -> Float[np.ndarray, "*_"]:
    """Distance to the middle of the nearest period, in [0, period / 2]; the origin is in the middle of one."""
    return np.abs(position - period * np.rint(position / period))


def _clouds(seed: int, height: int, width: int) -> Share:
    """Smooth noise of four octaves."""
    rng, short = np.random.default_rng(seed), min(height, width)
    share = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.5), (6, 0.28), (12, 0.14), (24, 0.08)):
        noise = rng.random((round(cells * height / short), round(cells * width / short)), np.float32)
        share += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip((share - 0.25) * 2, 0, 1)
