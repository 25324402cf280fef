"""What made an annotation: enough to make it again."""

import inspect
from collections.abc import Mapping
from functools import cache, partial
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from scenewright.checkpoints import Checkpoint, checkpoints_of

#: The packages whose versions can change an annotation.
PACKAGES = (
    "scenewright",
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "scikit-image",
    "scipy",
    "pycocotools",
    "segment-anything",
    "imagehash",
)


def describe(plugin: Any) -> dict[str, Any]:
    """A plugin's class, its settings with their defaults, and which weights it loads.

    Settings are the constructor's arguments that the plugin stores under their own
    names, which all of ours do; an injected plugin is described in its place.
    """
    kind = type(plugin)
    settings = {name: getattr(plugin, name) for name in inspect.signature(kind).parameters if hasattr(plugin, name)}
    known = {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": {k: _plain(v) for k, v in settings.items()}}
    weights = [_origin(x) for x in checkpoints_of(plugin, deeply=False)]
    return known | ({"checkpoints": weights} if weights else {})


def _origin(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Which weights exactly: the digest of a file or folder, or the commit of a hub's repository."""
    if checkpoint.is_local:
        return {"name": checkpoint.name, "sha256": digest(Path(checkpoint.name).expanduser())}
    return {"name": checkpoint.name, "revision": checkpoint.revision, "commit": checkpoint.commit}


def package_versions() -> dict[str, str]:
    """The versions of the packages that can change an annotation, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, partial):
        named = {"function": _plain(value.func), "settings": _plain(value.keywords)}
        return named["function"] if not value.args and not value.keywords else named
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    try:
        return describe(value) if _is_plugin(value) else str(value)
    except ValueError:  # a class without a signature
        return str(value)


def _is_plugin(value: Any) -> bool:
    verbs = ("tag", "detect", "segment", "caption", "judge", "read", "of_pictures", "features")
    return any(callable(getattr(value, verb, None)) for verb in verbs)


def digest(path: Path) -> str:
    """Of a file, or of a folder's files and their names."""
    if path.is_file():
        status = path.stat()
        return _file_digest(path, status.st_size, status.st_mtime_ns)
    every = sha256()
    for file in sorted(x for x in path.rglob("*") if x.is_file()):
        every.update(f"{file.relative_to(path)}:{digest(file)}\n".encode())
    return every.hexdigest()


@cache
def _file_digest(path: Path, size: int, modified: int) -> str:
    """Weights are gigabytes, and they are described more than once."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
