"""RT-DETRv2 through the real classes of transformers: tiny, random, saved and loaded."""

from functools import cache
from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.rtdetr import RTDETR
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

CLASSES = {0: "person", 1: "Traffic light", 2: "dog"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from transformers import RTDetrImageProcessor, RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    path = tmp_path_factory.mktemp("rtdetr")
    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 8],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=16,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_layers=2,
        num_queries=20,
        id2label=CLASSES,
        label2id={name: i for i, name in CLASSES.items()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RTDetrV2ForObjectDetection(config)
        for parameter in network.parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.2 * torch.randn_like(parameter)
        torch.manual_seed(1)  # with which more than one class is found
        for head in network.model.decoder.class_embed:
            head.weight.data.normal_(0, 0.5)
            head.bias.data.zero_()
        for head in network.model.decoder.bbox_embed:
            head.layers[-1].bias.data[2:] += 1  # large enough to overlap
    network.save_pretrained(path)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (40, 40), (10, 100), (200, 150)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def make(checkpoint):
    @cache  # loading takes longer than detecting
    def made(**options) -> RTDETR:
        return RTDETR(str(checkpoint), **({"box_threshold": 0.3, "nms_threshold": None} | options))

    return made


def test_it_is_a_detector(make):
    assert isinstance(make(), Detector)


def test_no_images_give_no_layouts():
    assert RTDETR("nowhere").detect([], []) == []


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        RTDETR(str(tmp_path)).detect(images[:1], [[]])


def test_each_query_has_the_surest_class_that_transformers_gives_it(make, checkpoint, images):
    from transformers import RTDetrImageProcessor, RTDetrV2ForObjectDetection

    processor = RTDetrImageProcessor.from_pretrained(checkpoint)
    network = RTDetrV2ForObjectDetection.from_pretrained(checkpoint).eval()
    labels = set()
    for image, found in zip(images, make().detect(images, [[]] * 5), strict=True):
        height, width = image.shape[1:]
        with torch.inference_mode():
            outputs = network(**processor(image, return_tensors="pt"))
        (theirs,) = processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=[(height, width)])
        # they list a query once for every class it scores high; its surest comes first
        best = {}
        for score, label, box in zip(theirs["scores"], theirs["labels"], theirs["boxes"], strict=True):
            best.setdefault(tuple(box.tolist()), (score.item(), CLASSES[label.item()], box))
        assert len(found) >= len(best) > 3  # theirs are as many as there are queries, and no more
        for score, label, box in best.values():
            at = int((found.pixel_boxes(height, width) - box).abs().amax(1).argmin())
            assert torch.allclose(found.pixel_boxes(height, width)[at], box, atol=1e-3)
            assert found.labels[at] == label and found.scores[at].item() == pytest.approx(score, abs=1e-5)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        labels |= set(found.labels)
    assert len(labels) > 1


def test_tags_are_ignored_unless_it_is_restricted_to_them(make, images):
    (everything,) = make().detect(images[:1], [["dog"]])
    assert everything.labels == make().detect(images[:1], [[]])[0].labels
    name = everything.labels[0]
    (some,) = make(restrict_to_tags=True).detect(images[:1], [[f" {name.upper()}", "unicorn"]])
    assert some.labels == [x for x in everything.labels if x == name] and len(some) > 0
    (none,) = make(restrict_to_tags=True).detect(images[:1], [["unicorn"]])
    assert len(none) == 0


def test_restricted_to_no_tags_it_is_not_even_loaded(images):
    assert len(RTDETR("nowhere", restrict_to_tags=True).detect(images[:1], [[]])[0]) == 0


def test_a_batch_finds_what_each_image_alone_does(make, images):
    together = make().detect(images, [[]] * 5)
    for image, found in zip(images, together, strict=True):
        (alone,) = make(batch_size=1).detect([image], [[]])
        assert found.labels == alone.labels
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-4)
    assert sum(map(len, together)) > 10


def test_boxes_are_suppressed_and_limited(make, images):
    assert len(make(box_threshold=0.0).detect(images[:1], [[]])[0]) == 20
    assert len(make(box_threshold=0.0, nms_threshold=0.0).detect(images[:1], [[]])[0]) < 20
    assert len(make(box_threshold=0.0, max_boxes=3).detect(images[:1], [[]])[0]) == 3
    assert len(make(box_threshold=1.0).detect(images[:1], [[]])[0]) == 0


def test_it_runs_in_half_precision(make, images):
    found = make(dtype="bfloat16", box_threshold=0.0).detect(images[:2], [[]] * 2)
    assert all(len(x) == 20 and x.boxes.isfinite().all() and x.boxes.dtype == torch.float32 for x in found)
