"""This side: one process of another environment, started when it is first asked, and again when it dies."""

import contextlib
import logging
import os
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from scenewright.annotators.isolation import wire
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Image

logger = logging.getLogger(__name__)

#: Seconds until the worker's Python must have started and imported numpy.
HELLO = 120.0


class WorkerError(RuntimeError):
    """A plugin failed in its own environment; the worker goes on."""


class WorkerDied(WorkerError):
    """The worker ended, or was ended because it took too long."""


class Worker:
    """A plugin in a process of another environment.

    There is one process per process of ours: it starts when it is first asked something, and ends with the object,
    with the program, or with the death of it.

    Args:
        environment: folder of a virtual environment, or a Python in one.
        plugin: as ``isolation.worker`` says; a path or a module, with or without ":Class".
        settings: for the plugin's ``load``, or its constructor; plain values.
        verb: "tag", "detect", "segment" or "caption".
        timeout: seconds for a batch.
        load_timeout: seconds for loading the plugin.
        log: what the worker's libraries print is appended here; None for a file in the system's temporary folder,
            which is kept.
        remedy: a sentence on how to get the environment, for the error when it cannot be used.
    """

    def __init__(
        self,
        environment: str | Path,
        plugin: str,
        settings: dict[str, Any],
        verb: str,
        *,
        timeout: float,
        load_timeout: float,
        log: str | Path | None,
        remedy: str,
    ) -> None:
        self.environment, self.plugin, self.settings, self.verb = Path(environment), plugin, settings, verb
        self.timeout, self.load_timeout, self.remedy = timeout, load_timeout, remedy
        self.log = None if log is None else Path(log)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None
        self._owner = os.getpid()

    def ask(self, images: Sequence[Image], *arguments: Any) -> list[Any]:
        """The verb's results, one per image, as plain values and arrays; of no images, none.

        A worker that dies or does not answer in time is started anew and asked once more.

        Raises:
            WorkerDied: it died again.
            WorkerError: the plugin raised, or returned something else than one result per image.
            MemoryError: the plugin ran out of memory.
            CheckpointError: the environment cannot be used, or the plugin not be loaded.
        """
        if not images:
            return []
        arrays, device = [np.ascontiguousarray(image.cpu().numpy()) for image in images], str(images[0].device)
        with self._lock:
            try:
                answer = self._asked(arrays, arguments, device)
            except WorkerDied as error:
                logger.warning("%s; starting it anew and trying this batch once more (log: %s)", error, self.log)
                answer = self._asked(arrays, arguments, device)
        if "error" in answer:
            if answer["error"] in ("MemoryError", "OutOfMemoryError"):
                raise MemoryError(answer["message"])
            raise WorkerError(f"{answer['error']}: {answer['message']}")
        results = answer["results"]
        if not isinstance(results, list) or len(results) != len(images):
            count = len(results) if isinstance(results, list) else type(results).__name__
            raise WorkerError(f"{self._name} returned {count} results for {len(images)} images")
        return results

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self._finalizer is not None and self._owner == os.getpid():
            self._finalizer()
        self._process = None

    def _asked(self, images: Sequence[np.ndarray], arguments: Sequence[Any], device: str) -> dict[str, Any]:
        process = self._running()
        try:
            with wire.shared(images) as sent:
                request = {"images": sent, "arguments": list(arguments), "device": device}
                return self._exchange(process, request, self.timeout)
        except BaseException:  # an interrupted question has an answer that would be taken for the next one's
            self.close()
            raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid() and self._finalizer is not None:  # forked: that process is the parent's
            self._finalizer.detach()
            self._process = self._finalizer = None
        self._owner = os.getpid()
        if self._process is None:
            self._process = self._start()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        """Start, shake hands, load.

        Raises:
            CheckpointError: the environment cannot be used, or the plugin not be loaded.
        """
        log = self._log_path()
        start = log.stat().st_size if log.exists() else 0
        process = self._popen(log)
        self._finalizer = weakref.finalize(self, _end, process, os.getpid())
        job = {"plugin": self.plugin, "settings": self.settings, "verb": self.verb}
        try:
            hello = self._exchange(process, None, HELLO)
            if hello.get("version") != wire.VERSION:
                self._unusable(f"it speaks version {hello.get('version')} and not {wire.VERSION}")
            loaded = self._exchange(process, job, self.load_timeout)
        except WorkerDied as error:
            self._unusable(f"{error}; its log ends: {_tail(log, start)}", error)
        except BaseException:
            self.close()
            raise
        if "error" in loaded:
            self._unusable(f"{self.plugin} cannot be loaded: {loaded['error']}: {loaded['message']} (log: {log})")
        logger.info("%s runs in %s, Python %s; log: %s", self.plugin, self.environment, hello["python"], log)
        return process

    def _popen(self, log: Path) -> subprocess.Popen[bytes]:
        python = python_of(self.environment)
        if not python.exists():
            self._unusable("it is not there")
        # this interpreter's own variables would send the other one to the wrong packages: -I
        command = [str(python.absolute()), "-I", "-u", str(Path(__file__).with_name("worker.py"))]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    start_new_session=True,  # what the plugin starts ends with it; Ctrl-C is ours
                )
            except OSError as error:
                self._unusable(f"{python} cannot be started: {error.strerror}", error)

    def _exchange(self, process: subprocess.Popen[bytes], message: Any, seconds: float) -> dict[str, Any]:
        """Send, and wait for the answer.

        Raises:
            WorkerDied: there is none, or none in time.
        """
        assert process.stdin is not None and process.stdout is not None
        expired = threading.Event()
        # ending the process is what wakes both a blocked write and a blocked read
        timer = threading.Timer(seconds, lambda: (expired.set(), _kill(process)))
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                wire.write(process.stdin, message)
            return wire.read(process.stdout)
        except (OSError, EOFError, ValueError, wire.WireError) as error:
            raise WorkerDied(self._ended(process, seconds, expired.is_set(), error)) from error
        finally:
            timer.cancel()

    def _ended(self, process: subprocess.Popen[bytes], seconds: float, expired: bool, error: Exception) -> str:
        name = self._name
        if expired:
            return f"the worker of {name} did not answer within {seconds:g} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # the pipe closes a little before the process is gone
        if process.returncode is None:
            return f"the worker of {name} does not answer what it was asked: {error}"
        if process.returncode < 0:
            return f"the worker of {name} was ended by {signal.Signals(-process.returncode).name}"
        said = f" ({error})" if isinstance(error, wire.WireError) else ""
        return f"the worker of {name} ended with status {process.returncode}{said}"

    def _unusable(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self.close()
        raise CheckpointError(f"the environment {self.environment} cannot be used: {reason}. {self.remedy}") from cause

    @property
    def _name(self) -> str:
        """For messages that are kept: without the folders of this machine."""
        return Path(self.plugin).name

    def _log_path(self) -> Path:
        if self.log is None:
            name = Path(self.plugin.partition(":")[0]).stem
            handle, path = tempfile.mkstemp(prefix=f"scenewright-{name}-", suffix=".log")
            os.close(handle)
            self.log = Path(path)
        return self.log


def python_of(environment: Path) -> Path:
    """The Python of a virtual environment's folder, or the one that is named; it may not be there."""
    return environment if environment.is_file() else environment / "bin" / "python"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Let it end by itself, as its input does; then make sure."""
    if os.getpid() != owner:  # a fork of ours: the process is not its child
        return
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    _kill(process)
    process.wait()
    process.stdout.close()


def _tail(log: Path, start: int, length: int = 1500) -> str:
    """The end of what was logged since ``start``."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace").strip()
    return text[-length:] or "(nothing was printed)"
