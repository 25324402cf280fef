"""FiftyOne's datasets on disk.

Source: docs.voxel51.com, FiftyOneDataset, and the importer of github.com/voxel51/fiftyone (Apache-2.0). Without
a ``version`` in its ``metadata.json`` a dataset is one of FiftyOne's older, simpler kind, which all versions
read: ``fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)``.
"""

import base64
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from scenewright.datasets.formats.documents import JSONLists, to_json
from scenewright.datasets.formats.pictures import Pictures, size_of
from scenewright.datasets.formats.pixels import corners
from scenewright.layout import Layout, RunLengths, Sample


class FiftyOne:
    """``metadata.json``, ``samples.json`` and ``data/``.

    A sample has ``key``, ``caption``, ``words`` (our tags; FiftyOne's own ``tags`` are for other things) and
    ``regions``: detections with label, box, confidence, caption, and the mask inside the box. Masks lie on whole
    pixels and boxes need not, so a mask may be off by less than a pixel.

    Args:
        images: ``copy``, ``link``, ``path`` or ``none``.
        image_root: for ``link`` and ``path``: where the images are.
    """

    def __init__(self, images: str = "copy", image_root: str | None = None) -> None:
        self.images, self.image_root = images, image_root

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write all samples; returns what was done besides."""
        pictures, labels = Pictures(folder / "data", self.images, self.image_root), dict[str, None]()
        with JSONLists(folder / "samples.json", "samples") as document:
            for sample in samples:
                name = pictures.place(sample)
                document.add("samples", self._sample(sample, name if self.images == "path" else f"data/{name}"))
                labels.update(dict.fromkeys(sample.layout.labels))
        about = {"name": "scenewright", "media_type": "image", "info": {}, "classes": {"regions": list(labels)}}
        (folder / "metadata.json").write_bytes(to_json(about, indent=4))
        return {"pictures made anew": pictures.redrawn}

    def _sample(self, sample: Sample, path: str) -> dict[str, Any]:
        height, width = size_of(sample)
        return {
            "filepath": path,
            "tags": [],
            "metadata": {"_cls": "ImageMetadata", "width": width, "height": height, "num_channels": 3},
            "key": sample.key,
            "caption": sample.caption,
            "words": sample.tags,
            "source_metadata": json.dumps(dict(sample.metadata), ensure_ascii=False, default=str),
            "regions": {"_cls": "Detections", "detections": _detections(sample.layout, height, width)},
        }


def _detections(layout: Layout, height: int, width: int) -> list[dict[str, Any]]:
    found = []
    for i, box in enumerate(corners(layout, height, width)):
        x0, y0, x1, y1 = (box / [width, height, width, height]).tolist()
        detection: dict[str, Any] = {
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": layout.labels[i],
            "bounding_box": [x0, y0, x1 - x0, y1 - y0],
        }
        if layout.scores is not None:
            detection["confidence"] = float(str(layout.scores.cpu().numpy()[i]))
        if layout.captions:
            detection["caption"] = layout.captions[i]
        if layout.masks is not None:
            detection["mask"] = _inside(layout.masks[i], box)
        found.append(detection)
    return found


def _inside(mask: RunLengths, box: Float[np.ndarray, " 4"]) -> dict[str, Any]:
    """The part of a mask inside a box, as FiftyOne stores arrays: NumPy's file, deflated, in MongoDB's JSON."""
    height, width = mask.size
    x0, y0 = np.floor(box[:2]).astype(int).clip(0, [width - 1, height - 1])
    x1, y1 = np.ceil(box[2:]).astype(int).clip([x0 + 1, y0 + 1], [width, height])
    file = io.BytesIO()
    np.save(file, mask.decode().numpy()[y0:y1, x0:x1], allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}
