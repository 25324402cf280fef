"""What two Python environments say to each other: JSON and raw arrays, and nothing that could run code.

A message is ``MAGIC``, the length of a header (8 bytes, big endian), the header, and the bytes of its arrays one
after the other. The header is JSON: ``value``, in which ``{"array": i}`` stands for array ``i``, and ``arrays``, their
types and shapes. Images do not take this way where shared memory can be had.

Runs in the other environment too: Python 3.8, numpy, nothing else.
"""

from __future__ import annotations

import json
import math
import os
import struct
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import IO, Any, Iterator, Sequence  # noqa: UP035 for Python 3.8

import numpy as np

#: Changes when the two sides would no longer understand each other.
VERSION = 1

MAGIC = b"SWIRE\x00\x00\x01"

#: Longer headers are no headers, but something that was printed into the pipe.
MAX_HEADER = 1 << 31


class WireError(RuntimeError):
    """The other side has gone, or says what is no message."""


def write(file: IO[bytes], value: Any) -> None:
    """Send one message.

    Args:
        value: of None, booleans, numbers, strings, lists, tables, and arrays or tensors of numbers.

    Raises:
        OSError: the other side has gone.
        TypeError: it holds something else.
    """
    arrays: list[np.ndarray] = []
    packed = _pack(value, arrays)
    listed = [{"type": array.dtype.str, "shape": array.shape} for array in arrays]
    header = json.dumps({"value": packed, "arrays": listed}).encode()
    file.write(MAGIC + struct.pack(">Q", len(header)) + header)
    for array in arrays:
        file.write(array.reshape(-1).view(np.uint8).data)
    file.flush()


def read(file: IO[bytes]) -> Any:
    """Receive one message.

    Raises:
        EOFError: there is none, and will be none.
        WireError: it breaks off, or is none.
    """
    start = file.read(len(MAGIC) + 8)
    if not start:
        raise EOFError("the other side has closed the pipe")
    if len(start) < len(MAGIC) + 8 or start[: len(MAGIC)] != MAGIC:
        raise WireError(f"expected a message, got {start!r}")
    (length,) = struct.unpack(">Q", start[len(MAGIC) :])
    if length > MAX_HEADER:
        raise WireError(f"expected a header, got one of {length} bytes")
    header = json.loads(_exactly(file, bytearray(length)).decode())
    arrays = [_array(file, x["type"], x["shape"]) for x in header["arrays"]]
    return _unpack(header["value"], arrays)


@contextmanager
def shared(images: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """What to send of images so that the other side finds them, while the context lasts.

    They lie in one piece of shared memory; where none is to be had (a container with a small ``/dev/shm``), they are
    sent as arrays.
    """
    size = sum(image.nbytes for image in images)
    memory = _allocate(size)
    if memory is None:
        yield {"arrays": list(images)}
        return
    try:
        start = 0
        for image in images:
            np.ndarray((image.nbytes,), np.uint8, memory.buf, start)[:] = image.reshape(-1)
            start += image.nbytes
        yield {"shared": memory.name, "shapes": [list(image.shape) for image in images]}
    finally:
        memory.close()
        memory.unlink()


def received(images: dict[str, Any]) -> list[np.ndarray]:
    """The images that ``shared`` sent: copies, so that nobody holds on to the memory."""
    if "arrays" in images:
        return list(images["arrays"])
    memory = _attach(images["shared"])
    try:
        found, start = [], 0
        for shape in images["shapes"]:
            found.append(np.ndarray(shape, np.uint8, memory.buf, start).copy())
            start += math.prod(shape)
        return found
    finally:
        memory.close()


def _allocate(size: int) -> SharedMemory | None:
    """Shared memory that is really there: without the reservation, writing to a full ``/dev/shm`` ends the process."""
    if not size:
        return None
    try:
        memory = SharedMemory(create=True, size=size)
    except OSError:
        return None
    path = f"/dev/shm/{memory.name}"
    try:
        if os.path.exists(path):  # Linux
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        memory.close()
        memory.unlink()
        return None
    return memory


def _attach(name: str) -> SharedMemory:
    """Before Python 3.13, whoever opens a segment also vows to remove it, and warns at exit that it is gone."""
    register = resource_tracker.register
    resource_tracker.register = lambda *_: None
    try:
        return SharedMemory(name=name)
    finally:
        resource_tracker.register = register


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(k): _pack(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(v, arrays) for v in value]
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return _pack(value.item(), arrays)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise TypeError(f"only plain values and arrays of numbers can be sent, got {type(value).__name__}")
    arrays.append(np.ascontiguousarray(value))
    return {"array": len(arrays) - 1}


def _unpack(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, arrays) for v in value]
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return arrays[value["array"]]
        return {k: _unpack(v, arrays) for k, v in value.items()}
    return value


def _array(file: IO[bytes], kind: str, shape: Sequence[int]) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in "biuf":
        raise WireError(f"expected an array of numbers, got one of {kind}")
    data = _exactly(file, bytearray(math.prod(shape) * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(shape)


def _exactly(file: Any, data: bytearray) -> bytearray:
    view, done = memoryview(data), 0
    while done < len(data):
        read = file.readinto(view[done:])
        if not read:
            raise WireError(f"a message of {len(data)} bytes broke off after {done}")
        done += read
    return data
