"""Isolated: any plugin in another Python environment, behind the same verb.

For plugins whose packages cannot live beside ours. A worker process of the other environment loads the plugin once
and answers batch after batch: images go through shared memory, everything else as JSON and raw arrays through pipes,
and nothing is ever unpickled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scenewright.annotators.isolation.process import Worker, WorkerError
from scenewright.layout import Image, Layout, RunLengths

VERBS = ("tag", "detect", "segment", "caption")


class Isolated:
    """A plugin that runs in another Python environment. It has the one verb that it is given.

    The worker starts with the first batch and ends with this object. When it dies, or takes too long, it is started
    anew and the batch tried once more; then the batch fails, and the pipeline finds the one image that is to blame.
    A plugin that takes ``seeds`` does not get any here.

    Args:
        plugin: "package.module:Class", a plugin as ``protocols`` has it (results may be look-alikes of ``Layout`` and
            ``RunLengths`` where scenewright is not installed); or "package.module" or "path/to/module.py" with two
            functions: ``load(settings)``, and the verb, which takes what ``load`` returned, a list of arrays
            (3, h, w) in uint8, the verb's other arguments (a layout is a table of its fields) and ``device``.
        verb: "tag", "detect", "segment" or "caption".
        environment: folder of a virtual environment, or a Python in one; it needs Python 3.8 and numpy.
        settings: for ``load``, or for the constructor: plain values.
        timeout: seconds for a batch.
        load_timeout: seconds for loading the plugin.
        log: what the other environment's libraries print is appended here; None for a file in the system's temporary
            folder, which is kept.
        remedy: a sentence on how to get the environment, for the error when it cannot be used.

    Raises:
        ValueError: there is no such verb.
    """

    def __init__(
        self,
        plugin: str,
        verb: str,
        environment: str,
        settings: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        load_timeout: float = 1800.0,
        log: str | None = None,
        remedy: str = "",
    ) -> None:
        if verb not in VERBS:
            raise ValueError(f"verb must be one of {', '.join(VERBS)}, got {verb!r}")
        self.plugin, self.verb, self.environment, self.settings = plugin, verb, environment, settings
        self.timeout, self.load_timeout, self.log, self.remedy = timeout, load_timeout, log, remedy
        name, colon, kind = plugin.partition(":")
        self._worker = Worker(
            environment,
            str(Path(name).absolute()) + colon + kind if name.endswith(".py") else plugin,
            dict(settings or {}),
            verb,
            timeout=timeout,
            load_timeout=load_timeout,
            log=log,
            remedy=remedy,
        )
        # bound to the worker and not to self: without a cycle, the process ends as soon as this object does
        setattr(self, verb, getattr(_Verbs(self._worker), verb))

    def close(self) -> None:
        """End the worker; the next batch starts another."""
        self._worker.close()


class _Verbs:
    """Every verb, as questions to a worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        return [_texts(x) for x in self.worker.ask(images)]

    def detect(self, images: Sequence[Image], tags: Sequence[Sequence[str]]) -> list[Layout]:
        return [_layout(x, images[0].device) for x in self.worker.ask(images, [list(x) for x in tags])]

    def segment(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[RunLengths]]:
        return [_masks(x) for x in self.worker.ask(images, [_fields(x) for x in layouts])]

    def caption(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[list[str]]:
        return [_texts(x) for x in self.worker.ask(images, [_fields(x) for x in layouts])]


def _texts(texts: Any) -> list[str]:
    if not isinstance(texts, list) or not all(isinstance(x, str) for x in texts):
        raise WorkerError(f"the result for an image must be a list of strings, got {texts!r:.80}")
    return texts


def _fields(layout: Layout) -> dict[str, Any]:
    masks = layout.masks
    placed = {"points": layout.points, "scribbles": layout.scribbles}
    return {
        "boxes": layout.boxes,
        "labels": layout.labels,
        "captions": layout.captions,
        "scores": layout.scores,
        "masks": None if masks is None else [{"size": list(x.size), "counts": x.counts.decode()} for x in masks],
        **{name: value for name, value in placed.items() if value is not None},
    }


def _layout(fields: Any, device: torch.device) -> Layout:
    if not isinstance(fields, Mapping) or not {"boxes", "labels"} <= set(fields):
        raise WorkerError(f"a detector's result must have boxes and labels, got {fields!r:.80}")
    scores, masks = fields.get("scores"), fields.get("masks")
    return Layout(
        boxes=_floats(fields["boxes"], device).reshape(-1, 4),
        labels=list(fields["labels"]),
        captions=list(fields.get("captions") or []),
        scores=None if scores is None else _floats(scores, device),
        masks=None if masks is None else _masks(masks),
    )


def _floats(values: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)


def _masks(masks: Any) -> list[RunLengths]:
    """From one array of all masks, or from a list of arrays and run lengths."""
    if isinstance(masks, np.ndarray):
        return RunLengths.encode(torch.from_numpy(masks.astype(bool)))
    found = []
    for mask in masks:
        if isinstance(mask, Mapping):
            height, width = mask["size"]
            found.append(RunLengths((height, width), mask["counts"].encode()))
        else:
            found += RunLengths.encode(torch.from_numpy(np.asarray(mask).astype(bool))[None])
    return found
