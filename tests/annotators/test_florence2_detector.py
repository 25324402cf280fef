"""The detector Florence2 through its real classes, with tiny random weights."""

import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.detectors.florence2 import Florence2, read_boxes
from scenewright.annotators.florence import Answer
from scenewright.checkpoints import MissingWeights

WORDS = "red blue green dog cat ball car tree house man child sea hill cup chair lamp".split()
SIDE = 64
KINDS = ("pure_text", "description_with_bboxes", "phrase_grounding", "bboxes", "description_with_bboxes_or_polygons")


def save(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedTokenizerFast,
    )

    asked = "Locate the objects with category name in the image. region proposals phrases caption: their descriptions"
    words = list(dict.fromkeys([*WORDS, *asked.split()]))
    names = ["<s>", "<pad>", "</s>", "<unk>", *words, *(f"Ġ{word}" for word in words)]
    tokens = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokens.add_tokens([AddedToken(f"<loc_{i}>", normalized=False) for i in range(1000)])
    tokens.add_tokens([AddedToken(x, normalized=False) for x in ("<od>", "</od>", "<poly>", "</poly>", "<ground>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    # 64 pixels are 2 x 2 places, and one more for all of them
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, crop_size=SIDE, image_seq_length=5
    )
    processor = Florence2Processor(images, tokenizer, post_processor_config={kind: {} for kind in KINDS})
    processor.save_pretrained(folder)
    stages = {"embed_dim": (8, 16, 16, 32), "num_heads": (1, 2, 2, 2), "num_groups": (1, 2, 2, 2)}
    text = {"model_type": "bart", "d_model": 32, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    for part in ("encoder", "decoder"):
        text |= {f"{part}_layers": 1, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 64}
    config = Florence2Config(
        vision_config={**stages, "depths": (1, 1, 1, 1), "window_size": 2, "projection_dim": 32, "drop_path_rate": 0.0},
        text_config=text,
        image_token_id=tokenizer.image_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Florence2ForConditionalGeneration(config).eval()
        for weights in network.parameters():  # as initialised, every image would look alike
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
        torch.nn.init.normal_(network.model.language_model.decoder.embed_positions.weight, std=2.0)
        # no token may drown the others; words must stand a chance among a thousand locations
        embeddings = network.get_input_embeddings().weight.data
        embeddings /= embeddings.norm(dim=1, keepdim=True)
        embeddings[4 : len(names)] *= 1.3
        embeddings[[0, 1, 3, *range(len(names) + 1000, len(tokenizer))]] *= 0.1
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    network.generation_config.update(**ends, forced_bos_token_id=0, no_repeat_ngram_size=1, num_beams=3)
    network.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("florence2")
    save(folder)
    return str(folder)


def photo(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


IMAGES = [photo(seed, *size) for seed, size in enumerate([(90, 120), (64, 64), (200, 70), (50, 300)])]
TAGS = [["dog", "red ball", "tree"], [], ["sea"], ["cup", "lamp", "cup"]]


TASKS = ["OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL", "CAPTION_TO_PHRASE_GROUNDING", "OPEN_VOCABULARY_DETECTION"]
OF_TAGS = TASKS[3:]


TWO_DOGS = [("dog cat", 1, 2, 3, 4), ("dog cat", 0, 0, 9, 9)]
DOG_AND_CAT = [("dog", 1, 2, 3, 4), ("cat", 5, 6, 7, 8)]


def detector(checkpoint, **options):
    return Florence2(checkpoint, **{"nms_threshold": None, "max_new_tokens": 60, "tags_per_question": 2, **options})


def same(first, second):
    assert [x.labels for x in first] == [x.labels for x in second]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        if len(one):
            torch.testing.assert_close(one.scores, other.scores, atol=1e-3, rtol=1e-3)


def test_nothing_is_loaded_for_no_images_and_for_no_tags():
    assert Florence2("no/such/weights").detect([], []) == []
    for task in OF_TAGS:
        (layout,) = Florence2("no/such/weights", task=task).detect(IMAGES[:1], [[" "]])
        assert len(layout) == 0


@pytest.mark.parametrize("task", TASKS)
def test_an_images_boxes_do_not_depend_on_its_batch(checkpoint, task):
    one, many = (detector(checkpoint, task=task, batch_size=n) for n in (1, 16))
    alone = [one.detect([image], [tags])[0] for image, tags in zip(IMAGES, TAGS, strict=True)]
    together = many.detect(IMAGES, TAGS)
    same(together, alone)
    same(many.detect(IMAGES[::-1], TAGS[::-1])[::-1], together)
    assert sum(len(x) for x in together) > 3 and len({tuple(x.labels) for x in together}) > 1
    if task in OF_TAGS:
        assert len(together[1]) == 0  # no tags, no question
    for layout in filter(len, together):
        assert (layout.boxes[:, :2] < layout.boxes[:, 2:]).all() and 0 <= layout.boxes.min() <= layout.boxes.max() <= 1
        assert layout.scores is not None and layout.scores.tolist() == sorted(layout.scores.tolist(), reverse=True)


@pytest.mark.parametrize("task", TASKS)
def test_boxes_and_names_are_those_of_the_models_own_reading(checkpoint, task):
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    processor = Florence2Processor.from_pretrained(checkpoint)
    network = Florence2ForConditionalGeneration.from_pretrained(checkpoint).eval()
    image, tag = IMAGES[0], "red ball"
    text = f"<{task}>{tag}" if task in OF_TAGS else f"<{task}>"
    inputs = processor(PILImage.fromarray(image.permute(1, 2, 0).numpy()), text, return_tensors="pt")
    told = network.generate(
        **inputs, max_new_tokens=60, num_beams=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    said = processor.batch_decode(told.sequences, skip_special_tokens=False)[0]
    read = processor.post_process_generation(said, task=f"<{task}>", image_size=(10_000, 10_000))[f"<{task}>"]
    names = read.get("labels", read.get("bboxes_labels"))
    unnamed = {"REGION_PROPOSAL": "object", "OPEN_VOCABULARY_DETECTION": tag}.get(task)
    # its reading takes the end of a location that belongs to no box into the name that follows
    expected = {
        (unnamed or name.split(">")[-1].strip(), *(v / 10_000 for v in box))
        for name, box in zip(names, read["bboxes"], strict=True)
        if box[0] < box[2] and box[1] < box[3]
    }
    (layout,) = detector(checkpoint, task=task).detect([image], [[tag]])
    found = list(zip(layout.labels, layout.boxes.tolist(), strict=True))
    assert {(name, *(round(v, 4) for v in box)) for name, box in found} == expected != set()
    if task == "REGION_PROPOSAL":  # whose boxes are four tokens each
        sure = network.compute_transition_scores(told.sequences, told.scores, normalize_logits=True)[0]
        tokens = processor.tokenizer.convert_ids_to_tokens(told.sequences[0, 1:].tolist())
        for box, score in zip(layout.boxes, layout.scores, strict=True):
            corners = [f"<loc_{int(v)}>" for v in (box * 1000).tolist()]
            (start,) = (i for i in range(len(tokens)) if tokens[i : i + 4] == corners)
            assert score == pytest.approx(float(sure[start : start + 4].mean().exp()), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "named", "expected"),
    [
        ("", True, []),
        ("dog", True, []),
        ("dog<loc_1><loc_2><loc_3>", True, []),
        ("<loc_1><loc_2><loc_3><loc_4>", True, []),
        ("<loc_1><loc_2><loc_3><loc_4>", False, [("object", 1, 2, 3, 4)]),
        ("dog<loc_1><loc_2><loc_3><loc_4>", True, [("dog", 1, 2, 3, 4)]),
        ("dog<loc_1><loc_2><loc_3><loc_4>", False, [("object", 1, 2, 3, 4)]),
        ("dog cat<loc_1><loc_2><loc_3><loc_4><loc_0><loc_0><loc_9><loc_9>", True, TWO_DOGS),
        ("dog<loc_1><loc_2><loc_3><loc_4><loc_7>cat<loc_5><loc_6><loc_7><loc_8>", True, DOG_AND_CAT),
        ("<ground>dog<loc_1><loc_2><loc_3><loc_4>", True, [("dog", 1, 2, 3, 4)]),
        ("dog<loc_3><loc_2><loc_1><loc_4>", True, []),
        ("dog<loc_3><loc_2><loc_3><loc_4>", True, []),
        ("</s>dog<loc_1><loc_2><loc_3><loc_4>", True, []),
    ],
)  # fmt: skip
def test_an_answer_is_read(checkpoint, text, named, expected):
    florence = detector(checkpoint)._florence
    tokens = florence._tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = florence._read([*tokens, 2, 1, 1], [0.5] * (len(tokens) + 3))
    assert [(name, *corners) for name, corners, _ in read_boxes(answer, named=named)] == expected
    assert [score for *_, score in read_boxes(answer, named=named)] == pytest.approx([0.5] * len(expected))


def test_a_score_is_the_geometric_mean_of_what_the_box_was_written_with():
    answer = Answer(["dog", 1, 2, 3, 4, 5, 6, 7, 8], [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    (_, _, sure), (_, _, unsure) = read_boxes(answer)
    assert sure == pytest.approx(0.5 ** (1 / 5)) and unsure == pytest.approx(0.0, abs=1e-5)


def stub(plugin, text_of):
    """Let the plugin hear what we say, in the model's own tokens."""
    asked = []

    def ask(questions):
        asked.extend(questions)
        answers = []
        for _, tags in questions:
            pieces = [int(x) if x.isdigit() else x for x in text_of(tags).split()]
            answers.append(Answer(pieces, [1.0 - 0.01 * i for i in range(len(pieces))]))
        return answers

    plugin._ask = ask
    return asked


@pytest.mark.parametrize(
    ("task", "questions"),
    [
        ("OD", [[]]),
        ("CAPTION_TO_PHRASE_GROUNDING", [["Dog", "cat"], ["sea"]]),
        ("OPEN_VOCABULARY_DETECTION", [["Dog"], ["cat"], ["sea"]]),
    ],
)
def test_every_tag_is_asked_for_once(task, questions):
    plugin = Florence2(task=task, tags_per_question=2, nms_threshold=None)
    asked = stub(plugin, lambda tags: "dog 1 2 3 4")
    (layout,) = plugin.detect(IMAGES[:1], [["Dog", "cat", "Dog", "", "sea"]])
    assert [tags for _, tags in asked] == questions
    assert set(layout.labels) == {"OD": {"dog"}, "CAPTION_TO_PHRASE_GROUNDING": {"Dog", "dog"}}.get(
        task, {"Dog", "cat", "sea"}
    )


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"nms_threshold": None}, ["dog", "cat", "sea"]),
        ({}, ["dog", "sea"]),
        ({"class_agnostic": False}, ["dog", "cat", "sea"]),
        ({"max_boxes": 1}, ["dog"]),
        ({"max_area": 0.5}, ["dog"]),
        ({"threshold": 0.95}, ["dog"]),
        ({"threshold": 1.0}, []),
    ],
)
def test_of_boxes_that_say_the_same_the_surest_stays(options, left):
    plugin = Florence2(**options)
    stub(plugin, lambda tags: "dog 0 0 500 500 cat 0 0 500 480 sea 0 0 999 999")
    (layout,) = plugin.detect(IMAGES[:1], [[]])
    assert layout.labels == left


def test_a_dense_regions_phrase_is_its_caption_too():
    plugin = Florence2(task="DENSE_REGION_CAPTION")
    stub(plugin, lambda tags: "dog 0 0 500 500")
    (layout,) = plugin.detect(IMAGES[:1], [[]])
    assert layout.labels == layout.captions == ["dog"]
    assert layout.boxes.tolist() == [pytest.approx([0.0005, 0.0005, 0.5005, 0.5005])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "CAPTION"}, "task must be one of OD, .*, got 'CAPTION'"),
        ({"tags_per_question": 0}, "tags_per_question must be at least 1, got 0"),
    ],
)
def test_wrong_settings_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        Florence2(**options)


def test_missing_weights_are_a_clear_error(tmp_path):
    with pytest.raises(MissingWeights, match="no config.json"):
        Florence2(str(tmp_path)).detect(IMAGES[:1], [[]])
