"""Results of annotators, kept: the same image, plugin and settings are never computed twice.

An entry is a small JSON file whose name is a digest of all that its result depends on: the image's pixels, the other
arguments, the plugin with its settings, weights and code, and the versions of the packages. So nothing is ever out of
date, and what is no longer asked for may be deleted at any time, files or whole folders, even during a run. A list of
tags takes about 0.1 KB, ten boxes 1 KB, ten masks 5 to 20 KB; file systems round that up to a block.
"""

import inspect
import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from scenewright.annotators.provenance import describe, digest, package_versions
from scenewright.annotators.seeds import seeded, takes_seeds
from scenewright.layout import Image, Layout, RunLengths

logger = logging.getLogger(__name__)

#: Of the entries; another one makes all of them anew.
FORMAT = 1


class Cache:
    """A plugin's entries in a folder that other plugins and any number of processes may use too.

    Args:
        plugin: that is asked about what is not there.
        verb: its method: "detect".
        directory: made when the first entry is written.
        encode: makes of a result for one image what JSON can hold.
        decode: takes that and the image's device, and makes the result again; what it raises means that an entry is
            broken.
    """

    def __init__(
        self,
        plugin: Any,
        verb: str,
        directory: str | Path,
        encode: Callable[[Any], Any],
        decode: Callable[[Any, torch.device], Any],
    ) -> None:
        self.plugin, self.verb, self.directory = plugin, verb, Path(directory).expanduser()
        self.encode, self.decode = encode, decode
        self._maker: str | None = None

    def call(
        self, images: Sequence[Image], others: Sequence[Any] | None = None, seeds: Sequence[int] | None = None
    ) -> list[Any]:
        """The plugin's results, one per image; it is given only the images that are not there.

        Args:
            others: the method's second argument, one item per image.
            seeds: passed on, and part of the key, if the method takes them.

        Raises:
            ValueError: the plugin returned another number of results than it was given images.
        """
        seeds = seeds if takes_seeds(getattr(self.plugin, self.verb)) else None
        items = [
            _digest_of(image, None if others is None else others[i], None if seeds is None else seeds[i])
            for i, image in enumerate(images)
        ]
        maker = self._made_by()
        found = {x: self._read(maker, x, image.device) for x, image in zip(items, images, strict=True)}
        # equal images of one batch are computed once
        places = [i for i, x in enumerate(items) if found[x] is None and x not in items[:i]]
        if places:
            fresh = self._computed(places, images, others, seeds)
            maker = self._made_by()  # by now the plugin's weights are on this machine, and their commit is known
            for i, result in zip(places, fresh, strict=True):
                self._write(maker, items[i], result)
                found[items[i]] = (result,)
        return [_only(found[x]) for x in items]

    def _computed(
        self, places: Sequence[int], images: Sequence[Image], others: Sequence[Any] | None, seeds: Sequence[int] | None
    ) -> list[Any]:
        """The plugin's results for the images at these places."""
        arguments = [[some[i] for i in places] for some in (images, others) if some is not None]
        numbers = None if seeds is None else [seeds[i] for i in places]
        results = list(seeded(getattr(self.plugin, self.verb), *arguments, seeds=numbers))
        if len(results) != len(places):
            name = f"{type(self.plugin).__name__}.{self.verb}"
            raise ValueError(f"{name} returned {len(results)} items for {len(places)} images")
        return results

    def _made_by(self) -> str:
        """A digest of the plugin, taken once unless the commit of its weights is not known yet."""
        if self._maker is not None:
            return self._maker
        about = describe(self.plugin)
        maker = digest_of(self.verb, about, _code(self.plugin), list(_files(about)), package_versions())
        if not _lacks_commit(about):
            self._maker = maker
        return maker

    def path(self, maker: str, item: str) -> Path:
        """Where an entry is: in one of 65536 folders, none of which gets too full to list."""
        key = digest_of(FORMAT, maker, item)
        return self.directory / key[:2] / key[2:4] / f"{key}.json"

    def _read(self, maker: str, item: str, device: torch.device) -> tuple[Any] | None:
        """The entry in a tuple, for a result may be anything; None if there is none, or a broken one."""
        path = self.path(maker, item)
        try:
            text = path.read_text(encoding="utf-8")
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
        text = json.dumps({"result": self.encode(result)}, ensure_ascii=False)
        temporary = path.with_name(f".{path.stem[:16]}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # half of a pair of surrogates, which a server may send, becomes JSON's own escape for it
            temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
            os.replace(temporary, path)
        except OSError as error:
            logger.warning("the cache %s cannot be written: %s", self.directory, error)
            with suppress(OSError):
                temporary.unlink()


def digest_of(*parts: Any) -> str:
    """A digest of what JSON can hold."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _lacks_commit(about: Any) -> bool:
    """Whether a description names weights of a hub that are not on this machine yet."""
    if isinstance(about, Mapping):
        return ("commit" in about and about["commit"] is None) or any(_lacks_commit(x) for x in about.values())
    return isinstance(about, (list, tuple)) and any(_lacks_commit(x) for x in about)


def _files(about: Any) -> Iterator[str]:
    """Digests of the files that settings name: lists of tags, say."""
    if isinstance(about, Mapping):
        about = list(about.values())
    if isinstance(about, list):
        for value in about:
            yield from _files(value)
    elif isinstance(about, str):
        with suppress(OSError, ValueError, RuntimeError):  # a text that can be no path
            if (path := Path(about).expanduser()).is_file():
                yield digest(path)


def _code(plugin: Any) -> list[str]:
    """Digests of the files of a plugin's class and of what was injected into it."""
    found = []
    try:
        path = inspect.getsourcefile(type(plugin))
        names = list(inspect.signature(type(plugin)).parameters)
    except (TypeError, OSError, ValueError):  # a class of C, or of an interactive session
        return found
    if path is not None and Path(path).exists():
        with open(path, "rb") as file:
            found.append(file_digest(file, "sha256").hexdigest())
    for value in (getattr(plugin, name, None) for name in names):
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
    known = sha256(head.encode() + b"\n")
    known.update(image.contiguous().cpu().numpy().data)
    return known.hexdigest()


def _only(entry: tuple[Any] | None) -> Any:
    assert entry is not None
    return entry[0]


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """A layout as JSON can hold it; float32 numbers come back as the very same."""
    known = {
        "boxes": layout.boxes.tolist(),
        "labels": list(layout.labels),
        "captions": list(layout.captions),
        "scores": None if layout.scores is None else layout.scores.tolist(),
        "masks": None if layout.masks is None else masks_to_json(layout.masks),
    }
    # only where there are some, so that entries of layouts without them stay what they were
    if layout.points is not None:
        known["points"] = [None if x.isnan().any() else x.tolist() for x in layout.points]
    if layout.scribbles is not None:
        known["scribbles"] = [x.tolist() for x in layout.scribbles]
    return known


def layout_from_json(known: Mapping[str, Any], device: torch.device) -> Layout:
    """The layout of ``layout_to_json``, on a device."""
    scores, masks = known["scores"], known["masks"]
    points, scribbles = known.get("points"), known.get("scribbles")

    def placed(given: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(given, dtype=torch.float32, device=device).reshape(-1, 2)

    return Layout(
        boxes=torch.tensor(known["boxes"], dtype=torch.float32, device=device).reshape(-1, 4),
        labels=texts_from_json(known["labels"], device),
        captions=texts_from_json(known["captions"], device),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float32, device=device),
        masks=None if masks is None else masks_from_json(masks, device),
        points=None if points is None else placed([x or [math.nan] * 2 for x in points]),
        scribbles=None if scribbles is None else [placed(x) for x in scribbles],
    )


def masks_to_json(masks: Sequence[RunLengths]) -> list[dict[str, Any]]:
    """Masks as COCO writes them."""
    return [{"size": list(x.size), "counts": x.counts.decode("ascii")} for x in masks]


def masks_from_json(known: Sequence[Mapping[str, Any]], device: torch.device) -> list[RunLengths]:
    """The masks of ``masks_to_json``."""
    return [RunLengths((int(x["size"][0]), int(x["size"][1])), x["counts"].encode("ascii")) for x in known]


def texts_to_json(texts: Any) -> list[str]:
    """Texts as they are; a bare string, which would pass for a list of letters, is refused.

    Raises:
        ValueError: they are no list of texts.
    """
    if not isinstance(texts, (list, tuple)) or not all(isinstance(x, str) for x in texts):
        raise ValueError(f"texts of an image must be a list of strings, got {texts!r:.80}")
    return list(texts)


def texts_from_json(known: Any, device: torch.device) -> list[str]:
    """The texts of ``texts_to_json``."""
    return texts_to_json(known)
