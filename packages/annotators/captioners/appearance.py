"""AppearanceCaptioner: says how each region looks and where it is, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from scenewright.annotators.appearance import Appearance, describe, words
from scenewright.annotators.appearance.scene import Scene, describe_scene
from scenewright.layout import Image, Layout

_SIDE = 128  # longest side at which regions are compared with each other
_NEAR = 0.03  # of the image, between boxes that are next to each other
_INTRUDES = 0.08  # of a region's convex outline that another fills, where it hides it
_TOUCHES = 0.12  # of a region's outline along which the other meets it


class AppearanceCaptioner:
    """Describes each region by size, tone, colours, shape, pattern, a neighbour and its place.

    "a large red star with white stripes, partly behind a blue ring, at the lower left". Names a region by its label
    where that is a name ("dog"), by its shape where it has one of twelve, else "region": it knows no things itself.
    Colours are those in the picture, whatever the light. What lies behind what is guessed from outlines: a region
    whose convex outline another one fills and touches is taken to be hidden by it. Without masks the whole box is
    described. The region that is the image (``Layout.whole()``) gets a sentence on colours, light and texture.

    Args:
        relations: say how a region stands to a neighbour.
    """

    def __init__(self, relations: bool = True) -> None:
        self.relations = relations

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions.

        Raises:
            ValueError: as many layouts as images are needed; a layout's mask has another size than its image.
        """
        return [self._captions(image, layout) for image, layout in zip(images, layouts, strict=True)]

    def _captions(self, image: Image, layout: Layout) -> list[str]:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        regions = [_look(pixels, layout, index) for index in range(len(layout))]
        captions = []
        for index, region in enumerate(regions):
            if region.is_image:
                captions.append(_sentence(describe_scene(pixels)))
                continue
            relation = _relate(regions, index) if self.relations else ""
            captions.append(", ".join(filter(None, [region.brief, relation, words.place(region.box)])))
        return captions


@dataclass(frozen=True, eq=False)
class _Region:
    """A region as it is compared with others.

    Attributes:
        box: in fractions, within the image.
        small: its mask on a small copy of the image; None where only the box is known.
        name: colour and noun, for the neighbours' captions.
        brief: size, tone, colours, noun and pattern.
        shape: that it was seen to have, or nothing.
        is_image: it is the image itself.
    """

    box: tuple[float, float, float, float]
    small: Bool[ndarray, "h w"] | None
    name: str
    brief: str
    shape: str
    is_image: bool


def _look(pixels: ndarray, layout: Layout, index: int) -> _Region:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in layout.boxes[index].cpu().nan_to_num().tolist())
    mask = None if layout.masks is None else layout.masks[index]
    if mask is not None and tuple(mask.size) != (height, width):
        raise ValueError(f"masks must have the image's size {(height, width)}, got {tuple(mask.size)}")
    if mask is not None and mask.area:
        inside, small = mask.decode().numpy(), None
        scale = min(1.0, _SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        seen = describe(pixels, inside)
    else:
        left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
        crop = pixels[top : max(top + 1, round(y1 * height)), left : max(left + 1, round(x1 * width))]
        # a filled box has no shape of its own, and its colours are those of what is in it
        seen, small = _without_shape(describe(crop, np.ones(crop.shape[:2], bool))), None
    noun = words.noun(layout.labels[index], seen.shape)
    colours = [name for name, _ in seen.colours]
    phrase = words.colour_phrase(colours, seen.tones, seen.pattern, noun)
    return _Region(
        box=(x0, y0, x1, y1),
        small=small,
        name=" ".join([*colours[:1], noun]),
        brief=words.with_article(f"{words.size_word((x0, y0, x1, y1))} {phrase}"),
        shape=seen.shape,
        is_image=layout.labels[index] == "image" and (x0, y0, x1, y1) == (0.0, 0.0, 1.0, 1.0),
    )


def _without_shape(seen: Appearance) -> Appearance:
    return Appearance(seen.colours, seen.pattern, "", seen.tones)


def _relate(regions: Sequence[_Region], index: int) -> str:
    """The relation that says most: hidden by, hiding, inside a ring, beside; or nothing."""
    me = regions[index]
    others = [r for i, r in enumerate(regions) if i != index and not r.is_image]
    behind = [(_hides(other, me), other) for other in others]
    before = [(_hides(me, other), other) for other in others]
    for kind, pairs in (("partly behind", behind), ("in front of", before)):
        amount, other = max(pairs, key=lambda pair: pair[0], default=(0.0, me))
        if amount > 0:
            return f"{kind} {words.with_article(other.name)}"
    for other in others:
        if other.shape == "ring" and _contains(other.box, me.box):
            return f"inside {words.with_article(other.name)}"
    apart = [(_gap(me.box, other.box), other) for other in others if not _overlap(me.box, other.box)]
    gap, other = min(apart, key=lambda pair: pair[0], default=(1.0, me))
    return f"next to {words.with_article(other.name)}" if gap < _NEAR else ""


def _hides(front: _Region, back: _Region) -> float:
    """The share of the back region's convex outline that the front one fills; 0 where it rather lies beside it."""
    if front.small is None or back.small is None or not _overlap(front.box, back.box):
        return 0.0
    hull, other_hull = _hull(back.small), _hull(front.small)
    share = float((hull & front.small).sum() / max(1, hull.sum()))
    returned = float((other_hull & back.small).sum() / max(1, other_hull.sum()))
    if share < _INTRUDES or returned > 0.5 * share:
        return 0.0
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    rim = cv2.dilate(back.small.astype(np.uint8), cross).astype(bool) & ~back.small
    near = cv2.dilate(front.small.astype(np.uint8), cross).astype(bool)
    return share if (rim & near).sum() >= _TOUCHES * rim.sum() else 0.0


def _hull(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The convex outline of a mask, filled."""
    y, x = np.nonzero(mask)
    if not len(x):
        return mask
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(np.stack([x, y], 1).astype(np.int32)), 1)
    return filled.astype(bool)


def _gap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3], 0.0)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _contains(outer: Sequence[float], inner: Sequence[float]) -> bool:
    return all(o < i for o, i in zip(outer[:2], inner[:2], strict=True)) and all(
        o > i for o, i in zip(outer[2:], inner[2:], strict=True)
    )


def _sentence(scene: Scene) -> str:
    """ "a bright, high-contrast image, mostly blue and white, with a darker lower half"."""
    adjectives = ", ".join(filter(None, [scene.light, scene.contrast, scene.palette, scene.texture]))
    parts = [words.with_article(f"{adjectives} image".strip())]
    if scene.palette != "black-and-white":
        parts.append(f"mostly {words.join(scene.colours)}")
    if scene.halves:
        parts.append(f"with a darker {scene.halves}")
    return ", ".join(parts)
