"""What frozen networks compute is kept on disk: text features, latents; never looked up for other weights.

``FOLDER/ab/cdef….safetensors``: one file per entry, named by what went in and by the weights that made it.
Any number of processes may share a folder: files appear whole under their names, and two that make the
same entry write the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: What one computation gave: tensors by name.
Entry = dict[str, Tensor]


@dataclass
class Usage:
    """What this process had of a cache so far.

    Attributes:
        remembered: entries that were in memory.
        read: entries that were on disk.
        made: entries that had to be computed.
        bytes_written: of files, with their headers.
        bytes_in_memory: of tensors.
    """

    remembered: int = 0
    read: int = 0
    made: int = 0
    bytes_written: int = 0
    bytes_in_memory: int = 0


class FeatureCache:
    """Computed once, then remembered: in memory as far as there is room, on disk for good.

    Args:
        folder: where entries are kept; made if it is not there.
        memory: bytes of tensors that are kept in memory, those that were used last.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, *, memory: int = 1 << 30) -> None:
        self.folder, self.memory = Path(folder).expanduser(), memory
        self.folder.mkdir(parents=True, exist_ok=True)
        self.usage = Usage()
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def fetch(self, keys: Sequence[str], make: Callable[[list[int]], Sequence[Entry]]) -> list[Entry]:
        """The entries of these keys, in order.

        Args:
            keys: made by ``key``.
            make: given the places in ``keys`` of what is nowhere, each key once, computes it.

        Returns:
            Tensors on the CPU, which are shared: they are not to be changed.
        """
        found: dict[str, Entry] = {}
        for key in dict.fromkeys(keys):
            entry = self._look_up(key)
            if entry is not None:
                found[key] = entry
        missing = {key: place for place, key in reversed(list(enumerate(keys))) if key not in found}
        places = sorted(missing.values())
        if places:
            for place, entry in zip(places, make(places), strict=True):
                found[keys[place]] = self._keep(keys[place], entry)
        return [found[key] for key in keys]

    def files(self) -> tuple[int, int]:
        """How many entries are on disk, of all processes, and their bytes; looks at every file."""
        sizes = [path.stat().st_size for path in self.folder.glob("??/*.safetensors")]
        return len(sizes), sum(sizes)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"

    def _look_up(self, key: str) -> Entry | None:
        if key in self._entries:
            self._entries.move_to_end(key)
            self.usage.remembered += 1
            return self._entries[key]
        from safetensors.torch import load

        path = self._path(key)
        try:
            # read whole: a mapped file would keep its handle for as long as the entry is remembered
            entry = load(path.read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # safetensors' own, for a file that a crash of the machine cut off
            logger.warning("%s is broken and is made anew: %s", path, error)
            return None
        self.usage.read += 1
        self._remember(key, entry)
        return entry

    def _keep(self, key: str, entry: Entry) -> Entry:
        from safetensors.torch import save

        entry = {name: tensor.detach().cpu().contiguous() for name, tensor in entry.items()}
        data = save(entry)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}.{id(self)}")
        partial.write_bytes(data)
        partial.replace(path)
        self.usage.made += 1
        self.usage.bytes_written += len(data)
        self._remember(key, entry)
        return entry

    def _remember(self, key: str, entry: Entry) -> None:
        size = _bytes(entry)
        if size > self.memory:
            return
        self._entries[key] = entry
        self.usage.bytes_in_memory += size
        while self.usage.bytes_in_memory > self.memory:
            _, oldest = self._entries.popitem(last=False)
            self.usage.bytes_in_memory -= _bytes(oldest)


def key(*parts: str | bytes | Tensor) -> str:
    """The name of an entry: a digest of all that it depends on; the order counts, and where a part ends."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        if isinstance(data, Tensor):
            head, data = f"{data.dtype} {tuple(data.shape)}", _data(data)
        else:
            head = type(part).__name__
        digest.update(f"{head} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def weights_digest(network: nn.Module) -> str:
    """A digest of a network's weights, of their types, and of the configuration that it has.

    Raises:
        ValueError: weights are not here (on the meta device, or parted among processes).
    """
    digest = hashlib.sha256(repr(_settings(getattr(network, "config", None))).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_meta or hasattr(tensor, "ds_id"):
            raise ValueError(
                f"{name} of {type(network).__name__} is not whole on this process, so features cannot be told from "
                "those of other weights; train without a cache"
            )
        digest.update(key(name, tensor).encode())
    return digest.hexdigest()


def _settings(config: Any) -> Any:
    """A configuration without what depends on where it came from."""
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    return sorted((k, str(v)) for k, v in settings.items() if not k.startswith("_") and "version" not in k)


def _data(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _bytes(entry: Entry) -> int:
    return sum(tensor.nbytes for tensor in entry.values())
