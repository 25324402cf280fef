"""image -> tags -> boxes -> masks -> captions."""

import hashlib
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from more_itertools import batched
from torch import Tensor

from scenewright.annotators.ahead import ahead
from scenewright.annotators.dropping import dropped
from scenewright.annotators.seeds import seeded
from scenewright.batching import out_of_memory
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Layout, Sample
from scenewright.protocols import Captioner, Detector, Filter, Segmenter, Tagger

logger = logging.getLogger(__name__)

#: The stages that annotators make up, in their order.
STAGES = ("tagger", "detector", "segmenter", "captioner")

#: A stage takes samples whose images are sound and returns them annotated, in order, or raises.
Stage = Callable[[Sequence[Sample]], list[Sample]]


@dataclass
class Timings:
    """Where the time of one run went.

    Attributes:
        seconds: by stage; ``wait`` is the time in which no decoded image was ready.
        images: how many came out.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    images: int = 0


def annotate(
    samples: Iterable[Sample],
    *,
    tagger: Tagger | None = None,
    detector: Detector | None = None,
    segmenter: Segmenter | None = None,
    captioner: Captioner | None = None,
    filters: Sequence[Filter] = (),
    purge: bool = False,
    clip_boxes: bool = True,
    batch_size: int = 8,
    workers: int = 4,
    device: torch.device | str = "cpu",
    seed: int = 0,
    timings: Timings | None = None,
) -> Iterator[Sample]:
    """Run the stages that are given; a stage left out leaves what the sample already holds.

    So a fresh folder takes all four, COCO's own boxes take a captioner alone,
    and old shards are recaptioned without detecting again. Images are decoded
    ahead in threads while the stages work on batches.

    Args:
        samples: in any image sizes, any number of them.
        filters: each is asked after the stage that it names, in their order; what they drop, later stages
            never see. Dropped regions stay in ``Sample.dropped``, with the reason.
        purge: forget the dropped regions.
        clip_boxes: cut boxes off at the image's edges. The reference systems do not.
        batch_size: images that a stage sees at once; results do not depend on it.
        workers: threads that read and decode.
        device: where images are put before the stages see them.
        seed: with a sample's key, the seed of the annotators that draw random numbers.
        timings: filled in while running, if given.

    Yields:
        One sample per input, in order. An image where nothing is found has a layout
        of no regions. A caption that was given is kept. An image that cannot be read,
        or on which an annotator fails, comes out with ``error`` set and takes no
        other image with it.

    Raises:
        CheckpointError: the weights of a plugin are missing or unusable: nothing goes on without them.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch_size and workers must be at least 1, got {batch_size} and {workers}")
    timings = timings if timings is not None else Timings()
    stages = _with_filters(_stages(tagger, detector, segmenter, captioner, device, seed, clip_boxes), filters, purge)
    load = partial(_load, clip=clip_boxes)
    with closing(ahead(load, samples, workers=workers, depth=2 * batch_size + workers)) as loaded:
        for batch in _timed(batched(loaded, batch_size), timings.seconds, "wait"):
            for name, stage in stages:
                start = time.perf_counter()
                sound = iter(_attempt(name, stage, [s for s in batch if _is_sound(s)]))
                batch = tuple(next(sound) if _is_sound(s) else s for s in batch)
                timings.seconds[name] += time.perf_counter() - start
            timings.images += len(batch)
            yield from batch


def _is_sound(sample: Sample) -> bool:
    return not (sample.error or sample.rejected)


def _load(sample: Sample, clip: bool) -> Sample:
    if sample.error:
        return sample
    try:
        sample.image  # noqa: B018 the first touch reads and decodes
        return _with_layout(sample, sample.layout, clip) if len(sample.layout) else sample
    except Exception as error:  # the file is a stranger's: whatever it makes a decoder raise is its own fault
        return replace(sample, error=_reason(error))


def _attempt(name: str, stage: Stage, samples: Sequence[Sample]) -> list[Sample]:
    """Run a stage; where it fails, halve the batch until only the images that it fails on are lost."""
    if not samples:
        return []
    try:
        return stage(samples)
    except CheckpointError:
        raise
    except Exception as error:  # a plugin is a stranger's too
        if len(samples) == 1:
            logger.info("%s failed on %s", name, samples[0].key, exc_info=True)
            return [replace(samples[0], error=f"{name}: {_reason(error)}")]
        exhausted = out_of_memory(error)
    if exhausted:  # outside of the handler, which keeps the failed call's tensors alive
        logger.warning("%s ran out of memory on %d images; going on with halves of them", name, len(samples))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    middle = len(samples) // 2
    return _attempt(name, stage, samples[:middle]) + _attempt(name, stage, samples[middle:])


def _reason(error: Exception) -> str:
    """One line that is the same in every run: no addresses, and no folder of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    text = re.sub(r" ?\bat 0x[0-9a-f]+", "", " ".join(str(error).split()))
    return text[:300] if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"[:300]


def _timed(items: Iterable[Any], seconds: dict[str, float], name: str) -> Iterator[Any]:
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        item = next(iterator, None)
        seconds[name] += time.perf_counter() - start
        if item is None:
            return
        yield item


def _stages(
    tagger: Tagger | None,
    detector: Detector | None,
    segmenter: Segmenter | None,
    captioner: Captioner | None,
    device: torch.device | str,
    seed: int,
    clip: bool,
) -> list[tuple[str, Stage]]:
    """The stages that were given, each with its name."""

    def images(samples: Sequence[Sample]) -> list[Tensor]:
        return [s.image.to(device) for s in samples]

    def layouts(samples: Sequence[Sample]) -> list[Layout]:
        return [s.layout.to(device) for s in samples]

    def tag(samples: Sequence[Sample]) -> list[Sample]:
        tags = _call(tagger, "tag", samples, seed, images(samples))
        return [replace(s, tags=_texts(t, "tags")) for s, t in zip(samples, tags, strict=True)]

    def detect(samples: Sequence[Sample]) -> list[Sample]:
        found = _call(detector, "detect", samples, seed, images(samples), [s.tags for s in samples])
        return [_with_layout(s, x.to("cpu"), clip) for s, x in zip(samples, found, strict=True)]

    def segment(samples: Sequence[Sample]) -> list[Sample]:
        # models refuse an image without regions, and have nothing to do there
        full = [s for s in samples if len(s.layout)]
        masks = iter(_call(segmenter, "segment", full, seed, images(full), layouts(full)))
        return [_with_masks(s, next(masks)) if len(s.layout) else s for s in samples]

    def caption_regions(samples: Sequence[Sample]) -> list[Sample]:
        full = [s for s in samples if len(s.layout)]
        regions = iter(_call(captioner, "caption", full, seed, images(full), layouts(full)))
        return [_with_captions(s, next(regions)) if len(s.layout) else s for s in samples]

    def caption_images(samples: Sequence[Sample]) -> list[Sample]:
        bare = [s for s in samples if not s.caption]
        whole = [Layout.whole().to(device)] * len(bare)
        wholes = iter(_call(captioner, "caption", bare, seed, images(bare), whole))
        return [s if s.caption else replace(s, caption=_texts(next(wholes), "captions", 1)[0]) for s in samples]

    every = [("tagger", tagger, tag), ("detector", detector, detect), ("segmenter", segmenter, segment)]
    # two stages, so that where one fails the other's work is not done again
    every += [("captioner", captioner, caption_regions), ("captioner", captioner, caption_images)]
    return [(name, stage) for name, plugin, stage in every if plugin is not None]


def _with_filters(
    stages: Sequence[tuple[str, Stage]], filters: Sequence[Filter], purge: bool
) -> list[tuple[str, Stage]]:
    """The stages, with a stage of the filters that look at its results behind each."""
    places = ["source", *STAGES]
    for judge in filters:
        if judge.after not in places:
            raise ValueError(f"{type(judge).__name__}.after must be one of {places}, got {judge.after!r}")
    every: list[tuple[str, Stage]] = []
    for place in places:
        every += [(name, stage) for name, stage in stages if name == place]
        judges = [x for x in filters if x.after == place]
        if judges:
            every.append(("filters", partial(dropped, judges, purge=purge)))
    return every


def _call(plugin: Any, verb: str, samples: Sequence[Sample], seed: int, *arguments: Any) -> list[Any]:
    """Call a plugin's verb on a batch, with seeds if it takes them, and count what comes back."""
    if not samples:
        return []
    method = getattr(plugin, verb)
    results = seeded(method, *arguments, seeds=[seed_of(s.key, seed) for s in samples])
    if len(results) != len(samples):
        raise ValueError(f"{type(plugin).__name__}.{verb} returned {len(results)} items for {len(samples)} images")
    return results


def seed_of(key: str, seed: int) -> int:
    """An image's own seed, in [0, 2**63): the same in every batch, process and run."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) >> 1


def _with_layout(sample: Sample, layout: Layout, clip: bool = True) -> Sample:
    """Take a detector's layout, without what cannot be a box."""
    boxes, scores = layout.boxes.float(), layout.scores
    finite = boxes.isfinite().all(1)
    if scores is not None:
        finite &= scores.isfinite()
    inside = boxes.nan_to_num().clamp(0, 1)
    sized = (inside[:, 2:] > inside[:, :2]).all(1)
    reaching = finite & sized & ((boxes - inside).abs() > 0.01).any(1)
    notes = {
        "had values that are not finite and were dropped": ~finite,
        "had no area inside the image and were dropped": finite & ~sized,
        "reached outside the image and were clipped": reaching,
    }
    warnings = [f"{int(which.sum())} of {len(layout)} boxes {what}" for what, which in notes.items() if which.any()]
    if layout.masks is not None:
        _check_masks(sample, layout.masks)
    if not clip:
        layout = layout.keep(finite & sized)
        warnings = [x for x in warnings if "clipped" not in x]
    elif warnings:  # else the boxes stay the very same
        layout = replace(layout, boxes=inside).keep(finite & sized)
    elif not torch.equal(inside, layout.boxes):
        layout = replace(layout, boxes=inside)
    return replace(sample, layout=layout, warnings=[*sample.warnings, *warnings])


def _with_masks(sample: Sample, masks: list[Any]) -> Sample:
    _check_masks(sample, masks)
    return replace(sample, layout=replace(sample.layout, masks=list(masks)))


def _check_masks(sample: Sample, masks: list[Any]) -> None:
    height, width = sample.image.shape[1:]
    for mask in masks:
        if tuple(mask.size) != (height, width):
            raise ValueError(f"masks must have the size of their image, {(height, width)}, got {tuple(mask.size)}")


def _with_captions(sample: Sample, captions: Any) -> Sample:
    captions = _texts(captions, "captions", len(sample.layout))
    return replace(sample, layout=replace(sample.layout, captions=captions))


def _texts(texts: Any, what: str, count: int | None = None) -> list[str]:
    """A plugin's texts for one image; a bare string would pass for a list of letters."""
    if not isinstance(texts, (list, tuple)) or not all(isinstance(x, str) for x in texts):
        raise ValueError(f"{what} of an image must be a list of strings, got {texts!r:.80}")
    if count is not None and len(texts) != count:
        raise ValueError(f"there must be one of the {what} per region ({count}), got {len(texts)}")
    return list(texts)
