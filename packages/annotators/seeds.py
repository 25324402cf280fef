"""Seeds, passed on by plugins that wrap others."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def takes_seeds(method: Callable[..., Any]) -> bool:
    """Whether a plugin's verb draws random numbers: then it has a keyword ``seeds``."""
    return "seeds" in inspect.signature(method).parameters


def seeded(method: Callable[..., Any], *arguments: Any, seeds: Sequence[int] | None) -> Any:
    """Call a plugin's verb, with seeds if it takes them and there are any."""
    return method(*arguments, seeds=seeds) if seeds is not None and takes_seeds(method) else method(*arguments)


def derived(seed: int, *parts: int) -> int:
    """A seed for a part of an image's work (a tile, a round), in [0, 2**63): its own, and the same in every run."""
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
