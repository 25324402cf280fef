"""Label Studio's run lengths for brush strokes.

A stream of bits, most significant first. A header: 32 bits for how many values follow, 5 for the bits of a
value less one, four times 4 for the widths of length fields less one. Then runs: one bit that says whether one
value is repeated or several are listed, 2 bits that choose the width, the length less one, the value or
values. The values are the bytes of an RGBA picture, row by row; the mask is where it is opaque.

Source: github.com/thi-ng/umbrella, packages/rle-pack (Apache-2.0), which Label Studio's front end uses;
written from its description.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from scenewright.layout import RunLengths

_WIDTHS = (3, 4, 8, 16)
_WORD = 8
_HEADER = 32 + 5 + 4 * 4


def encode(mask: RunLengths) -> list[int]:
    """A mask as Label Studio's ``rle``."""
    pixels = mask.decode().numpy().astype(np.uint8) * 255
    return pack(pixels.ravel().repeat(4))


def decode(rle: Sequence[int], height: int, width: int) -> RunLengths:
    """The mask of an ``rle``.

    Raises:
        ValueError: it breaks off, or is none of an image of this size.
    """
    values = unpack(rle)
    if values.size != 4 * height * width:
        raise ValueError(
            f"the brush is of {values.size // 4} pixels, the image has {width} x {height} = {width * height}"
        )
    opaque = values.reshape(height, width, 4)[..., 3] >= 128
    return RunLengths.encode(torch.from_numpy(opaque)[None])[0]


def pack(values: UInt8[np.ndarray, " n"]) -> list[int]:
    """Bytes as run lengths; a run of one is listed, longer ones are repeated."""
    bits = [f"{values.size:032b}{_WORD - 1:05b}", *(f"{x - 1:04b}" for x in _WIDTHS)]
    edges = np.flatnonzero(np.diff(values)) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64) if values.size else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, values.size))
    for value, length in zip(values[starts].tolist(), lengths.tolist(), strict=True):
        bits.append(_run(value, length))
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8))


def unpack(rle: Sequence[int]) -> UInt8[np.ndarray, " n"]:
    """The bytes of run lengths.

    Raises:
        ValueError: they break off, or list values of another width than eight bits.
    """
    bits = np.unpackbits(np.asarray(rle, dtype=np.uint8))
    stream = (bits + ord("0")).tobytes().decode()
    if len(stream) < _HEADER:
        raise ValueError(f"a brush's run lengths have at least 7 bytes, got {len(rle)}")
    size, word = int(stream[:32], 2), int(stream[32:37], 2) + 1
    if word != _WORD:
        raise ValueError(f"a brush's values must have {_WORD} bits, got {word}")
    widths = [int(stream[i : i + 4], 2) + 1 for i in range(37, _HEADER, 4)]
    runs, found, at = [], 0, _HEADER
    while found < size:
        width = widths[int(stream[at + 1 : at + 3] or "0", 2)]
        if at + 3 + width > len(stream):
            raise ValueError(f"the brush's run lengths break off after {found} of {size} values")
        length, repeats = int(stream[at + 3 : at + 3 + width], 2) + 1, stream[at] == "1"
        at += 3 + width
        count = 1 if repeats else length
        listed = np.packbits(bits[at : at + count * _WORD])
        if len(listed) < count:
            raise ValueError(f"the brush's run lengths break off after {found} of {size} values")
        runs.append(listed.repeat(length) if repeats else listed)
        found, at = found + length, at + count * _WORD
    return np.concatenate(runs)[:size] if runs else np.zeros(0, np.uint8)


def _run(value: int, length: int) -> str:
    """The bits of a run: as many full ones as its length needs, then the rest."""
    longest = 1 << _WIDTHS[-1]
    whole, rest = divmod(length, longest)
    bits = f"111{longest - 1:016b}{value:08b}" * whole
    if rest == 0:
        return bits
    index = next(i for i, width in enumerate(_WIDTHS) if rest <= 1 << width)
    return f"{bits}{int(rest > 1)}{index:02b}{rest - 1:0{_WIDTHS[index]}b}{value:08b}"
