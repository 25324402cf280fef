"""SmolVLM through its real classes, with tiny random weights."""

import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.captioners.smolvlm import SmolVLM
from scenewright.annotators.captions import IMAGE, REGION
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.crops import cut
from scenewright.layout import Layout

WORDS = "a red blue green small large dog cat ball car tree house man child on under behind by with and".split()
SIDE = 32  # of a tile, in pixels: 2 x 2 patches, shuffled into one token
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def save(folder):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        PreTrainedTokenizerFast,
    )

    asked = f"{REGION} {IMAGE} User Assistant :".replace("{label}", "").replace(".", " .").replace(",", " ,").split()
    names = ["<|im_start|>", "<pad>", "<end_of_utterance>", "<unk>", *dict.fromkeys([*WORDS, *asked, "."])]
    tokens = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", *places]
    tokens.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE})
    Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=TEMPLATE).save_pretrained(folder)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = Idefics3Config(
        vision_config={**layers, "image_size": SIDE, "patch_size": 16},
        text_config={"model_type": "llama", **layers, **ends, "num_key_value_heads": 2, "vocab_size": len(tokenizer)},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Idefics3ForConditionalGeneration(config).eval()
        for weights in network.parameters():  # as initialised, every image would look alike
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
    network.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smolvlm")
    save(folder)
    return str(folder)


def photo(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


BOXES = torch.tensor([[0.0, 0.0, 0.5, 0.6], [0.3, 0.2, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52], [0.0, 0.4, 1.0, 0.55]])
LABELS = ["dog", "red ball", "ant", "a small green car"]
SCENES = [
    (photo(0, 90, 120), Layout(BOXES, LABELS)),
    (photo(1, 64, 64), Layout.empty()),
    (photo(2, 200, 70), Layout(BOXES[:2], LABELS[:2])),
    (photo(3, 20, 50), Layout.whole()),
    (torch.zeros(3, 40, 40, dtype=torch.uint8), Layout(BOXES[:1] * 2, LABELS[:1])),  # black, but a picture
]


def test_nothing_is_loaded_for_nothing():
    nowhere = SmolVLM("no/such/weights")
    assert nowhere.caption([], []) == []
    assert nowhere.caption([photo(0, 9, 9)], [Layout.empty()]) == [[]]


@pytest.mark.parametrize("tiles", [1, 3])
def test_a_crops_caption_does_not_depend_on_its_batch(checkpoint, tiles):
    images, layouts = zip(*SCENES, strict=True)
    one, many = (SmolVLM(checkpoint, tiles=tiles, max_new_tokens=8, batch_size=n) for n in (1, 16))
    alone = [one.caption([image], [layout])[0] for image, layout in SCENES]
    together = many.caption(images, layouts)
    assert together == alone
    assert [len(x) for x in together] == [4, 0, 2, 1, 1]
    assert together[0][2] == "ant"  # too small to look at
    assert len({*together[0], *together[2]}) > 3  # the weights tell crops apart, so order shows
    assert many.caption(images[::-1], layouts[::-1]) == together[::-1]
    assert many.caption(images, layouts) == together


@pytest.mark.parametrize("tiles", [1, 4])
def test_an_answer_is_what_the_model_says_when_called_plainly(checkpoint, tiles):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    image, layout = SCENES[0]
    plugin = SmolVLM(checkpoint, tiles=tiles, max_new_tokens=8)
    processor = AutoProcessor.from_pretrained(checkpoint)
    network = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    for i, prompt in ((0, "a red dog"), (1, "blue"), (3, "a cat and a dog on a tree")):
        crop = cut(image, layout.keep(torch.tensor([i])))[0]
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        pillow = PILImage.fromarray(crop.permute(1, 2, 0).numpy())
        # four tiles are what the checkpoint itself asks for
        options = {} if tiles == 4 else {"do_image_splitting": False, "size": {"longest_edge": SIDE}}
        inputs = processor(images=[pillow], text=text, return_tensors="pt", **options)
        tokens = network.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert plugin._ask([crop], [prompt]) == processor.batch_decode(tokens, skip_special_tokens=True) != [""]


def test_a_region_is_asked_about_by_its_name_and_the_image_without(checkpoint):
    plugin = SmolVLM(checkpoint)
    asked = []
    plugin._ask = lambda crops, prompts: asked.extend(prompts) or ["A dog. A cat."] * len(prompts)
    captions = plugin.caption(*map(list, zip(SCENES[0], SCENES[3], strict=True)))
    assert captions == [["A dog.", "A dog.", "ant", "A dog."], ["A dog."]]
    assert sorted(asked) == sorted([IMAGE, *(REGION.replace("{label}", LABELS[i]) for i in (0, 1, 3))])


def test_more_tiles_show_more(checkpoint):
    crop = photo(5, 60, 60)
    seen = []
    for tiles in (1, 2):
        plugin = SmolVLM(checkpoint, tiles=tiles, max_new_tokens=1)
        generate = plugin._network.generate
        plugin._network.generate = lambda run=generate, **inputs: (
            seen.append(inputs["pixel_values"].shape) or run(**inputs)
        )
        plugin._ask([crop], ["a dog"])
    assert seen == [(1, 1, 3, SIDE, SIDE), (1, 5, 3, SIDE, SIDE)]


def test_the_image_encoder_is_compiled_on_demand(checkpoint):
    for compile in (False, True):  # it only begins with the first image
        plugin = SmolVLM(checkpoint, compile=compile)
        assert (plugin._network.model.vision_model._compiled_call_impl is not None) == compile


def test_half_precision_is_an_option(checkpoint):
    plugin = SmolVLM(checkpoint, dtype="bfloat16", max_new_tokens=4)
    assert plugin.caption(*([x] for x in SCENES[0]))[0][2] == "ant"
    assert plugin._network.dtype == torch.bfloat16


def test_wrong_settings_say_what_is_expected():
    with pytest.raises(ValueError, match="tiles must be at least 1, got 0"):
        SmolVLM(tiles=0)


def test_missing_or_other_weights_are_a_clear_error(tmp_path):
    image, layout = SCENES[0]
    with pytest.raises(MissingWeights, match="no config.json"):
        SmolVLM(str(tmp_path)).caption([image], [layout])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        SmolVLM(str(tmp_path)).caption([image], [layout])
