"""Writing shards so that a kill at any moment leaves only whole ones."""

import errno
import json
import os
import re
import secrets
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from scenewright.datasets.shards.ledger import Manifest, differences, hold, identity, left_behind, recorded_run
from scenewright.datasets.shards.record import encode
from scenewright.layout import Sample


class ShardWriter:
    """Writes numbered shards into a folder, behind the one who makes the samples.

    The shard is the unit of parallelism and of resumption: processes share the
    numbers out among them, and a number that is whole is never redone. A shard is
    written under a temporary name, synced, renamed, and then its manifest likewise.
    Its bytes depend on its samples alone. Use it as a context manager, or ``close`` it.

    Args:
        directory: made if it is not there.
        run: what makes the shards (configuration, plugins, seed, source), into ``run.json`` and every manifest.
        images: ``copy`` stores the images' own bytes; ``none`` only the annotations.
        allow_mixed: continue a folder that another ``run`` began.

    Raises:
        ValueError: the folder was begun by another run; the message names what differs.
    """

    def __init__(
        self,
        directory: Path | str,
        run: Mapping[str, Any] | None = None,
        images: str = "copy",
        allow_mixed: bool = False,
    ) -> None:
        if images not in ("copy", "none"):
            raise ValueError(f"images must be 'copy' or 'none', got {images!r}")
        self.directory, self.run, self.images = Path(directory), dict(run or {}), images
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in left_behind(self.directory):
            path.unlink(missing_ok=True)
        self._begin(allow_mixed)
        self._pen = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: deque[Future[None]] = deque()
        self._open: _OpenShard | None = None
        self._failed = False

    def has(self, number: int) -> bool:
        """Whether a shard is whole."""
        return self._manifest(number).exists()

    def forget(self, number: int) -> None:
        """Make a shard count as not done; its tar stays until it is redone."""
        self._manifest(number).unlink(missing_ok=True)

    def write(self, number: int, samples: Iterable[Sample], on_sample: Callable[[Sample], None] | None = None) -> None:
        """Write one shard; it is on disk when ``close`` returns, or a later ``write`` has waited for it.

        Args:
            number: its place among the shards.
            samples: in order; those with an error, or dropped, go into the manifest only.
            on_sample: called with each sample as it arrives.

        Raises:
            ValueError: a key occurs twice, or has a character that WebDataset or a file system takes for its own.
            OSError: the disk refuses; what was whole before stays.
        """
        shard = _OpenShard(self.directory, number, self.run)
        keys: set[str] = set()
        for sample in samples:
            if sample.key in keys:
                raise ValueError(f"the dataset gives the key {sample.key!r} twice")
            if not re.fullmatch(r"[^./\\\s\x00-\x1f]+", sample.key):
                raise ValueError(f"a key must have no dots, slashes or spaces, the dataset gives {sample.key!r}")
            keys.add(sample.key)
            self._behind(self._add, shard, sample)
            if on_sample is not None:
                on_sample(sample)
        self._behind(self._finish, shard)

    def close(self) -> None:
        """Wait until all is written."""
        try:
            while self._pending:
                self._wait()
        finally:
            self._abandon()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def _behind(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the pen do something, after what it was told before; wait when it lags far behind."""
        self._pending.append(self._pen.submit(function, *arguments))
        while len(self._pending) > 16 or (self._pending and self._pending[0].done()):
            self._wait()

    def _wait(self) -> None:
        """Wait for the oldest thing that the pen was told."""
        try:
            self._pending.popleft().result()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            what = "no space left on device; whole shards stay, and the same command continues"
            raise OSError(errno.ENOSPC, what, str(self.directory)) from error

    def _add(self, shard: "_OpenShard", sample: Sample) -> None:
        if self._failed:  # a shard that misses a sample must never be called whole
            return
        self._open = shard
        status, members = sample.status, dict[str, bytes]()
        if not (sample.error or sample.rejected):
            try:
                members = encode(sample, self.images == "copy")
            except Exception as error:  # the sample's own fault: it cannot be put into words or bytes
                status = f"error: it cannot be written: {type(error).__name__}: {error}"
        with self._failing():
            shard.add(sample.key, status, len(sample.warnings), members)

    def _finish(self, shard: "_OpenShard") -> None:
        if not self._failed:
            with self._failing():
                shard.finish()
            self._open = None

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def _abandon(self) -> None:
        self._pen.shutdown(cancel_futures=True)
        self._pending.clear()
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def _manifest(self, number: int) -> Path:
        return self.directory / f"{number:05d}.json"

    def _begin(self, allow_mixed: bool) -> None:
        """Say in ``run.json`` what makes the shards, unless another process has said the same."""
        path = self.directory / "run.json"
        theirs = recorded_run(self.directory)
        ours = json.dumps(self.run, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        idle = not any(any(self.directory.glob(pattern)) for pattern in ("[0-9]*.*", ".*.tmp"))
        if not path.exists():
            # of several processes that begin together, one is first, and the others compare with it
            lost = None if theirs is None else json.dumps(theirs, indent=1, sort_keys=True, ensure_ascii=False)
            _write_whole(path, ours if lost is None else lost.encode() + b"\n", replace=False)
        elif idle:  # begun, but nothing was done: nothing can be mixed
            _write_whole(path, ours)
        theirs = json.loads(path.read_bytes())
        if not allow_mixed and (changed := differences(json.loads(identity(self.run)), json.loads(identity(theirs)))):
            shown = "\n  ".join(changed)
            raise ValueError(
                f"{self.directory} was begun with other settings:\n  {shown}\n"
                "continue with those, choose another output_dir, or say allow_mixed=true"
            )


class _OpenShard:
    """A shard while it is written."""

    def __init__(self, directory: Path, number: int, run: Mapping[str, Any]) -> None:
        self.directory, self.number, self.run = directory, number, run
        self.path = directory / f"{number:05d}.tar"
        self._samples: dict[str, str] = {}
        self._warnings: dict[str, int] = {}
        self._file: _Digesting | None = None

    def add(self, key: str, status: str, warnings: int, members: Mapping[str, bytes]) -> None:
        file = self._started()
        self._samples[key] = status
        if warnings:
            self._warnings[key] = warnings
        for extension, data in members.items():
            file.write(_header(f"{key}.{extension}", len(data)))
            file.write(data)
            file.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        file = self._started()
        end = 2 * tarfile.BLOCKSIZE
        file.write(bytes(end + -(file.length + end) % tarfile.RECORDSIZE))
        file.sync()
        os.replace(file.path, self.path)
        file.close()
        _sync_folder(self.directory)
        manifest = Manifest(self.number, file.length, file.digest, self._samples, self._warnings, self.run)
        _write_whole(self.directory / f"{self.number:05d}.json", manifest.to_json())

    def abandon(self) -> None:
        if self._file is not None:
            self._file.path.unlink(missing_ok=True)
            self._file.close()

    def _started(self) -> "_Digesting":
        if self._file is None:
            self._file = _Digesting(self.path)
        return self._file


#: The header of a member without a name and of no length.
_BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)


def _header(name: str, size: int) -> bytes:
    """What ``tarfile`` puts before a member; no time, no owner: the bytes are the samples' alone.

    ``tarfile`` takes longer for the three headers of a sample than the system for its
    bytes, so a name and a length of the usual kind are put into a header it has made.
    """
    if not name.isascii() or len(name) > 100 or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf()
    label, length = name.encode().ljust(100, b"\0"), b"%011o" % size
    # a header's checksum counts itself as spaces; the blank's length is eleven zeros
    checksum = int(_BLANK[148:154], 8) + sum(label) + sum(length) - 11 * ord("0")
    return b"".join([label, _BLANK[100:124], length, _BLANK[135:148], b"%06o" % checksum, _BLANK[154:]])


class _Digesting:
    """A temporary file that knows its length and digest without being read again.

    SHA-256 can be slower than the disk, so blocks are digested in a thread while others are
    written. They are large, for a thread that comes back from one waits for Python's lock.
    """

    def __init__(self, path: Path) -> None:
        while True:
            self.path = _temporary(path)
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 close is another method
            hold(self._file)
            if self.path.exists():  # else another process took it for left behind, before it was held
                break
            self._file.close()
        self.length = 0
        self._sha256 = sha256()
        self._digester = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._digesting: deque[Future[None]] = deque()
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def digest(self) -> str:
        """Of all that was written; after ``sync``."""
        return self._sha256.hexdigest()

    def write(self, data: bytes) -> None:
        self.length += len(data)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= 4 << 20:
            self._write_held()

    def sync(self) -> None:
        self._write_held()
        os.fsync(self._file.fileno())
        self._digester.shutdown()

    def close(self) -> None:
        self._digester.shutdown()
        self._file.close()

    def _write_held(self) -> None:
        block = memoryview(b"".join(self._held))
        self._held.clear()
        self._held_bytes = 0
        self._digesting.append(self._digester.submit(self._sha256.update, block))
        while len(self._digesting) > 4:
            self._digesting.popleft().result()
        while block:  # a disk that is nearly full takes a part of it
            block = block[self._file.write(block) :]


def _write_whole(path: Path, data: bytes, replace: bool = True) -> None:
    """Make a file, or replace it by another: never by a part of it."""
    file = _Digesting(path)
    try:
        file.write(data)
        file.sync()
        if replace:
            os.replace(file.path, path)
        else:
            with suppress(FileExistsError):
                os.link(file.path, path)
    finally:
        file.path.unlink(missing_ok=True)
        file.close()
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """A name of nobody else's; hidden, so that no pattern for shards matches it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync_folder(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
