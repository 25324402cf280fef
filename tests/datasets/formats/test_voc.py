"""Pascal VOC."""

from xml.etree import ElementTree

import numpy as np
import supervision
from PIL import Image as PILImage

from scenewright.datasets.formats.pixels import corners
from scenewright.datasets.formats.voc import VOC


def test_supervision_reads_the_boxes_within_half_a_pixel(samples, tmp_path):
    VOC().write(samples, tmp_path)
    dataset = supervision.DetectionDataset.from_pascal_voc(str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations"))
    found = {path.split("/")[-1].split(".")[0]: detections for path, _, detections in dataset}
    for sample in samples:
        height, width = sample.image.shape[1:]
        boxes, detections = corners(sample.layout, height, width), found[sample.key]
        labels = [dataset.classes[i] for i in detections.class_id] if len(detections) else []
        assert labels == sample.layout.labels
        if len(boxes):
            # a box narrower than a pixel still has one
            large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
            assert np.abs(detections.xyxy - boxes)[large].max(initial=0) <= 0.5001


def test_pixels_count_from_one_and_the_last_belongs_to_the_box(sample, tmp_path):
    VOC().write([sample("a", ["full"], (40, 56))], tmp_path)
    box = ElementTree.parse(tmp_path / "Annotations/a.xml").find("object/bndbox")
    assert [int(x.text) for x in box] == [1, 1, 56, 40]
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == "a\n"


def test_masks_are_numbers_of_objects_small_ones_on_top(sample, tmp_path):
    one = sample("a", ["parts", "full", "pixel"])
    VOC().write([one, sample("b", ["full"], masks=False)], tmp_path)
    with PILImage.open(tmp_path / "SegmentationObject/a.png") as image:
        assert image.mode == "P" and image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        numbers = np.asarray(image)
    masks = [mask.decode().numpy() for mask in one.layout.masks]
    assert (numbers[masks[2]] == 3).all()
    assert (numbers[masks[0] & ~masks[2]] == 1).all()
    assert (numbers[~masks[0] & ~masks[2]] == 2).all()
    assert [x.name for x in (tmp_path / "SegmentationObject").iterdir()] == ["a.png"]


def test_what_xml_cannot_hold_is_replaced(sample, tmp_path):
    from dataclasses import replace

    one = sample("a", ["full"])
    VOC().write([replace(one, layout=replace(one.layout, labels=["a\x07b\udc80 & <c>"]))], tmp_path)
    assert ElementTree.parse(tmp_path / "Annotations/a.xml").find("object/name").text == "a\ufffdb\ufffd & <c>"
