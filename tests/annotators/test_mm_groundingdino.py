"""MM Grounding DINO through the real classes of transformers; what it shares with its model is tested there."""

from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.mm_groundingdino import MMGroundingDINO
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

#: where BERT has them; the network knows its borders by these ids
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ",": 1010, ".": 1012, "?": 1029}
WORDS = ["cat", "dog", "red", "bus", "arm", "##chair"]
TAGS = ["Cat", "Armchair", "red bus", "dog"]
OWNER = {"cat": "Cat", "arm": "Armchair", "##chair": "Armchair", "red": "red bus", "bus": "red bus", "dog": "dog"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
        SwinConfig,
    )

    path = tmp_path_factory.mktemp("mm_groundingdino")
    config = MMGroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
        ),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=20,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MMGroundingDinoForObjectDetection(config)
        for name, parameter in network.named_parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.2 * torch.randn_like(parameter)
            if "class_embed" in name:
                parameter.data.zero_()
    network.save_pretrained(path)
    vocabulary = {f"[unused{i}]": i for i in range(1, 1040)}
    vocabulary = {word: i for word, i in vocabulary.items() if i not in SPECIAL.values()} | SPECIAL
    vocabulary |= {word: 1040 + i for i, word in enumerate(WORDS)}
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(processor, BertTokenizer(vocab=vocabulary, do_lower_case=True)).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (60, 81), (30, 200)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def detector(checkpoint) -> MMGroundingDINO:
    return MMGroundingDINO(str(checkpoint), box_threshold=0.3, nms_threshold=None, pad_to=1)


def test_without_tags_nothing_is_found_and_nothing_is_loaded(images):
    assert [len(x) for x in MMGroundingDINO("nowhere").detect(images[:2], [[], []])] == [0, 0]


def test_it_is_a_detector(detector):
    assert isinstance(detector, Detector)


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        MMGroundingDINO(str(tmp_path)).detect(images[:1], [["cat"]])


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="tags or tokens"):
        MMGroundingDINO(labels="words")


def test_each_box_has_the_tag_of_its_surest_token(detector, checkpoint, images):
    from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

    processor = GroundingDinoProcessor.from_pretrained(checkpoint)
    network = MMGroundingDinoForObjectDetection.from_pretrained(checkpoint).eval()
    for image in images:
        (found,) = detector.detect([image], [TAGS])
        inputs = processor(images=image, text="cat . armchair . red bus . dog .", return_tensors="pt")
        with torch.inference_mode():
            probabilities = network(**inputs).logits[0].sigmoid()
        words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        places = [i for i, word in enumerate(words) if word in OWNER]
        scores, surest = probabilities[:, places].max(1)
        pairs = zip(scores.tolist(), [OWNER[words[places[k]]] for k in surest], strict=True)
        expected = sorted((pair for pair in pairs if pair[0] > 0.3), reverse=True)
        assert found.labels == [label for _, label in expected] and len(expected) > 3
        assert torch.allclose(found.scores, torch.tensor([score for score, _ in expected]), atol=1e-5)


def test_a_batch_finds_what_each_image_alone_does(checkpoint, images):
    detector = MMGroundingDINO(str(checkpoint), box_threshold=0.3, nms_threshold=None, pad_to=160)
    tags = [TAGS, ["dog"], TAGS[:2], ["Armchair", "red bus"]]
    for image, names, found in zip(images, tags, detector.detect(images, tags), strict=True):
        (alone,) = detector.detect([image], [names])
        assert found.labels == alone.labels and len(found) > 2
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-3)
        assert torch.allclose(found.scores, alone.scores, atol=1e-3)
