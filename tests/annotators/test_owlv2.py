"""OWLv2 through the real classes of transformers: tiny, random, saved and loaded."""

import string
from functools import cache
from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.owlv2 import OWLv2
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

TAGS = ["Cat", "dog", "red bus"]


def tokenizer():
    from transformers import CLIPTokenizer

    letters = ["!", *string.ascii_lowercase]  # the first one fills up
    words = [*letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], pad_token="!")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    path = tmp_path_factory.mktemp("owlv2")
    text = {"vocab_size": 56, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 48, "patch_size": 8}
    config = Owlv2Config(
        text_config=text | {"num_attention_heads": 2, "max_position_embeddings": 30},
        vision_config=vision | {"num_attention_heads": 2},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Owlv2ForObjectDetection(config)
        for parameter in network.parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.2 * torch.randn_like(parameter)
        network.class_head.logit_scale.weight.data *= 0.1  # and scores of 1 would not differ either
        network.class_head.logit_shift.weight.data *= 0.1
    network.save_pretrained(path)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 48, "width": 48}), tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (40, 40), (10, 100), (200, 150)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def make(checkpoint):
    @cache  # loading takes longer than detecting
    def made(**options) -> OWLv2:
        return OWLv2(str(checkpoint), **({"box_threshold": 0.3, "nms_threshold": None} | options))

    return made


def test_without_tags_nothing_is_found_and_nothing_is_loaded(images):
    assert [len(x) for x in OWLv2("nowhere").detect(images[:2], [[], [" "]])] == [0, 0]


def test_it_is_a_detector(make):
    assert isinstance(make(), Detector)


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        OWLv2(str(tmp_path)).detect(images[:1], [["cat"]])


def test_a_template_without_a_place_is_refused():
    with pytest.raises(ValueError, match="where the tag goes"):
        OWLv2(template="a photo")


def test_it_finds_what_transformers_finds(make, checkpoint, images):
    """Boxes included: theirs are scaled by the longer side, for the picture is padded to a square."""
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    processor = Owlv2Processor.from_pretrained(checkpoint)
    network = Owlv2ForObjectDetection.from_pretrained(checkpoint).eval()
    for image, found in zip(images, make().detect(images, [TAGS] * 5), strict=True):
        texts = [[f"a photo of a {tag}" for tag in TAGS]]
        inputs = processor(text=texts, images=image, return_tensors="pt", max_length=30)
        with torch.inference_mode():
            outputs = network(**inputs)
        height, width = image.shape[1:]
        (expected,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.3, target_sizes=[(height, width)], text_labels=[TAGS]
        )
        order = expected["scores"].argsort(descending=True, stable=True)
        assert found.labels == [expected["text_labels"][i] for i in order] and len(found) > 3
        assert torch.allclose(found.scores, expected["scores"][order], atol=1e-5)
        assert torch.allclose(found.pixel_boxes(height, width), expected["boxes"][order], atol=1e-2)
    assert len({label for x in make().detect(images, [TAGS] * 5) for label in x.labels}) > 1


def test_a_batch_finds_what_each_image_alone_does(make, images):
    tags = [TAGS, ["dog"], ["zebra", "cat"], [], TAGS[::-1]]
    together = make().detect(images, tags)
    for image, names, found in zip(images, tags, together, strict=True):
        (alone,) = make(batch_size=1).detect([image], [names])
        assert found.labels == alone.labels
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-4)
    assert len(together[3]) == 0 and sum(map(len, together)) > 10


def test_a_text_is_encoded_once(make, images):
    detector = make(batch_size=2)
    rows = []
    detector._network.owlv2.text_model.register_forward_pre_hook(
        lambda _, __, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    first = detector.detect(images, [TAGS] * 5)
    again = detector.detect(images, [TAGS[:2]] * 4 + [TAGS])
    assert sum(rows) == 3
    assert torch.equal(first[4].boxes, again[4].boxes) and torch.equal(first[4].scores, again[4].scores)


def test_a_long_tag_is_cut_and_not_refused(make, images):
    assert len(make(box_threshold=0.0).detect(images[:1], [["very " * 50 + "long"]])[0]) == 36


def test_boxes_are_suppressed_and_limited(make, images):
    (found,) = make(box_threshold=0.0, nms_threshold=0.1).detect(images[:1], [TAGS])
    assert 0 < len(found) < 36
    assert len(make(box_threshold=0.0, max_boxes=3).detect(images[:1], [TAGS])[0]) == 3
    assert len(make(box_threshold=1.0).detect(images[:1], [TAGS])[0]) == 0


def test_it_runs_in_half_precision(make, images):
    found = make(dtype="bfloat16", box_threshold=0.0).detect(images[:2], [TAGS] * 2)
    assert all(len(x) == 36 and x.boxes.isfinite().all() and x.boxes.dtype == torch.float32 for x in found)
