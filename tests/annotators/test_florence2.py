"""The captioner Florence2 through its real classes, with tiny random weights."""

import re

import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.captioners.florence2 import Florence2
from scenewright.annotators.florence import located
from scenewright.checkpoints import MissingWeights
from scenewright.crops import cut
from scenewright.layout import Layout

WORDS = "a red blue green small large dog cat ball car tree house man child on under behind by with and".split()
SIDE = 64


def save(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedTokenizerFast,
    )

    asked = "What does the image describe? Describe in detail what is shown in the image. the region".split()
    words = list(dict.fromkeys([*WORDS, *asked]))
    names = ["<s>", "<pad>", "</s>", "<unk>", *words, *(f"Ġ{word}" for word in words)]
    tokens = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokens.add_tokens([AddedToken(f"<loc_{i}>", normalized=False) for i in range(1000)])
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
    Florence2Processor(images, tokenizer, post_processor_config={"pure_text": {}}).save_pretrained(folder)
    stages = {"embed_dim": (8, 16, 16, 32), "num_heads": (1, 2, 2, 2), "num_groups": (1, 2, 2, 2)}
    text = {"model_type": "bart", "d_model": 32, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    for part in ("encoder", "decoder"):
        text |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 64}
    config = Florence2Config(
        vision_config={**stages, "depths": (1, 1, 1, 1), "window_size": 2, "projection_dim": 32, "drop_path_rate": 0.0},
        text_config=text,
        image_token_id=tokenizer.image_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Florence2ForConditionalGeneration(config).eval()
        for weights in network.parameters():  # as initialised, every image would look alike
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
        # locations stay possible, but do not drown the words
        network.get_input_embeddings().weight.data[len(names) :] *= 0.5
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    network.generation_config.update(**ends, forced_bos_token_id=0, no_repeat_ngram_size=3, num_beams=3)
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


BOXES = torch.tensor([[0.0, 0.0, 0.5, 0.6], [0.3, 0.2, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52], [0.1, 0.4, 0.9, 0.8]])
LABELS = ["dog", "red ball", "ant", "car"]
SCENES = [
    (photo(0, 90, 120), Layout(BOXES, LABELS)),
    (photo(1, 64, 64), Layout.empty()),
    (photo(2, 200, 70), Layout(BOXES[:2], LABELS[:2])),
    (photo(3, 50, 50), Layout.whole()),
]
TASKS = ["CAPTION", "DETAILED_CAPTION", "REGION_TO_DESCRIPTION"]


def test_nothing_is_loaded_for_nothing():
    nowhere = Florence2("no/such/weights")
    assert nowhere.caption([], []) == []
    assert nowhere.caption([photo(0, 9, 9)], [Layout.empty()]) == [[]]


@pytest.mark.parametrize("task", TASKS)
def test_a_regions_caption_does_not_depend_on_its_batch(checkpoint, task):
    images, layouts = zip(*SCENES, strict=True)
    one, many = (Florence2(checkpoint, task=task, max_new_tokens=12, batch_size=n) for n in (1, 16))
    alone = [one.caption([image], [layout])[0] for image, layout in SCENES]
    together = many.caption(images, layouts)
    assert together == alone
    assert [len(x) for x in together] == [4, 0, 2, 1]
    assert together[0][2] == "ant"  # too small to look at
    assert len({*together[0], *together[2]}) > 3  # the weights tell regions apart, so order shows
    assert many.caption(images[::-1], layouts[::-1]) == together[::-1]
    assert many.caption(images, layouts) == together


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_an_answer_is_what_the_model_says_when_called_plainly(checkpoint, task, num_beams):
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    image, layout = SCENES[0]
    plugin = Florence2(checkpoint, task=task, max_new_tokens=12, num_beams=num_beams)
    processor = Florence2Processor.from_pretrained(checkpoint)
    network = Florence2ForConditionalGeneration.from_pretrained(checkpoint).eval()
    for i in (0, 1, 3):
        of_box = task == "REGION_TO_DESCRIPTION"
        picture = image if of_box else cut(image, layout.keep(torch.tensor([i])))[0]
        text = f"<{task}>{located(layout.boxes[i].tolist())}" if of_box else f"<{task}>"
        pillow = PILImage.fromarray(picture.permute(1, 2, 0).numpy())
        inputs = processor(images=pillow, text=text, return_tensors="pt")
        tokens = network.generate(**inputs, max_new_tokens=12, num_beams=num_beams, do_sample=False)
        said = processor.batch_decode(tokens, skip_special_tokens=True)[0]
        words = re.sub(r"<loc_\d+>|\s", "", said)  # what the plugin leaves out, and the space that it puts there
        assert plugin._ask([picture], [text])[0].replace(" ", "") == words != ""


def test_boxes_are_told_in_a_thousand_bins():
    assert located([0.0, 0.25, 0.9999, 1.0]) == "<loc_0><loc_250><loc_999><loc_999>"
    assert located([-0.1, 1.2, 0.0005, 0.5]) == "<loc_0><loc_999><loc_0><loc_500>"


def test_each_region_is_asked_with_its_own_box_and_the_image_without(checkpoint):
    plugin = Florence2(checkpoint, task="REGION_TO_DESCRIPTION")
    asked = []
    plugin._ask = lambda pictures, prompts: asked.extend(zip(pictures, prompts, strict=True)) or ["x"] * len(prompts)
    images, layouts = zip(*SCENES, strict=True)
    plugin.caption(images, layouts)
    assert [text for picture, text in asked if picture is images[0]] == [
        f"<REGION_TO_DESCRIPTION>{located(BOXES[i].tolist())}" for i in (0, 1, 3)
    ]
    assert [text for picture, text in asked if picture is images[3]] == ["<DETAILED_CAPTION>"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "OD"}, "task must be one of CAPTION, DETAILED_CAPTION, .*, got 'OD'"),
        ({"image_task": "REGION_TO_DESCRIPTION"}, "image_task must be one of CAPTION, .*, got 'REGION_TO_DESCRIPTION'"),
    ],
)
def test_a_task_that_describes_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Florence2(**options)


def test_the_image_encoder_is_compiled_on_demand(checkpoint):
    for compile in (False, True):  # it only begins with the first image
        plugin = Florence2(checkpoint, compile=compile)
        assert (plugin._florence._network.model.vision_tower._compiled_call_impl is not None) == compile


def test_half_precision_is_an_option(checkpoint):
    plugin = Florence2(checkpoint, dtype="bfloat16", max_new_tokens=4)
    assert plugin.caption(*([x] for x in SCENES[0]))[0][2] == "ant"
    assert plugin._florence._network.dtype == torch.bfloat16


def test_missing_weights_are_a_clear_error(tmp_path):
    with pytest.raises(MissingWeights, match="no config.json"):
        Florence2(str(tmp_path)).caption(*([x] for x in SCENES[0]))
