"""Working ahead of a consumer, in threads."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(function: Callable[[A], B], items: Iterable[A], *, workers: int, depth: int) -> Generator[B, None, None]:
    """Apply a function in threads, at most ``depth`` items before they are asked for.

    The items too are drawn in a thread, so a source that reads a disk delays nobody.

    Yields:
        The results, in the order of the items. What the function or the source
        raises is raised here, at its place.
    """
    results: queue.SimpleQueue[Future[B] | None] = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")

    def draw() -> None:
        try:
            for item in items:
                slots.acquire()
                if stopped.is_set():
                    return
                results.put(pool.submit(function, item))
            results.put(None)
        except BaseException as error:
            failed: Future[B] = Future()
            failed.set_exception(error)
            results.put(failed)

    drawer = threading.Thread(target=draw, name="ahead-source", daemon=True)
    drawer.start()
    try:
        while (future := results.get()) is not None:
            result = future.result()
            slots.release()
            yield result
    finally:
        stopped.set()
        slots.release()
        drawer.join()
        pool.shutdown(cancel_futures=True)
