"""Cutter: cuts the thing that stands out off a photo.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504, section 3.2, which takes IS-Net (arXiv 2203.03041) for it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

from scenewright.datasets.gen4gen.foreground import foreground_colour, spread
from scenewright.layout import Image, Layout, decode
from scenewright.protocols import MattingSegmenter, ScoringSegmenter, Segmenter

_CONTEXT = 16  # pixels around a cut-out that its background's colour is read from
_OPAQUE = 250  # of 255: what is not lower counts as opaque
_LEAST_TRANSPARENT = 0.01  # of a photo's pixels: an alpha with fewer is a program's habit and no cut-out
_SOFTNESS = 0.7  # pixels: the deviation of the edge that a mask gets
_VISIBLE = 1 / 255

#: How the alphas of several rounds become one.
COMBINATIONS: Mapping[str, Callable[[ndarray, ndarray], ndarray]] = {"product": np.multiply, "minimum": np.minimum}


@dataclass(frozen=True, eq=False)
class Cut:
    """What one round cut off a photo.

    Attributes:
        image: ``(3, h, w)``, straight colour; with ``compat`` multiplied with the alpha of every round.
        alpha: ``(h, w)`` in [0, 1].
        confidence: the lowest of the rounds that counted, in [0, 1].
        box: what of the photo it shows, ``x_min y_min x_max y_max`` as fractions, orientation applied.
        size: height and width of the photo in pixels, orientation applied.
    """

    image: Image
    alpha: Float[Tensor, "_h _w"]
    confidence: float
    box: tuple[float, float, float, float]
    size: tuple[int, int]


class Cutter:
    """Cuts out the one thing that stands out, as straight colour and soft alpha.

    A photo of which at least a hundredth is transparent is a cut-out already: its own alpha is taken and nothing is
    segmented. Any other photo is segmented as a whole; small specks apart from the largest thing are dropped. A later
    round segments what the earlier ones left, over the mean colour of what they took away, and can only take more
    away; one that finds nothing there, or is not sure, changes nothing.

    Args:
        segmenter: a ``MattingSegmenter`` gives soft edges. The masks of others get an edge of about two pixels, and
            their confidence is the IoU that they believe in, or 1.
        rounds: how often it is asked, at least 1.
        combine: the rounds' alphas become one by their "product" or "minimum"; the minimum keeps soft edges as wide as
            they are.
        inset: how far the box that the segmenter gets stays off the photo's border, as a share of its sides. A
            segmenter that reads the background off what is outside its box needs some.
        threshold: of alpha: what is above belongs to the thing, and the picture is cropped to it.
        padding: pixels that the crop leaves around it.
        max_side: larger cut-outs are scaled down to this longer side in pixels, and larger photos to twice as much
            before they are looked at.
        min_confidence: below it, nothing stands out.
        min_area: likewise, for what is above the threshold, as a share of the photo.
        min_speck: what is smaller than this share of the largest thing, and apart from it, is dropped.
        rim: pixels inside the outline that take their colour from further in, as the background is in them too.
        compat: do as the published code: each round segments the one before, multiplied with its alpha and cut off to
            whole numbers; the colour stays multiplied and the alpha is the last round's alone, which gives dark edges.
            Nothing is refused but an empty alpha, nothing dropped, filled or scaled, a photo's own alpha is not used,
            and the crop leaves out the last row and column.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        rounds: int = 1,
        *,
        combine: str = "product",
        inset: float = 0.05,
        threshold: float = 70 / 255,
        padding: int = 1,
        max_side: int = 2048,
        min_confidence: float = 0.5,
        min_area: float = 0.001,
        min_speck: float = 0.01,
        rim: float | int = 2.0,
        compat: bool = False,
    ) -> None:
        self.segmenter, self.rounds, self.combine, self.inset = segmenter, rounds, combine, inset
        self.threshold, self.padding, self.max_side = threshold, padding, max_side
        self.min_confidence, self.min_area, self.min_speck = min_confidence, min_area, min_speck
        self.rim, self.compat = rim, compat

    def cut(self, photos: Sequence[bytes]) -> list[list[Cut] | ValueError]:
        """What each round cut off each photo, the last one being the result; or why there is none.

        Args:
            photos: files of any kind that Pillow reads; orientation is applied, of an animation the first frame taken.

        Raises:
            ValueError: a setting is out of range.
        """
        self._check()
        results: dict[int, list[Cut] | ValueError] = {}
        pending: dict[int, Image] = {}
        sizes: dict[int, tuple[int, int]] = {}
        for i, data in enumerate(photos):
            try:
                rgba = None if self.compat else _own_alpha(data)
                if rgba is not None:
                    results[i] = [cut_by_own_alpha(rgba, self.padding, self.max_side)]
                else:
                    image = decode(data)
                    pending[i], sizes[i] = self._shrunk(image), (image.shape[1], image.shape[2])
            except (OSError, ValueError) as error:
                results[i] = ValueError(str(error))
        if pending:
            rounds = self._rounds_compat if self.compat else self._rounds
            for i, found in zip(pending, rounds(list(pending.values())), strict=True):
                # a large photo was looked at in another size
                results[i] = [replace(x, size=sizes[i]) for x in found] if isinstance(found, list) else found
        return [results[i] for i in range(len(photos))]

    def _check(self) -> None:
        if self.rounds < 1 or self.max_side < 1 or self.padding < 0:
            raise ValueError(
                "rounds and max_side must be at least 1 and padding 0, "
                f"got {self.rounds}, {self.max_side} and {self.padding}"
            )
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine must be one of {', '.join(COMBINATIONS)}, got {self.combine!r}")
        if not (0 <= self.inset < 0.5 and 0 <= self.threshold < 1):
            raise ValueError(
                f"inset must be in [0, 0.5) and threshold in [0, 1), got {self.inset} and {self.threshold}"
            )

    def _shrunk(self, image: Image) -> Image:
        scale = 2 * self.max_side / max(image.shape[1:])
        if self.compat or scale >= 1:
            return image
        size = (max(1, round(image.shape[2] * scale)), max(1, round(image.shape[1] * scale)))
        return _tensor(cv2.resize(_array(image), size, interpolation=cv2.INTER_AREA))

    def _rounds(self, images: list[Image]) -> list[list[Cut] | ValueError]:
        results: list[list[Cut] | ValueError] = [[] for _ in images]
        kept: dict[int, tuple[ndarray, float]] = {}
        for turn in range(self.rounds):
            earlier = {i: found for i, found in enumerate(results) if isinstance(found, list)}
            inputs = [images[i] if turn == 0 else _over_its_ground(images[i], kept[i][0]) for i in earlier]
            for i, (alpha, confidence) in zip(earlier, self._segmented(inputs), strict=True):
                try:
                    if turn == 0:
                        kept[i] = self._thing(alpha, confidence), confidence
                    else:
                        kept[i] = self._refined(kept[i], alpha, confidence)
                    results[i] = [*earlier[i], self._finished(images[i], *kept[i])]
                except ValueError as error:
                    results[i] = error
        return results

    def _refined(
        self, before: tuple[ndarray, float], alpha: Float[ndarray, "h w"], confidence: float
    ) -> tuple[ndarray, float]:
        """The alpha after another round, and the confidence."""
        try:
            both = COMBINATIONS[self.combine](before[0], self._thing(alpha, confidence))
            return self._thing(both, confidence), min(before[1], confidence)
        except ValueError:
            return before

    def _segmented(self, images: list[Image]) -> list[tuple[Float[ndarray, "_h _w"], float]]:
        """Alpha and confidence of each picture as a whole."""
        if not images:
            return []
        device = "cuda" if torch.cuda.is_available() else "cpu"
        moved = [image.to(device) for image in images]
        box = torch.tensor([[self.inset, self.inset, 1 - self.inset, 1 - self.inset]], device=device)
        layouts = [Layout(box, ["object"]) for _ in moved]
        if isinstance(self.segmenter, MattingSegmenter):
            mattes = self.segmenter.segment_alpha(moved, layouts)
            found = [(matte.float().cpu().numpy(), float(sure)) for ((matte, sure),) in mattes]
        else:
            if isinstance(self.segmenter, ScoringSegmenter):
                scored = self.segmenter.segment_scored(moved, layouts)
            else:
                scored = [[(run, 1.0)] for (run,) in self.segmenter.segment(moved, layouts)]
            found = [(_softened(run.decode().numpy()), float(sure)) for ((run, sure),) in scored]
        for image, (alpha, _) in zip(images, found, strict=True):
            if alpha.shape != tuple(image.shape[1:]):
                raise ValueError(f"the alpha of a {tuple(image.shape[1:])} picture has the shape {alpha.shape}")
        return [(np.nan_to_num(alpha).clip(0, 1), min(max(sure, 0.0), 1.0)) for alpha, sure in found]

    def _thing(self, alpha: Float[ndarray, "h w"], confidence: float) -> Float[ndarray, "h w"]:
        """The alpha without specks.

        Raises:
            ValueError: nothing stands out.
        """
        if confidence < self.min_confidence:
            raise ValueError(f"nothing stands out: confidence {confidence:.2f} is below {self.min_confidence:g}")
        thing = alpha > self.threshold
        if thing.mean() <= self.min_area:
            raise ValueError(
                f"nothing stands out: {100 * thing.mean():.3g} % of the photo are above the threshold, "
                f"no more than {100 * self.min_area:g} %"
            )
        return np.where(_without_specks(thing, self.min_speck), alpha, 0).astype(np.float32)

    def _finished(self, image: Image, alpha: Float[ndarray, "h w"], confidence: float) -> Cut:
        """The crop, scaled, with straight colour."""
        rows, columns = _extent(alpha > self.threshold, self.padding)
        scale = min(1.0, self.max_side / max(rows[1] - rows[0], columns[1] - columns[0]))
        context = math.ceil(_CONTEXT / scale)  # the background's colour is read around the crop too
        top, left = max(0, rows[0] - context), max(0, columns[0] - context)
        view = (slice(top, rows[1] + context), slice(left, columns[1] + context))
        pixels, small = _scaled(_array(image)[view].astype(np.float32), scale), _scaled(alpha[view], scale)
        inner = (_within(rows, top, scale), _within(columns, left, scale))
        colour = foreground_colour(pixels, small, self.rim)[inner].round()
        return _cut(colour, small[inner], confidence, rows, columns, alpha.shape)

    def _rounds_compat(self, images: list[Image]) -> list[list[Cut] | ValueError]:
        """Colours and alphas of all rounds, as the published code has them."""
        results: list[list[Cut] | ValueError] = [[] for _ in images]
        colours, sure = list(images), [1.0] * len(images)
        for _ in range(self.rounds):
            for i, (alpha, confidence) in enumerate(self._segmented(colours)):
                pixels = (alpha[..., None] * _array(colours[i])).astype(np.uint8)
                colours[i], sure[i] = _tensor(pixels), min(sure[i], confidence)
                found = results[i]
                if isinstance(found, ValueError):
                    continue
                try:
                    results[i] = [*found, self._cropped_compat(pixels, np.floor(255 * alpha) / 255, sure[i])]
                except ValueError as error:
                    results[i] = error
        return results

    def _cropped_compat(self, pixels: UInt8[ndarray, "h w 3"], alpha: Float[ndarray, "h w"], confidence: float) -> Cut:
        (top, bottom), (left, right) = _extent(alpha > self.threshold, 0)
        rows, columns = (top, bottom - 1), (left, right - 1)  # as where the last row and column are, not behind them
        view = (slice(*rows), slice(*columns))
        if not alpha[view].size:
            raise ValueError("nothing stands out but a line")
        return _cut(pixels[view], alpha[view], confidence, rows, columns, alpha.shape)


def cut_by_own_alpha(rgba: UInt8[ndarray, "h w 4"], padding: int = 1, max_side: int = 2048) -> Cut:
    """A picture with an alpha of its own, cropped to what can be seen of it, with sound colour where it is faint.

    Raises:
        ValueError: nothing of it can be seen.
    """
    alpha = rgba[..., 3].astype(np.float32) / 255
    rows, columns = _extent(alpha > _VISIBLE, padding)
    view = (slice(*rows), slice(*columns))
    scale = min(1.0, max_side / max(rows[1] - rows[0], columns[1] - columns[0]))
    # scaled as what is seen: the colour of a transparent pixel means nothing
    seen, small = _scaled(rgba[view][..., :3] * alpha[view][..., None], scale), _scaled(alpha[view], scale)
    colour = seen / np.maximum(small, _VISIBLE / 2)[..., None]
    known = np.minimum(1, small / (8 * _VISIBLE))  # of fainter ones eight bits hold no colour
    return _cut(spread(colour, known).round(), small, 1.0, rows, columns, alpha.shape)


def _own_alpha(data: bytes) -> UInt8[ndarray, "h w 4"] | None:
    """The pixels of a picture that is partly transparent; None for any other, and for what cannot be read."""
    try:
        with PILImage.open(io.BytesIO(data)) as opened:
            if opened.mode.startswith("I"):
                return None
            if opened.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in opened.info:
                return None
    except (OSError, ValueError, SyntaxError, EOFError, PILImage.DecompressionBombError):
        return None  # decoding says why
    decode(data)  # refuses what is too large or broken
    with PILImage.open(io.BytesIO(data)) as opened:
        rgba = np.array(ImageOps.exif_transpose(opened).convert("RGBA"))
    return rgba if (rgba[..., 3] < _OPAQUE).mean() >= _LEAST_TRANSPARENT else None


def _over_its_ground(image: Image, alpha: Float[ndarray, "h w"]) -> Image:
    """What alpha leaves, over the mean colour of what it takes away."""
    pixels, share = _array(image).astype(np.float32), alpha[..., None]
    ground = ((1 - share) * pixels).sum((0, 1)) / max(float((1 - alpha).sum()), 1e-6)
    return _tensor((share * pixels + (1 - share) * ground).round().clip(0, 255))


def _softened(mask: Bool[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), _SOFTNESS)


def _without_specks(thing: Bool[ndarray, "h w"], least: float) -> Bool[ndarray, "h w"]:
    """Where no dropped piece is nearer than a kept one: soft edges go with the piece they belong to."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(thing.astype(np.uint8), connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    kept = sizes >= least * sizes.max()
    if count <= 2 or kept.all():
        return np.ones(thing.shape, bool)
    dropped = np.isin(pieces, 1 + np.flatnonzero(~kept))
    apart = [cv2.distanceTransform((~x).astype(np.uint8), cv2.DIST_L2, 5) for x in (dropped, thing & ~dropped)]
    return apart[1] <= apart[0]


def _extent(thing: Bool[ndarray, "h w"], padding: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and behind-the-last row, and column, of what is there and a border.

    Raises:
        ValueError: nothing is there.
    """
    if not thing.any():
        raise ValueError("nothing stands out: nothing can be seen of it")
    rows, columns = np.flatnonzero(thing.any(1)), np.flatnonzero(thing.any(0))
    return _padded(rows, padding, thing.shape[0]), _padded(columns, padding, thing.shape[1])


def _padded(places: ndarray, padding: int, limit: int) -> tuple[int, int]:
    return max(0, int(places[0]) - padding), min(limit, int(places[-1]) + 1 + padding)


def _within(span: tuple[int, int], start: int, scale: float) -> slice:
    """A span of pixels in a view that begins at ``start`` and is scaled."""
    first = int((span[0] - start) * scale)
    return slice(first, first + max(1, round((span[1] - span[0]) * scale)))


def _scaled(plane: ndarray, scale: float) -> ndarray:
    if scale >= 1:
        return plane
    size = tuple(max(1, round(n * scale)) for n in plane.shape[1::-1])
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def _cut(
    colour: ndarray,
    alpha: Float[ndarray, "h w"],
    confidence: float,
    rows: tuple[int, int],
    columns: tuple[int, int],
    size: tuple[int, ...],
) -> Cut:
    height, width = size
    box = (columns[0] / width, rows[0] / height, columns[1] / width, rows[1] / height)
    matte = torch.from_numpy(np.ascontiguousarray(alpha, np.float32)).clamp(0, 1)
    return Cut(_tensor(colour), matte, confidence, box, (height, width))


def _array(image: Image) -> UInt8[ndarray, "h w 3"]:
    return image.permute(1, 2, 0).cpu().numpy()


def _tensor(pixels: ndarray) -> Image:
    return torch.from_numpy(np.ascontiguousarray(pixels.astype(np.uint8).transpose(2, 0, 1)))
