"""ShapesAccuracy: is the right colour and shape in each box of a drawn scene? Needs no weights.

In each box the object is cut out, and its colour and shape are read by rules. What the rules give on the scenes
themselves is as much as a model can reach: ``images=truth`` measures it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from scenewright.evaluation.scoring import Record, RecordingMetric
from scenewright.layout import Image, RunLengths, Sample
from scenewright.protocols import Segmenter

#: From pixels and a mask to what is there, with ``colours`` (name and share, the largest first) and ``shape``.
Describe = Callable[[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]], Any]


class ShapesAccuracy(RecordingMetric):
    """The share of regions whose colour and shape are those of ``metadata["objects"]``, as ``dataset=shapes`` has it.

    Args:
        segmenter: cuts out an object, given its box alone.
        describe: reads colour and shape.
    """

    def __init__(self, segmenter: Segmenter, describe: Describe) -> None:
        super().__init__()
        self.segmenter, self.describe = segmenter, describe

    def score(self, generated: Sequence[Image], samples: Sequence[Sample]) -> list[Record]:
        # by its box alone: masks would tell the segmenter what is to be found out
        layouts = [replace(x.layout, masks=None) for x in samples]
        masks = self.segmenter.segment(generated, layouts)
        return [self._record(*x) for x in zip(generated, samples, masks, strict=True)]

    def _record(self, image: Image, sample: Sample, masks: Sequence[RunLengths]) -> Record:
        truth = sample.metadata.get("objects", ())
        names = ("shapes_accuracy", "colour", "shape")
        if len(truth) != len(sample.layout):
            why = f"metadata.objects must name colour and shape of all {len(sample.layout)} regions, got {len(truth)}"
            return Record(sample.key, {x: [math.nan] * len(sample.layout) for x in names}, problems=[why])
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        colours, shapes = [], []
        for drawn, mask in zip(truth, masks, strict=True):
            seen = self.describe(pixels, mask.decode().numpy())
            colours.append(float(bool(seen.colours) and seen.colours[0][0] == drawn["colour"]))
            shapes.append(float(seen.shape == drawn["shape"]))
        both = [x * y for x, y in zip(colours, shapes, strict=True)]
        return Record(sample.key, dict(zip(names, (both, colours, shapes), strict=True)))
