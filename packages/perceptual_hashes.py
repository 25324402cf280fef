"""Perceptual hashes: near-duplicates by the signs of an image's lowest frequencies.

Source: https://www.phash.org; ImageHash does the work (BSD-2-Clause). No weights.
"""

import numpy as np
from jaxtyping import UInt64
from PIL import Image as PILImage

from scenewright.layout import Image

#: So many hashes are compared with so many others at once: what stays in a processor's cache.
_BLOCK, _OTHERS = 256, 4096


def phash(image: Image) -> int:
    """The perceptual hash of an image: 64 bits."""
    import imagehash

    bits = imagehash.phash(PILImage.fromarray(image.permute(1, 2, 0).cpu().numpy())).hash
    return int.from_bytes(np.packbits(bits).tobytes())


def first_like(hashes: UInt64[np.ndarray, " n"], distance: int) -> np.ndarray:
    """For every hash the place of the first kept one within ``distance`` of it; its own place if it is kept itself.

    A hash is kept if no kept one before it is so near: chains of small steps do not pull distant images together.

    Returns:
        ``(n,)`` integers.
    """
    twins = np.arange(len(hashes))
    kept = np.zeros(0, np.int64)
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        known = _nearest_first(block, hashes[kept], kept, distance)
        near = np.bitwise_count(block[:, None] ^ block[None]) <= distance
        fresh: list[int] = []
        for i in np.flatnonzero(known < 0).tolist():
            before = [j for j in np.flatnonzero(near[i, :i]) if known[j] < 0 and twins[start + j] == start + j]
            if before:
                twins[start + i] = start + before[0]
            else:
                fresh.append(start + i)
        twins[start : start + len(block)] = np.where(known >= 0, known, twins[start : start + len(block)])
        kept = np.concatenate([kept, np.array(fresh, np.int64)])
    return twins


def _nearest_first(
    block: UInt64[np.ndarray, " b"], others: UInt64[np.ndarray, " k"], places: np.ndarray, distance: int
) -> np.ndarray:
    """For every hash of a block the place of the first of the others that is near, or -1."""
    found = np.full(len(block), -1)
    for start in range(0, len(others), _OTHERS):
        some = others[start : start + _OTHERS]
        open_ = np.flatnonzero(found < 0)
        near = np.bitwise_count(block[open_, None] ^ some[None]) <= distance
        hit = near.any(1)
        found[open_[hit]] = places[start : start + len(some)][near[hit].argmax(1)]
    return found


def nearest_of(hashes: UInt64[np.ndarray, " n"], others: UInt64[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
    """For every hash the place of the nearest of the others, the first of several, and how many bits it is away.

    Returns:
        Two ``(n,)`` of integers; where there are no others, places are -1 and distances 65.
    """
    places, distances = np.full(len(hashes), -1), np.full(len(hashes), 65)
    for start in range(0, len(hashes), _BLOCK):
        block = slice(start, start + _BLOCK)
        for first in range(0, len(others), _OTHERS):
            apart = np.bitwise_count(hashes[block, None] ^ others[None, first : first + _OTHERS])
            nearest = apart.argmin(1)
            bits = apart[np.arange(len(nearest)), nearest].astype(int)
            closer = bits < distances[block]
            places[block] = np.where(closer, first + nearest, places[block])
            distances[block] = np.where(closer, bits, distances[block])
    return places, distances
