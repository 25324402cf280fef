"""SAM 3 through the real classes of transformers: tiny, random, saved and loaded."""

import string
from functools import cache
from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.sam3 import SAM3
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

TAGS = ["Cat", "dog", "red bus"]


def tokenizer():
    from transformers import CLIPTokenizer

    words = ["!", *string.ascii_lowercase, *(x + "</w>" for x in string.ascii_lowercase)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    path = tmp_path_factory.mktemp("sam3")
    layer = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    part = layer | {"num_layers": 1}
    backbone = layer | {
        "num_hidden_layers": 1,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [0],
        "pretrain_image_size": 56,
        "model_type": "sam3_vit_model",
    }
    text = layer | {"num_hidden_layers": 1, "vocab_size": 55, "projection_dim": 16, "max_position_embeddings": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=text | {"bos_token_id": 53, "eos_token_id": 54, "pad_token_id": 54},
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config=part | {"num_queries": 10},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2, "num_upsampling_stages": 3},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Sam3Model(config)
        for parameter in network.parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.1 * torch.randn_like(parameter)
    network.save_pretrained(path)
    Sam3Processor(Sam3ImageProcessor(size={"height": 56, "width": 56}), tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (40, 40), (10, 100)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def make(checkpoint):
    @cache  # loading takes longer than detecting
    def made(**options) -> SAM3:
        return SAM3(str(checkpoint), **({"box_threshold": 0.2, "nms_threshold": None} | options))

    return made


def test_without_tags_nothing_is_found_and_nothing_is_loaded(images):
    assert [len(x) for x in SAM3("nowhere").detect(images[:2], [[], [" "]])] == [0, 0]


def test_it_is_a_detector(make):
    assert isinstance(make(), Detector)


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        SAM3(str(tmp_path)).detect(images[:1], [["cat"]])


def test_it_finds_what_transformers_finds_for_each_tag(make, checkpoint, images):
    from transformers import Sam3Model, Sam3Processor

    processor = Sam3Processor.from_pretrained(checkpoint)
    network = Sam3Model.from_pretrained(checkpoint).eval()
    for image, found in zip(images, make().detect(images, [TAGS] * len(images)), strict=True):
        height, width = image.shape[1:]
        assert found.masks is not None and found.scores is not None
        for tag in TAGS:
            with torch.inference_mode():
                outputs = network(**processor(images=image, text=tag, return_tensors="pt"))
            (theirs,) = processor.image_processor.post_process_instance_segmentation(
                outputs, threshold=0.2, target_sizes=[(height, width)]
            )
            mine = [i for i, label in enumerate(found.labels) if label == tag]
            order = theirs["scores"].argsort(descending=True, stable=True)
            assert len(mine) == len(order) > 0
            assert torch.allclose(found.scores[mine], theirs["scores"][order], atol=1e-5)
            assert torch.allclose(found.pixel_boxes(height, width)[mine], theirs["boxes"][order], atol=1e-2)
            for at, place in zip(mine, order, strict=True):
                wrong = (found.masks[at].decode() != theirs["masks"][place].bool()).float().mean()
                assert found.masks[at].size == (height, width) and wrong < 0.001
    assert any(0 < mask.area < height * width for mask in found.masks)


def test_a_batch_finds_what_each_image_alone_does(make, images):
    tags = [TAGS, ["dog"], [], TAGS[::-1]]
    together = make(tag_batch_size=2).detect(images, tags)
    for image, names, found in zip(images, tags, together, strict=True):
        (alone,) = make(batch_size=1).detect([image], [names])
        assert found.labels == alone.labels
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-4)
    assert len(together[2]) == 0 and sum(map(len, together)) > 10


def test_an_image_is_encoded_once_for_all_its_tags_and_a_tag_once_for_all_images(make, images):
    detector = make(batch_size=3, tag_batch_size=1)
    seen, read = [], []
    detector._network.vision_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    detector._network.text_encoder.register_forward_pre_hook(
        lambda _, __, options: read.append(len(options["input_ids"])), with_kwargs=True
    )
    detector.detect(images, [TAGS] * 4)
    assert sum(seen) == 4 and sum(read) == 3


def test_a_long_tag_is_cut_and_not_refused(make, images):
    assert len(make(box_threshold=0.0).detect(images[:1], [["very " * 50 + "long"]])[0]) == 10


def test_regions_are_suppressed_and_limited_with_their_masks(make, images):
    (everything,) = make(box_threshold=0.0).detect(images[:1], [TAGS])
    (found,) = make(box_threshold=0.0, nms_threshold=0.3).detect(images[:1], [TAGS])
    assert 0 < len(found) < len(everything) == 30 and found.masks is not None and everything.masks is not None
    assert found.masks[0] == everything.masks[0]
    (few,) = make(box_threshold=0.0, max_boxes=3).detect(images[:1], [TAGS])
    assert few.masks == everything.masks[:3]
    assert len(make(box_threshold=1.0).detect(images[:1], [TAGS])[0]) == 0


def test_it_runs_in_half_precision(make, images):
    found = make(dtype="bfloat16", box_threshold=0.0).detect(images[:2], [TAGS] * 2)
    assert all(len(x) == 30 and x.boxes.isfinite().all() and x.boxes.dtype == torch.float32 for x in found)
