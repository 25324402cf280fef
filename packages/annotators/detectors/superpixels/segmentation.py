"""Over-segmentation: an image becomes a few hundred pieces, each with the statistics that grouping adds up."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from skimage.segmentation import felzenszwalb

#: Levels per colour channel and per gradient channel in the histograms of a piece.
COLOUR_LEVELS, EDGE_LEVELS, ORIENTATIONS = 12, 3, 4

#: In which the outline of a piece is measured.
DIRECTIONS = 16

#: More pieces than this are too many.
MOST_PIECES = 400

#: The largest magnitude of a colour edge between neighbouring pixels that still counts, in CIELAB units.
EDGE_CEILING = 40.0


@dataclass(frozen=True, eq=False)
class Pieces:
    """The ``n`` superpixels of an image and what grouping needs to know of each.

    All are sums over pixels or pairs of pixels, so those of a union are the sums of its pieces'.

    Attributes:
        pieces: the piece of every pixel, 0 … n − 1.
        areas: pixels of each.
        supports: how far each reaches in 16 directions, from the image's corner, in pixels. Those of a union are the
            maxima; directions 0, 4, 8, 12 are the sides of its box.
        colours: CIELAB histograms, three channels one after the other, counted in pixels.
        textures: histograms of gradient orientation and strength, counted in pixels.
        means: sum of the CIELAB colour over the pixels.
        lengths: pairs of touching pixels between two pieces.
        strengths: sum over these pairs of the edge strength in [0, 1].
        border: pixel sides on the border of the image.
    """

    pieces: Int[np.ndarray, "h w"]
    areas: Float[np.ndarray, " n"]
    supports: Float[np.ndarray, "n 16"]
    colours: Float[np.ndarray, "n c"]
    textures: Float[np.ndarray, "n t"]
    means: Float[np.ndarray, "n 3"]
    lengths: Float[np.ndarray, "n n"]
    strengths: Float[np.ndarray, "n n"]
    border: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.areas)


def working_copy(pixels: UInt8[np.ndarray, "_h _w 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scale an image so that it has about ``side``² pixels, whatever its proportions; small ones at most double."""
    height, width = pixels.shape[:2]
    scale = min(2.0, side / (height * width) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def segment(pixels: UInt8[np.ndarray, "h w 3"], scale: float, min_size: int) -> Pieces:
    """Cut an image into superpixels.

    Args:
        pixels: RGB, 0..255.
        scale: preference for large pieces, of Felzenszwalb's method, for channels in [0, 1].
        min_size: of a piece, in pixels.

    Source: Felzenszwalb and Huttenlocher 2004; scikit-image does the work.
    """
    smooth = cv2.bilateralFilter(pixels, 5, 25, 3)
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    pieces = felzenszwalb(lab / 100, scale=scale, sigma=0.8, min_size=min_size)
    while pieces.max() >= MOST_PIECES:  # noise, foliage: grouping takes time with the square of their number
        min_size *= 2
        pieces = felzenszwalb(lab / 100, scale=scale, sigma=0.8, min_size=min_size)
    return measure(pieces, lab)


def measure(pieces: Int[np.ndarray, "h w"], lab: Float32[np.ndarray, "h w 3"]) -> Pieces:
    """Add up the statistics of each piece."""
    count = int(pieces.max()) + 1
    flat = pieces.ravel()
    dx, dy = _gradients(lab)
    steepest = np.maximum.reduce([dx[..., k] ** 2 + dy[..., k] ** 2 for k in range(3)])
    edges = np.minimum(np.sqrt(steepest) / EDGE_CEILING, 1)
    lengths, strengths = _boundaries(pieces, edges, count)
    return Pieces(
        pieces=pieces,
        areas=np.bincount(flat, minlength=count).astype(np.float32),
        supports=_supports(pieces, count),
        colours=_colours(flat, lab.reshape(-1, 3), count),
        textures=_textures(flat, dx[..., 0].ravel(), dy[..., 0].ravel(), count),
        means=np.stack([np.bincount(flat, lab[..., k].ravel(), count) for k in range(3)], 1).astype(np.float32),
        lengths=lengths,
        strengths=strengths,
        border=_border(pieces, count),
    )


def _gradients(lab):
    # Scharr's weights add up to 16 on either side of two pixels: per pixel, a 32nd
    return cv2.Scharr(lab, cv2.CV_32F, 1, 0) / 16, cv2.Scharr(lab, cv2.CV_32F, 0, 1) / 16


def _boundaries(pieces, edges, count):
    lengths = np.zeros(count * count)
    strengths = np.zeros(count * count)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = pieces[first], pieces[second]
        differ = a != b
        index = a[differ] * count + b[differ]
        lengths += np.bincount(index, minlength=count * count)
        strengths += np.bincount(index, np.maximum(edges[first], edges[second])[differ], count * count)
    lengths, strengths = lengths.reshape(count, count), strengths.reshape(count, count)
    return (lengths + lengths.T).astype(np.float32), (strengths + strengths.T).astype(np.float32)


def _supports(pieces, count):
    # the pixel farthest in any direction has a side on another piece, or on the border
    inner = np.zeros(pieces.shape, bool)
    middle = pieces[1:-1, 1:-1]
    inner[1:-1, 1:-1] = (middle == pieces[:-2, 1:-1]) & (middle == pieces[2:, 1:-1])
    inner[1:-1, 1:-1] &= (middle == pieces[1:-1, :-2]) & (middle == pieces[1:-1, 2:])
    rows, columns = np.nonzero(~inner)
    rim = pieces[rows, columns]
    order = np.argsort(rim, kind="stable")
    rows, columns = rows[order].astype(np.float32), columns[order].astype(np.float32)
    starts = np.searchsorted(rim[order], np.arange(count))
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    supports = np.empty((count, DIRECTIONS), np.float32)
    for k, (x, y) in enumerate(zip(np.cos(angles), np.sin(angles), strict=True)):
        # a pixel is a square: its farthest corner lies half of |x| + |y| beyond its middle
        reach = np.float32(x) * columns + np.float32(y) * rows
        supports[:, k] = np.maximum.reduceat(reach, starts) + (x + y + abs(x) + abs(y)) / 2
    return supports


def _colours(flat, lab, count):
    spread = np.stack([lab[:, 0] / 100, (lab[:, 1] + 80) / 160, (lab[:, 2] + 80) / 160], 1)
    place = np.clip(spread, 0, 1) * (COLOUR_LEVELS - 1)
    low = np.minimum(place.astype(int), COLOUR_LEVELS - 2)
    rest = place - low
    out = np.zeros(count * 3 * COLOUR_LEVELS)
    for k in range(3):
        # shared between two levels, so that a slow gradient does not jump
        index = (flat * 3 + k) * COLOUR_LEVELS + low[:, k]
        out += np.bincount(index, 1 - rest[:, k], len(out))
        out += np.bincount(index + 1, rest[:, k], len(out))
    return out.reshape(count, -1).astype(np.float32)


def _textures(flat, dx, dy, count):
    angle = (np.arctan2(dy, dx) + np.pi) * (ORIENTATIONS / np.pi) % ORIENTATIONS
    orientation = np.minimum(angle.astype(int), ORIENTATIONS - 1)
    level = np.digitize(dx**2 + dy**2, (1.5**2, 6**2, 18**2))
    index = np.where(level == 0, 0, 1 + (level - 1) * ORIENTATIONS + orientation)
    bins = 1 + EDGE_LEVELS * ORIENTATIONS
    return np.bincount(flat * bins + index, minlength=count * bins).reshape(count, bins).astype(np.float32)


def _border(pieces, count):
    sides = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    return np.bincount(sides, minlength=count).astype(np.float32)
