"""Kills a writer at each of its state changes, or at random moments, and continues it; prints what was found.

Run as a program with a folder and ``changes`` or ``moments``. It forks, because
importing torch for every kill would take minutes.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scenewright.annotators.pipeline import annotate
from scenewright.datasets.shards import Manifest, ShardWriter, write_shards, writer
from scenewright.datasets.shards.ledger import _sha256
from scenewright.layout import Sample


class Noise:
    """Seven small pictures, quick to make."""

    fingerprint = ""

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, 7)

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        for i in range(start, stop):
            pixels = np.random.default_rng(i).integers(0, 256, (3, 16, 16), dtype=np.uint8)
            yield Sample.from_image(str(i), torch.from_numpy(pixels), caption=f"noise {i}")


def run(folder: Path, delay: float = 0.0) -> None:
    def slowly(samples: Any) -> Any:
        for sample in annotate(samples, batch_size=2, workers=2):
            time.sleep(delay)
            yield sample

    with ShardWriter(folder, {"seed": 0}) as shards:
        write_shards(Noise(), shards, slowly, samples_per_shard=3)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def child(work: Callable[[], None]) -> int:
    """Start a process that does the work; exit code 0 when it comes to the end."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(3)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_at(change: int) -> None:
    """From now on, die before the writer's state change of this number; every call has a before and an after."""
    count = 0

    def reached() -> None:
        nonlocal count
        if count == change:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            reached()
            result = function(*arguments, **named)
            reached()
            return result

        return guarded

    os.fsync, os.replace = dying(os.fsync), dying(os.replace)
    writer.open = dying(open)
    whole_write, dying_write, writes = writer._Digesting.write, dying(writer._Digesting.write), itertools.count()
    # most of the changes are writes, and one is like the other
    writer._Digesting.write = lambda *x: (whole_write if next(writes) % 11 else dying_write)(*x)


def dying_run(change: int, folder: Path) -> None:
    kill_at(change)
    run(folder)


def check(folder: Path, whole: dict[str, bytes]) -> None:
    """What has a manifest is whole, right after the kill and before anything is mended."""
    for sheet in folder.glob("0*.json"):
        manifest = Manifest.from_json(sheet.read_bytes())
        assert _sha256(sheet.with_suffix(".tar")) == manifest.sha256, f"{sheet} vouches for a torn tar"
        assert sheet.read_bytes() == whole[sheet.name]


def main(root: Path, mode: str) -> None:
    torch.set_num_threads(1)
    assert ended(child(partial(run, root / "whole"))) == 0
    whole = files(root / "whole")
    start = time.perf_counter()
    assert ended(child(partial(run, root / "slow", delay=0.02))) == 0
    duration = time.perf_counter() - start
    chance = random.Random(0)
    kills = 0
    for attempt in range(1000):
        folder = root / str(attempt)
        if mode == "changes":
            code = ended(child(partial(dying_run, attempt, folder)))
        else:
            process = child(partial(run, folder, delay=0.02))
            time.sleep(chance.uniform(0, duration))
            os.kill(process, signal.SIGKILL)
            code = ended(process)
        assert code in (0, -signal.SIGKILL), code
        if mode == "changes" and code == 0:
            break
        kills += code != 0
        if folder.exists():
            check(folder, whole)
        assert ended(child(partial(run, folder))) == 0
        assert files(folder) == whole, f"after kill {attempt} the files differ"
        if mode == "moments" and attempt == 24:
            break
    print(json.dumps({"kills": kills, "shards": len([x for x in whole if x.endswith(".tar")])}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
