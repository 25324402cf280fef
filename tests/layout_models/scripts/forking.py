"""Runs work in processes that are forked, because importing torch for each would take minutes."""

import contextlib
import multiprocessing
import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("fork")


def forked(
    work: Callable[[], Iterator[dict[str, Any]]], processes: int = 1, kill_at: int | None = None
) -> list[list[Any]]:
    """What each process yields.

    Args:
        processes: more than one find each other as torchrun's do.
        kill_at: after so many items of the first process, all get SIGKILL.

    Raises:
        AssertionError: a process failed; has its traceback.
    """
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed  # noqa: F401  Accelerate does, in every process

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    children, ends = [], []
    for rank in range(processes):
        mine, theirs = _CONTEXT.Pipe(duplex=False)
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        child = _CONTEXT.Process(target=_work, args=(work, theirs, environment if processes > 1 else {}), daemon=False)
        child.start()
        theirs.close()
        children.append(child)
        ends.append(mine)
    results = [list(_received(end, kill_at if rank == 0 else None, children)) for rank, end in enumerate(ends)]
    for child in children:
        child.join()
    faults = [item["traceback"] for items in results for item in items if "traceback" in item]
    assert not faults, "\n".join(faults)
    codes = [child.exitcode for child in children]
    assert kill_at is not None or not any(codes), f"exit codes {codes}"
    return results


def _received(end: Any, kill_at: int | None, children: list[Any]) -> Iterator[Any]:
    count = 0
    while True:
        if count == kill_at:
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
            return
        try:
            yield end.recv()
        except EOFError:
            return
        count += 1


def _work(work: Callable[[], Iterator[Any]], end: Any, environment: dict[str, str]) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    os.environ.update(environment)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    code = 0
    try:
        for item in work():
            end.send(item)
    except BaseException:
        end.send({"traceback": traceback.format_exc()})
        code = 1
    end.close()
    os._exit(code)  # pytest's own exit handlers are not for children
