"""OmDet-Turbo through the real classes of transformers: tiny, random, saved and loaded."""

import string
from functools import cache
from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.omdet_turbo import OmDetTurbo
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

TAGS = ["Cat", "dog", "red bus"]


def tokenizer():
    from transformers import CLIPTokenizer

    letters = [".", ",", *string.ascii_lowercase]
    words = ["!", *letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from transformers import (
        CLIPTextConfig,
        DetrImageProcessor,
        OmDetTurboConfig,
        OmDetTurboForObjectDetection,
        OmDetTurboProcessor,
        SwinConfig,
    )

    path = tmp_path_factory.mktemp("omdet_turbo")
    text = {"vocab_size": 59, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1}
    config = OmDetTurboConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=CLIPTextConfig(
            **text, num_attention_heads=2, max_position_embeddings=40, bos_token_id=57, eos_token_id=58, pad_token_id=58
        ),
        apply_layernorm_after_vision_backbone=False,
        image_size=64,
        text_projection_in_dim=24,
        text_projection_out_dim=24,
        task_encoder_hidden_dim=16,
        class_embed_dim=24,
        num_queries=20,
        encoder_in_channels=[16, 32, 64],
        encoder_hidden_dim=16,
        encoder_attention_heads=2,
        encoder_dim_feedforward=16,
        vision_features_channels=[16, 16, 16],
        decoder_hidden_dim=16,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = OmDetTurboForObjectDetection(config)
        for parameter in network.parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.1 * torch.randn_like(parameter)
        for head in network.decoder.decoder_bbox_head:
            head.layers[-1].bias.data[2:] += 1  # large enough to overlap
    network.save_pretrained(path)
    processor = DetrImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    OmDetTurboProcessor(processor, tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (40, 40), (10, 100), (200, 150)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def make(checkpoint):
    @cache  # loading takes longer than detecting
    def made(**options) -> OmDetTurbo:
        return OmDetTurbo(str(checkpoint), **({"box_threshold": 0.5, "nms_threshold": None} | options))

    return made


def test_without_tags_nothing_is_found_and_nothing_is_loaded(images):
    assert [len(x) for x in OmDetTurbo("nowhere").detect(images[:2], [[], [" "]])] == [0, 0]


def test_it_is_a_detector(make):
    assert isinstance(make(), Detector)


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        OmDetTurbo(str(tmp_path)).detect(images[:1], [["cat"]])


def test_each_query_has_the_surest_tag_that_transformers_gives_it(make, checkpoint, images):
    from transformers import OmDetTurboForObjectDetection, OmDetTurboProcessor

    processor = OmDetTurboProcessor.from_pretrained(checkpoint)
    network = OmDetTurboForObjectDetection.from_pretrained(checkpoint).eval()
    labels = set()
    for image, found in zip(images, make().detect(images, [TAGS] * 5), strict=True):
        height, width = image.shape[1:]
        inputs = processor(image, text=[TAGS], return_tensors="pt", text_kwargs={"max_length": 40})
        with torch.inference_mode():
            outputs = network(**inputs)
        (theirs,) = processor.post_process_grounded_object_detection(
            outputs, [TAGS], threshold=0.5, nms_threshold=1.0, target_sizes=[(height, width)], max_num_det=60
        )
        # they list a query once for every tag it scores high, surest first, and clip its box
        best = {}
        for score, label, box in zip(theirs["scores"], theirs["text_labels"], theirs["boxes"], strict=True):
            best.setdefault(tuple(box.tolist()), (score.item(), label))
        assert len(found) == len(best) > 3
        boxes = found.boxes.clamp(0, 1) * torch.tensor([width, height, width, height])
        assert found.labels == [label for _, label in best.values()]
        assert torch.allclose(boxes, torch.tensor(list(best)), atol=1e-3)
        assert found.scores.tolist() == pytest.approx([score for score, _ in best.values()], abs=1e-5)
        labels |= set(found.labels)
    assert len(labels) > 1


def test_a_batch_finds_what_each_image_alone_does(make, images):
    """Other numbers of tags beside it change nothing, though the network has no mask for absent ones."""
    tags = [TAGS, ["dog"], ["zebra", "cat"], [], TAGS[::-1]]
    together = make().detect(images, tags)
    for image, names, found in zip(images, tags, together, strict=True):
        (alone,) = make(batch_size=1).detect([image], [names])
        assert found.labels == alone.labels
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-4)
    assert len(together[3]) == 0 and sum(map(len, together)) > 10


def test_tags_that_its_sentence_cannot_hold_are_asked_for_in_further_ones(make, images):
    tags = ["giraffe", "elephant", "crocodile", "rhinoceros", "cat"]  # a letter is a token, and 40 are read
    (found,) = make(box_threshold=0.0).detect(images[:1], [tags])
    assert len(found) == 20 * 2
    parts = [make(box_threshold=0.0).detect(images[:1], [some])[0] for some in (tags[:3], tags[3:])]
    assert sorted(found.labels) == sorted(label for x in parts for label in x.labels)


def test_what_was_remembered_changes_nothing(make, images):
    first = make().detect(images, [TAGS] * 5)
    make().detect(images, [["zebra", "dog", "cow"]] * 5)
    for one, other in zip(first, make().detect(images, [TAGS] * 5), strict=True):
        assert torch.equal(one.boxes, other.boxes) and one.labels == other.labels


def test_boxes_are_suppressed_and_limited(make, images):
    (found,) = make(box_threshold=0.0, nms_threshold=0.1).detect(images[:1], [TAGS])
    assert 0 < len(found) < 20
    assert len(make(box_threshold=0.0, max_boxes=3).detect(images[:1], [TAGS])[0]) == 3
    assert len(make(box_threshold=1.0).detect(images[:1], [TAGS])[0]) == 0


def test_it_runs_in_half_precision(make, images):
    found = make(dtype="bfloat16", box_threshold=0.0).detect(images[:2], [TAGS] * 2)
    assert all(len(x) == 20 and x.boxes.isfinite().all() and x.boxes.dtype == torch.float32 for x in found)
