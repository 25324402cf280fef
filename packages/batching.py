"""Work in batches that fit: what is too much for the memory is halved, and said."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

#: How torch says it in a plain RuntimeError: the CPU's allocator, and what runs on a GPU besides torch's own.
_EXHAUSTED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    function: Callable[[list[Item]], Sequence[Result]],
    items: Sequence[Item],
    batch_size: int,
    alike: Callable[[Item], Hashable] | None = None,
) -> list[Result]:
    """Apply a function to lists of at most ``batch_size`` items; one result per item, in the items' order.

    A batch that runs out of memory is halved until it fits; a single item that does
    not fit raises.

    Args:
        function: takes a list and returns as many results.
        alike: items go together only if this is equal for them: their padded size, say.

    Raises:
        ValueError: ``batch_size`` is below 1; the function returned another number of results than it was given items.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    groups: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(alike(item) if alike else None, []).append(i)
    results: dict[int, Any] = {}
    for places in groups.values():
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            results |= zip(chosen, _halving(function, [items[i] for i in chosen]), strict=True)
    return [results[i] for i in range(len(items))]


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(x in str(error) for x in _EXHAUSTED)


def _halving(function: Callable[[list[Item]], Sequence[Result]], items: list[Item]) -> list[Result]:
    try:
        results = list(function(items))
    except (RuntimeError, MemoryError) as error:
        if len(items) == 1 or not out_of_memory(error):
            raise
        results = None
    if results is None:  # outside of the handler, which would keep the failed call's tensors alive
        half = len(items) // 2
        logger.warning("out of memory with a batch of %d; going on with %d and %d", len(items), half, len(items) - half)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return _halving(function, items[:half]) + _halving(function, items[half:])
    if len(results) != len(items):
        raise ValueError(f"a batch of {len(items)} gave {len(results)} results")
    return results
