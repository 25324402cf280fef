"""Any detector, some tags at a time."""

import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.detectors.chunked import Chunked
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import Detector


class Recorder:
    """Finds each tag at a place of its own, unless its name is in ``nowhere``; tags of one letter overlap."""

    def __init__(self, nowhere=(), masks=False):
        self.nowhere, self.masks, self.calls, self.batches = nowhere, masks, [], 0

    def detect(self, images, tags):
        self.batches += 1
        self.calls += [(image.shape[2], list(some)) for image, some in zip(images, tags, strict=True)]
        return [
            self._found(image, [x for x in some if x not in self.nowhere])
            for image, some in zip(images, tags, strict=True)
        ]

    def _found(self, image, tags):
        if not tags:
            return Layout.empty()
        starts = torch.tensor([0.0 if len(tag) == 1 else int(tag[1:]) / 100 for tag in tags])
        boxes = torch.stack([starts, torch.zeros(len(tags)), starts + 0.01, torch.ones(len(tags))], 1)
        scores = torch.tensor([0.5 + ord(tag[-1]) / 1000 for tag in tags])
        masks = RunLengths.encode(torch.ones(len(tags), *image.shape[1:], dtype=torch.bool)) if self.masks else None
        return Layout(boxes=boxes, labels=tags, scores=scores, masks=masks)


class Counting(Recorder):
    """As a detector that tells how much its prompt holds: one token per letter."""

    token_limit = 6

    def count_tokens(self, tags):
        return len("".join(tags))


class Seeded(Recorder):
    def detect(self, images, tags, seeds):
        self.seeds = seeds
        return super().detect(images, tags)


IMAGES = [torch.zeros(3, 4, width, dtype=torch.uint8) for width in (5, 6, 7)]


def test_it_is_a_detector():
    assert isinstance(Chunked(Recorder()), Detector)


def test_no_images_give_no_layouts():
    assert Chunked(Recorder()).detect([], []) == []


def test_less_than_one_tag_at_a_time_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Chunked(Recorder(), max_tags=0)


def test_an_image_without_tags_is_still_shown_to_the_detector():
    inner = Recorder()
    assert [len(x) for x in Chunked(inner).detect(IMAGES[:1], [[]])] == [0]
    assert inner.calls == [(5, [])]


def test_tags_are_split_and_their_regions_merged_image_by_image():
    inner = Recorder(nowhere=["t3"])
    tags = [[f"t{i}" for i in range(10, 17)], ["t3"], ["t1", "t2", "t3", "t4"]]
    found = Chunked(inner, max_tags=3).detect(IMAGES, tags)
    assert inner.batches == 1, "the detector sees everything at once, to batch as it likes"
    assert inner.calls == [
        (5, ["t10", "t11", "t12"]),
        (5, ["t13", "t14", "t15"]),
        (5, ["t16"]),
        (6, ["t3"]),
        (7, ["t1", "t2", "t3"]),
        (7, ["t4"]),
    ]
    assert [sorted(x.labels) for x in found] == [sorted(tags[0]), [], ["t1", "t2", "t4"]]
    assert found[2].labels == ["t4", "t2", "t1"], "surest first, across the calls"
    assert found[2].boxes[:, 0].tolist() == pytest.approx([0.04, 0.02, 0.01])


def test_what_different_calls_found_at_one_place_is_found_once():
    tags = [["a", "b", "c"]]
    (found,) = Chunked(Recorder(), max_tags=1).detect(IMAGES[:1], tags)
    assert found.labels == ["c"]
    (found,) = Chunked(Recorder(), max_tags=1, class_agnostic=False).detect(IMAGES[:1], tags)
    assert found.labels == ["c", "b", "a"]
    (found,) = Chunked(Recorder(), max_tags=1, nms_threshold=None, max_boxes=2).detect(IMAGES[:1], tags)
    assert found.labels == ["c", "b"]


def test_masks_stay_with_their_regions():
    (found,) = Chunked(Recorder(masks=True), max_tags=1).detect(IMAGES[:1], [["t1", "t2"]])
    assert found.masks is not None and [x.size for x in found.masks] == [(4, 5)] * 2


def test_a_detector_that_counts_tokens_is_never_asked_for_more_than_it_holds():
    inner = Counting()
    Chunked(inner, max_tags=4).detect(IMAGES[:1], [["t1", "t2", "t3", "t4", "t1000000", "t5"]])
    assert [tags for _, tags in inner.calls] == [["t1", "t2", "t3"], ["t4"], ["t1000000"], ["t5"]]


def test_seeds_reach_a_detector_that_takes_them():
    inner = Seeded()
    Chunked(inner, max_tags=1).detect(IMAGES[:2], [["t1", "t2"], ["t3"]], seeds=[7, 8])
    assert inner.seeds == [7, 7, 8]


def test_the_detector_inside_is_chosen_by_configuration(config):
    cfg = config("annotate", "annotator/detector=chunked", "output_dir=x")
    assert cfg.annotator.detector._target_.endswith("Chunked")
    assert cfg.annotator.detector.detector._target_.endswith("OWLv2")
    cfg = config(
        "annotate",
        "annotator/detector=chunked",
        "annotator/detector@annotator.detector.detector=superpixels",
        "annotator.detector.detector.side=96",
        "output_dir=x",
    )
    made = instantiate(cfg.annotator.detector, _convert_="all")
    assert type(made.detector).__name__ == "Superpixels" and made.detector.side == 96
