"""Grounding DINO through the real classes of transformers: tiny, random, saved and loaded."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_convert

from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.annotators.prompts import packed
from scenewright.annotators.text_features import RememberedText
from scenewright.checkpoints import MissingWeights
from scenewright.protocols import Detector

TAGS = ["Cat", "Armchair", "red bus", "dog"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_groundingdino) -> Path:
    return tiny_groundingdino(tmp_path_factory.mktemp("groundingdino"))


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 80), (80, 60), (60, 81), (30, 200), (97, 70)]
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="session")
def make(checkpoint):
    @cache  # loading takes longer than detecting
    def made(**options) -> GroundingDINO:
        options = {"box_threshold": 0.3, "nms_threshold": None, "pad_to": 64} | options
        return GroundingDINO(str(checkpoint), **options)

    return made


def plain(checkpoint, image, text, **options):
    """The processor and the network as transformers' documentation uses them, without padding."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    processor = GroundingDinoProcessor.from_pretrained(checkpoint)
    inputs = processor(images=image, text=text, return_tensors="pt", **options)
    with torch.inference_mode():
        return processor, inputs, GroundingDinoForObjectDetection.from_pretrained(checkpoint).eval()(**inputs)


def same(one, other, atol=1e-3):
    assert one.labels == other.labels
    assert torch.allclose(one.boxes, other.boxes, atol=atol)
    if len(one):
        assert torch.allclose(one.scores, other.scores, atol=atol)


def test_without_tags_nothing_is_found_and_nothing_is_loaded(images):
    assert [len(x) for x in GroundingDINO("nowhere").detect(images[:2], [[], []])] == [0, 0]


def test_it_is_a_detector(make):
    assert isinstance(make(), Detector)


def test_a_missing_checkpoint_says_what_is_missing(images, tmp_path):
    with pytest.raises(MissingWeights, match=r"config\.json"):
        GroundingDINO(str(tmp_path)).detect(images[:1], [["cat"]])


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="tags or tokens"):
        GroundingDINO(labels="words")


def test_each_box_has_the_tag_of_its_surest_token(make, checkpoint, images):
    for image in images:
        (found,) = make(pad_to=1).detect([image], [TAGS])
        text = "cat . armchair . red bus . dog ."
        processor, inputs, outputs = plain(checkpoint, image, text)
        words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        owner = {
            "cat": "Cat",
            "arm": "Armchair",
            "##chair": "Armchair",
            "red": "red bus",
            "bus": "red bus",
            "dog": "dog",
        }
        places = [i for i, word in enumerate(words) if word in owner]
        scores, surest = outputs.logits[0].sigmoid()[:, places].max(1)
        expected = sorted(
            ((s.item(), owner[words[places[k]]]) for s, k in zip(scores, surest, strict=True) if s > 0.3), reverse=True
        )
        assert len(found) == len(expected) > 3
        assert found.labels == [label for _, label in expected]
        assert torch.allclose(found.scores, torch.tensor([score for score, _ in expected]), atol=1e-5)
        kept = scores > 0.3
        boxes = box_convert(outputs.pred_boxes[0][kept], "cxcywh", "xyxy")[scores[kept].argsort(descending=True)]
        assert torch.allclose(found.boxes, boxes, atol=1e-5)
    assert len({label for x in make().detect(images, [TAGS] * 5) for label in x.labels}) > 1


def test_legacy_labels_are_those_of_transformers(make, checkpoint, images):
    detector = make(labels="tokens", separator=", ", pad_to=1)
    for image in images:
        (found,) = detector.detect([image], [TAGS])
        processor, inputs, outputs = plain(checkpoint, image, "cat, armchair, red bus, dog.")
        (expected,) = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=0.3, text_threshold=0.2
        )
        order = expected["scores"].argsort(descending=True, stable=True)
        assert found.labels == [expected["text_labels"][i] for i in order]
        assert torch.allclose(found.boxes, expected["boxes"][order], atol=1e-5)
        assert torch.allclose(found.scores, expected["scores"][order], atol=1e-5)
    assert any(" " in label for label in found.labels), "no label is made of several tokens, so nothing was shown"


def test_legacy_captions_are_cut_where_the_network_ends(images, tmp_path, tiny_groundingdino):
    """The end of the sentence is looked for before the cut, so tokens still attend to each other."""
    tiny_groundingdino(tmp_path, limit=6)
    detector = GroundingDINO(str(tmp_path), labels="tokens", separator=", ", box_threshold=0.0, text_threshold=0.0)
    (found,) = detector.detect(images[:1], [TAGS])
    # [CLS] cat , arm ##chair , | red bus ...; the last position is never part of a label
    assert set(" ".join(found.labels).split()) == {"cat,", "armchair"}


def test_tags_beyond_the_limit_are_asked_for_in_further_prompts(images, tmp_path, tiny_groundingdino):
    tiny_groundingdino(tmp_path, limit=8)
    options = {"box_threshold": 0.3, "nms_threshold": None, "pad_to": 64}
    detector = GroundingDINO(str(tmp_path), **options)
    found = detector.detect(images, [TAGS] * len(images))
    # 8 tokens hold [CLS] cat . arm ##chair . [SEP], then [CLS] red bus . dog . [SEP]
    halves = [detector.detect(images, [some] * len(images)) for some in (TAGS[:2], TAGS[2:])]
    for whole, first, second in zip(found, *halves, strict=True):
        assert len(whole) == len(first) + len(second)
        assert sorted(whole.labels) == sorted(first.labels + second.labels)
    assert "red bus" in [label for x in found for label in x.labels]


def test_a_batch_finds_what_each_image_alone_does(make, images):
    tags = [TAGS, ["dog"], TAGS[:2], ["Armchair", "tree"], ["remote control"]]
    together = make(batch_size=8).detect(images, tags)
    for image, names, found in zip(images, tags, together, strict=True):
        (alone,) = make(batch_size=1).detect([image], [names])
        same(found, alone)
    assert sum(map(len, together)) > 10
    backwards = make(batch_size=8).detect(images[::-1], tags[::-1])[::-1]
    for found, other in zip(together, backwards, strict=True):
        same(found, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 700)])
def test_lines_of_pixels_do_not_vanish(make, size):
    line = torch.randint(256, (3, *size), dtype=torch.uint8)
    assert len(make(box_threshold=0.0, max_boxes=1).detect([line], [["cat"]])[0]) == 1


def test_different_prompts_share_a_batch(make, images):
    """One size, captions of different length: the shorter are padded."""
    tags = [["dog"], TAGS, ["remote control", "tree"], []]
    together = make(box_threshold=0.0).detect([images[0]] * 4, tags)
    for names, found in zip(tags, together, strict=True):
        same(found, make(box_threshold=0.0).detect([images[0]], [names])[0], atol=1e-4)
    assert [len(x) for x in together] == [20, 20, 20, 0]


def test_padding_is_hidden_from_the_network_by_a_mask(make, checkpoint, images):
    (found,) = make(pad_to=160, box_threshold=0.0).detect(images[:1], [["dog"]])
    _, inputs, outputs = plain(checkpoint, images[0], "dog .", pad_size={"height": 160, "width": 160})
    assert inputs["pixel_mask"].sum() == 96 * 128  # of 160 x 160
    scores, order = outputs.logits[0].sigmoid()[:, 1].sort(descending=True)
    assert torch.allclose(found.scores, scores, atol=1e-5)
    boxes = box_convert(outputs.pred_boxes[0], "cxcywh", "xyxy")
    assert torch.allclose(found.boxes, boxes[order], atol=1e-5)


def test_what_was_remembered_changes_nothing(make, images):
    detector = make()
    first = detector.detect(images, [TAGS] * 5)
    detector.detect(images, [["dog", "tree"]] * 5)
    for one, other in zip(first, detector.detect(images, [TAGS] * 5), strict=True):
        assert torch.equal(one.boxes, other.boxes) and one.labels == other.labels


def test_a_prompt_is_encoded_once(make, images):
    detector = make(batch_size=7)  # no other test's
    text = detector._grounding.network.model.text_backbone
    assert isinstance(text, RememberedText)
    rows = []
    text.backbone.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    detector.detect(images, [TAGS] * 5)
    detector.detect(images, [TAGS] * 4 + [["dog"]])
    assert sum(rows) == 2


def test_thresholds_and_suppression_are_obeyed(make, images):
    everything = make(box_threshold=0.0).detect(images[:1], [TAGS])[0]
    assert len(everything) == 20
    assert len(make(box_threshold=1.0).detect(images[:1], [TAGS])[0]) == 0
    assert len(make(box_threshold=0.0, max_boxes=3).detect(images[:1], [TAGS])[0]) == 3
    assert len(make(box_threshold=0.0, nms_threshold=0.0).detect(images[:1], [TAGS])[0]) < 20
    assert torch.equal(everything.scores, everything.scores.sort(descending=True).values)


def test_it_runs_in_half_precision(make, images):
    found = make(dtype="bfloat16", box_threshold=0.0).detect(images[:2], [TAGS] * 2)
    assert all(len(x) == 20 and x.boxes.isfinite().all() and x.boxes.dtype == torch.float32 for x in found)


def test_the_tokens_of_a_prompt_are_those_of_its_text(checkpoint):
    from transformers import GroundingDinoProcessor

    bert = GroundingDinoProcessor.from_pretrained(checkpoint).tokenizer
    (prompt,) = packed(["Cat", "Armchair", "red  bus", "T-shirt"], bert)
    assert list(prompt.tokens) == bert("cat . armchair . red bus . t-shirt .")["input_ids"]
