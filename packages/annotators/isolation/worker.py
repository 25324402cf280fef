"""The far side: a process of the other environment that loads one plugin and answers until its input ends.

Started by file path with that environment's Python, so it imports nothing of scenewright: ``wire`` lies beside it.

A plugin is a module (``package.module`` or a path to a ``.py``) with ``load(settings)``, which returns whatever the
verb needs, and the verb itself: ``tag(network, images, device)``, ``detect(network, images, tags, device)``,
``segment`` or ``caption(network, images, layouts, device)``. Or it is a class (``package.module:Class``) with the
verb as ``scenewright.protocols`` has it, which is given tensors.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import os
import platform
import threading
import time
import traceback
from types import SimpleNamespace
from typing import Any, Callable  # noqa: UP035 for Python 3.8

Verb = Callable[..., Any]


def main() -> None:
    # what libraries print must not get between the messages: it goes to the log
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    faulthandler.enable()
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    wire = module_of(os.path.join(os.path.dirname(os.path.abspath(__file__)), "wire.py"))
    wire.write(replies, {"version": wire.VERSION, "python": platform.python_version()})
    try:
        _serve(wire, requests, replies)
    except (EOFError, BrokenPipeError):  # nobody is there any more
        pass


def _serve(wire: Any, requests: Any, replies: Any) -> None:
    job = wire.read(requests)
    verb = None
    answer = {}
    try:
        verb = verb_of(job["plugin"], job["settings"], job["verb"])
    except BaseException as error:
        answer = _told(error)
    wire.write(replies, answer)
    while verb is not None:
        request = wire.read(requests)
        try:
            images = wire.received(request["images"])
            answer = {"results": verb(images, *request["arguments"], device=request["device"])}
            wire.write(replies, answer)
        except (EOFError, BrokenPipeError):
            raise
        except BaseException as error:  # SystemExit too: a library that leaves must not take the worker with it
            wire.write(replies, _told(error))


def verb_of(plugin: str, settings: dict[str, Any], verb: str) -> Verb:
    """A plugin's verb, loaded: a function of images, its other arguments, and ``device``.

    Raises:
        ValueError: the plugin does not have it.
    """
    name, _, kind = plugin.partition(":")
    module = module_of(name) if name.endswith(".py") else importlib.import_module(name)
    if kind:
        return _method(getattr(module, kind)(**settings), verb)
    missing = [part for part in ("load", verb) if not callable(getattr(module, part, None))]
    if missing:
        raise ValueError(f"{plugin} has no {' and no '.join(missing)}; name its class as {plugin}:Class")
    network = module.load(settings)
    function = getattr(module, verb)
    return lambda images, *arguments, device: function(network, images, *arguments, device)


def module_of(path: str) -> Any:
    """Import a file as a module of its own name."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise ImportError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _method(plugin: Any, verb: str) -> Verb:
    """The verb of a class that takes tensors and layouts, as one that takes plain arrays."""
    import torch

    method = getattr(plugin, verb)

    def called(images: list[Any], *arguments: Any, device: str) -> Any:
        tensors = [torch.from_numpy(image).to(device) for image in images]
        if verb in ("segment", "caption"):
            arguments = ([_layout(x, device) for x in arguments[0]],)
        return [_plain(x) for x in method(tensors, *arguments)]

    return called


def _layout(fields: dict[str, Any], device: str) -> Any:
    """A layout; without scenewright in this environment, something that looks like one."""
    import torch

    fields = {
        k: torch.tensor(v, device=device) if k in ("boxes", "scores", "points") and v is not None else v
        for k, v in fields.items()
    }
    if "scribbles" in fields:
        fields["scribbles"] = [torch.tensor(x, device=device) for x in fields["scribbles"]]
    try:
        from scenewright.layout import Layout, RunLengths
    except ImportError:
        return SimpleNamespace(**fields)
    # a release in this environment that does not know of points yet can do without
    fields = {name: value for name, value in fields.items() if name in Layout.__dataclass_fields__}
    if fields["masks"] is not None:
        fields["masks"] = [RunLengths((x["size"][0], x["size"][1]), x["counts"].encode()) for x in fields["masks"]]
    return Layout(**fields)


def _plain(result: Any) -> Any:
    """What a verb returned for one image, as it can be sent."""
    if hasattr(result, "boxes"):
        fields = {name: getattr(result, name, None) for name in ("boxes", "labels", "captions", "scores", "masks")}
        fields["masks"] = None if fields["masks"] is None else [_plain(x) for x in fields["masks"]]
        return fields
    if hasattr(result, "counts"):
        return {"size": list(result.size), "counts": result.counts.decode()}
    return [_plain(x) for x in result] if isinstance(result, (list, tuple)) else result


def _told(error: BaseException) -> dict[str, Any]:
    """An error as it can be sent; the log has all of it."""
    traceback.print_exc()
    return {"error": type(error).__name__, "message": str(error)}


def _leave_with(parent: int) -> None:
    """End when the process that started this one has gone, even amid a computation."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


if __name__ == "__main__":
    main()
