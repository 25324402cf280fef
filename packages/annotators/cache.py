"""Results of annotators, kept: the same image, plugin and settings are never computed twice.

An entry is a small JSON file whose name is a digest of all that its result depends on: the image's pixels, the other
arguments, the plugin with its settings, weights and code, and the versions of the packages. So nothing is ever out of
date, and what is no longer asked for may be deleted at any time, files or whole folders, even during a run. A list of
tags takes about 0.1 KB, ten boxes 1 KB, ten masks 5 to 20 KB; file systems round that up to a block.
"""

import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from scenewright.annotators.provenance import describe, package_versions
from scenewright.annotators.seeds import seeded, takes_seeds
from scenewright.layout import Image, Layout, RunLengths

logger = logging.getLogger(__name__)

#: Of the entries; another one makes all of them anew.
FORMAT = 1


class Cache:
    """A folder of entries. Any number of processes may use it at once.

    Args:
        directory: made when the first entry is written.
        encode: makes of a plugin's result for one image what JSON can hold.
        decode: takes that and the image's device, and makes the result again; what it raises means that an entry is
            broken.
    """

    def __init__(
        self, directory: str | Path, encode: Callable[[Any], Any], decode: Callable[[Any, torch.device], Any]
    ) -> None:
        self.directory, self.encode, self.decode = Path(directory).expanduser(), encode, decode

    def call(
        self,
        plugin: Any,
        verb: str,
        images: Sequence[Image],
        others: Sequence[Any] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Any]:
        """A plugin's results, one per image; the plugin itself is given only the images that it has not seen.

        Args:
            verb: the plugin's method: "detect".
            others: the method's second argument, one item per image.
            seeds: passed on, and part of the key, if the method takes them.

        Raises:
            ValueError: the plugin returned another number of results than it was given images.
        """
        method = getattr(plugin, verb)
        seeds = seeds if takes_seeds(method) else None
        items = [
            _digest_of(image, None if others is None else others[i], None if seeds is None else seeds[i])
            for i, image in enumerate(images)
        ]
        maker = f"{verb} {digest_of(plugin)}"
        found = {x: self._read(maker, x, image.device) for x, image in zip(items, images, strict=True)}
        # equal images of one batch are computed once
        missing = {x: i for i, x in reversed(list(enumerate(items))) if found[x] is None}
        places = sorted(missing.values())
        if places:
            arguments = [[some[i] for i in places] for some in (images, others) if some is not None]
            numbers = None if seeds is None else [seeds[i] for i in places]
            results = seeded(method, *arguments, seeds=numbers)
            if len(results) != len(places):
                raise ValueError(
                    f"{type(plugin).__name__}.{verb} returned {len(results)} items for {len(places)} images"
                )
            # once more: by now the plugin's weights are on this machine, and their commit is known
            maker = f"{verb} {digest_of(plugin)}"
            for i, result in zip(places, results, strict=True):
                found[items[i]] = (result,)
                self._write(maker, items[i], result)
        return [_only(found[x]) for x in items]

    def path(self, maker: str, item: str) -> Path:
        """Where an entry is: in one of 65536 folders, none of which gets too full to list."""
        key = sha256(f"{FORMAT} {maker} {item}".encode()).hexdigest()
        return self.directory / key[:2] / key[2:4] / f"{key}.json"

    def _read(self, maker: str, item: str, device: torch.device) -> tuple[Any] | None:
        """The entry in a tuple, for a result may be anything; None if there is none, or a broken one."""
        path = self.path(maker, item)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            return None
        try:
            return (self.decode(json.loads(text)["result"], device),)
        except Exception as error:  # whatever a broken file makes of the nouns
            logger.info("%s is broken and is made anew: %s", path, error)
            return None

    def _write(self, maker: str, item: str, result: Any) -> None:
        """Keep a result. A cache that cannot be written costs time and nothing else."""
        path = self.path(maker, item)
        text = json.dumps({"format": FORMAT, "result": self.encode(result)}, ensure_ascii=False, allow_nan=False)
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
                temporary = file.name
                file.write(text)
            os.replace(temporary, path)
        except OSError as error:
            logger.warning("the cache %s cannot be written: %s", self.directory, error)
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def digest_of(plugin: Any) -> str:
    """A digest of a plugin: its class, code, settings and weights, those of what was injected into it, and packages.

    It is taken once for each plugin, unless the commit of its weights is not known yet.
    """
    known = vars(plugin).get("_cache_digest")
    if known is not None:
        return known
    about = describe(plugin)
    text = json.dumps([about, _code(plugin), package_versions()], sort_keys=True, default=str)
    digest = sha256(text.encode()).hexdigest()
    if not _lacks_commit(about):
        vars(plugin)["_cache_digest"] = digest
    return digest


def _lacks_commit(about: Any) -> bool:
    """Whether a description names weights of a hub that are not on this machine yet."""
    if isinstance(about, Mapping):
        return ("commit" in about and about["commit"] is None) or any(_lacks_commit(x) for x in about.values())
    return isinstance(about, (list, tuple)) and any(_lacks_commit(x) for x in about)


def _code(plugin: Any) -> list[str]:
    """Digests of the files of a plugin's class and of what was injected into it."""
    found = []
    path = inspect.getsourcefile(type(plugin)) if type(plugin).__module__ != "builtins" else None
    if path is not None and Path(path).exists():
        with open(path, "rb") as file:
            found.append(file_digest(file, "sha256").hexdigest())
    for name in inspect.signature(type(plugin)).parameters:
        value = getattr(plugin, name, None)
        if any(callable(getattr(value, verb, None)) for verb in ("tag", "detect", "segment", "caption")):
            found += _code(value)
    return found


def _digest_of(image: Image, other: Any, seed: int | None) -> str:
    """A digest of all that a plugin is given for one image."""
    if isinstance(other, Layout):
        other = layout_to_json(other)
    elif other is not None:
        other = list(other)
    head = json.dumps([list(image.shape), other, seed])
    digest = sha256(head.encode() + b"\n")
    digest.update(image.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _only(entry: tuple[Any] | None) -> Any:
    assert entry is not None
    return entry[0]


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """A layout as JSON can hold it; float32 numbers come back as the very same."""
    return {
        "boxes": layout.boxes.tolist(),
        "labels": list(layout.labels),
        "captions": list(layout.captions),
        "scores": None if layout.scores is None else layout.scores.tolist(),
        "masks": None if layout.masks is None else masks_to_json(layout.masks),
    }


def layout_from_json(known: Mapping[str, Any], device: torch.device) -> Layout:
    """The layout of ``layout_to_json``, on a device."""
    scores, masks = known["scores"], known["masks"]
    return Layout(
        boxes=torch.tensor(known["boxes"], dtype=torch.float32, device=device).reshape(-1, 4),
        labels=texts_from_json(known["labels"], device),
        captions=texts_from_json(known["captions"], device),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float32, device=device),
        masks=None if masks is None else masks_from_json(masks, device),
    )


def masks_to_json(masks: Sequence[RunLengths]) -> list[dict[str, Any]]:
    """Masks as COCO writes them."""
    return [{"size": list(x.size), "counts": x.counts.decode("ascii")} for x in masks]


def masks_from_json(known: Sequence[Mapping[str, Any]], device: torch.device) -> list[RunLengths]:
    """The masks of ``masks_to_json``."""
    return [RunLengths((int(x["size"][0]), int(x["size"][1])), x["counts"].encode("ascii")) for x in known]


def texts_from_json(known: Any, device: torch.device) -> list[str]:
    """Texts as they were stored.

    Raises:
        ValueError: they are no list of texts.
    """
    if not isinstance(known, list) or not all(isinstance(x, str) for x in known):
        raise ValueError(f"texts must be a list of strings, got {known!r:.80}")
    return known
