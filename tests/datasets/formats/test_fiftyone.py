"""FiftyOne's dataset on disk, read as its importer does."""

import base64
import io
import json
import zlib

import numpy as np

from scenewright.datasets.formats.fiftyone import FiftyOne
from scenewright.datasets.formats.pixels import corners


def test_a_dataset_is_of_the_kind_that_every_version_reads(samples, tmp_path):
    FiftyOne().write(samples, tmp_path)
    about = json.loads((tmp_path / "metadata.json").read_text())
    assert "version" not in about and "sample_fields" not in about and about["media_type"] == "image"
    found = json.loads((tmp_path / "samples.json").read_text())["samples"]
    for sample, record in zip(samples, found, strict=True):
        layout, (height, width) = sample.layout, sample.image.shape[1:]
        assert (tmp_path / record["filepath"]).read_bytes() == sample.source.data
        assert record["metadata"] == {"_cls": "ImageMetadata", "width": width, "height": height, "num_channels": 3}
        assert (record["caption"], record["words"], record["regions"]["_cls"]) == (
            sample.caption,
            sample.tags,
            "Detections",
        )
        detections = record["regions"]["detections"]
        assert [x["label"] for x in detections] == layout.labels and all(x["_cls"] == "Detection" for x in detections)
        assert [x.get("caption") for x in detections] == (layout.captions or [None] * len(layout))
        boxes = np.array([x["bounding_box"] for x in detections]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, layout.boxes.numpy(), atol=1e-6)


def test_a_mask_is_what_lies_inside_its_box(samples, tmp_path):
    FiftyOne(images="none").write(samples, tmp_path)
    found = json.loads((tmp_path / "samples.json").read_text())["samples"]
    for sample, record in zip(samples, found, strict=True):
        height, width = sample.image.shape[1:]
        boxes = corners(sample.layout, height, width)
        for i, detection in enumerate(record["regions"]["detections"]):
            if not sample.layout.masks:
                assert "mask" not in detection
                continue
            stored = zlib.decompress(base64.b64decode(detection["mask"]["$binary"]["base64"]))
            mask = np.load(io.BytesIO(stored), allow_pickle=False)
            x0, y0 = np.floor(boxes[i, :2]).astype(int)
            whole = np.zeros((height, width), bool)
            whole[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
            assert (whole == sample.layout.masks[i].decode().numpy()).all()
            assert np.abs(mask.shape - (boxes[i, [3, 2]] - boxes[i, [1, 0]])).max() < 2
