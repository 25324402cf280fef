"""BLIP2 through its real classes with tiny random weights, with either kind of language model."""

from importlib.util import find_spec

import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.captioners.blip2 import BLIP2
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.crops import cut, cut_truncated
from scenewright.layout import Layout

WORDS = "a red blue green small large dog cat ball car tree house man child on under behind by with and".split()
SIDE, QUERIES = 28, 4


def save(folder, family):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        PreTrainedTokenizerFast,
    )

    names = ["<pad>", "</s>", "<unk>", *WORDS, *"question answer what is the ? : .".split()]
    tokens = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    # as the published tokenizers: T5 ends a question, OPT begins it
    single = "$A </s>" if family == "t5" else "</s> $A"
    tokens.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": len(names) + 1}
    if family == "t5":
        text = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        text |= {"decoder_start_token_id": 0, "is_encoder_decoder": True, **ends}
    else:
        text = {
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "word_embed_proj_dim": 32,
        }
        text |= {"num_attention_heads": 4, "max_position_embeddings": 64, **ends}
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**layers, "image_size": SIDE, "patch_size": 14, "initializer_range": 0.2}
    qformer = {**layers, "vocab_size": 8, "encoder_hidden_size": 32}
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=len(names),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Blip2ForConditionalGeneration(config)
        for weights in network.parameters():  # as initialised, every image would look alike
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.4)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session", params=["t5", "opt"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save(folder, request.param)
    return str(folder)


@pytest.fixture
def captioner(checkpoint):
    return BLIP2(checkpoint, max_new_tokens=8)


def photo(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


BOXES = torch.tensor([[0.0, 0.0, 0.5, 0.6], [0.3, 0.2, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52], [0.1, 0.4, 0.9, 0.8]])
LABELS = ["dog", "red ball", "ant", "a large green car"]
SCENES = [
    (photo(0, 90, 120), Layout(BOXES, LABELS)),
    (photo(1, 64, 64), Layout.empty()),
    (photo(2, 200, 70), Layout(BOXES[:2], LABELS[:2])),
    (photo(3, 50, 50), Layout.whole()),
]
PROMPT = "question : what is the {label} ? answer :"


def test_nothing_is_loaded_for_nothing():
    nowhere = BLIP2("no/such/weights")
    assert nowhere.caption([], []) == []
    assert nowhere.caption([photo(0, 9, 9)], [Layout.empty()]) == [[]]


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_a_crops_caption_does_not_depend_on_its_batch(checkpoint, prompt):
    images, layouts = zip(*SCENES, strict=True)
    one, many = (BLIP2(checkpoint, prompt=prompt, batch_size=n, max_new_tokens=8, clean=False) for n in (1, 16))
    alone = [one.caption([image], [layout])[0] for image, layout in SCENES]
    together = many.caption(images, layouts)
    assert together == alone
    assert [len(x) for x in together] == [4, 0, 2, 1]
    assert together[0][2] == "ant"  # too small to look at
    assert len({*together[0], *together[2]}) > 3  # the weights tell crops apart, so order shows
    assert many.caption(images[::-1], layouts[::-1]) == together[::-1]
    assert many.caption(images, layouts) == together


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "length_penalty": 2.0}])
@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_a_caption_is_what_the_model_says_when_called_plainly(checkpoint, prompt, options):
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    image, layout = SCENES[0]
    captioner = BLIP2(checkpoint, prompt=prompt, padding=0.0, clean=False, max_new_tokens=8, **options)
    (captions,) = captioner.caption([image], [layout])
    processor = Blip2Processor.from_pretrained(checkpoint)
    network = Blip2ForConditionalGeneration.from_pretrained(checkpoint).eval()
    for i in (0, 1, 3):
        crop = cut(image, layout.keep(torch.tensor([i])))[0]
        text = prompt.replace("{label}", LABELS[i]) or None
        inputs = processor(images=PILImage.fromarray(crop.permute(1, 2, 0).numpy()), text=text, return_tensors="pt")
        if text is None:  # as the reference calls it: the model begins by itself
            tokens = network.generate(pixel_values=inputs["pixel_values"], max_new_tokens=8, **options)
        else:
            tokens = network.generate(**inputs, max_new_tokens=8, **options)
        said = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        assert captions[i] == said.removeprefix(text or "").strip()


def test_captions_are_cleaned_unless_told_otherwise(captioner, checkpoint, monkeypatch):
    image, layout = SCENES[0]
    raw = BLIP2(checkpoint, max_new_tokens=8, clean=False)
    for plugin in (captioner, raw):
        plugin._processor.batch_decode = lambda tokens, **_: ["A dog. A cat."] * len(tokens)
    assert captioner.caption([image], [layout]) == [["A dog.", "A dog.", "ant", "A dog."]]
    assert raw.caption([image], [layout]) == [["A dog. A cat.", "A dog. A cat.", "ant", "A dog. A cat."]]


def test_legacy_shows_the_references_crops(checkpoint):
    image, layout = SCENES[0]
    plugin = BLIP2(checkpoint, legacy=True, small="empty", clean=False, num_beams=5, max_new_tokens=8)
    seen = []
    ask = plugin._ask
    plugin._ask = lambda crops, prompts: seen.extend(crops) or ask(crops, prompts)
    (captions,) = plugin.caption([image], [layout])
    expected = cut_truncated(image, layout.keep(torch.tensor([0, 1, 3])))
    assert sorted(x.shape for x in seen) == sorted(x.shape for x in expected)
    assert all(any(torch.equal(x, y) for y in expected if x.shape == y.shape) for x in seen)
    assert captions[2] == ""


def test_a_longer_budget_never_changes_what_was_said_before(checkpoint):
    image, layout = SCENES[0]
    short, long = (BLIP2(checkpoint, max_new_tokens=n, clean=False).caption([image], [layout])[0] for n in (3, 12))
    assert all(b.startswith(a) for a, b in zip(short, long, strict=True))
    assert any(len(b) > len(a) for a, b in zip(short, long, strict=True))


def test_the_image_encoder_is_compiled_on_demand(checkpoint):
    for compile in (False, True):  # it only begins with the first image
        plugin = BLIP2(checkpoint, compile=compile)
        assert (plugin._network.vision_model._compiled_call_impl is not None) == compile


def test_half_precision_is_an_option(checkpoint):
    plugin = BLIP2(checkpoint, dtype="bfloat16", max_new_tokens=4)
    assert plugin.caption(*([x] for x in SCENES[0]))[0][2] == "ant"
    assert plugin._network.language_projection.weight.dtype == torch.bfloat16


def test_wrong_settings_say_what_is_expected():
    with pytest.raises(ValueError, match="quantization must be null or \"8bit\", got '4bit'"):
        BLIP2(quantization="4bit")


def test_missing_or_other_weights_are_a_clear_error(tmp_path):
    image, layout = SCENES[0]
    with pytest.raises(MissingWeights, match="no config.json"):
        BLIP2(str(tmp_path)).caption([image], [layout])
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    with pytest.raises(CheckpointError, match="Blip2ForConditionalGeneration needs config.json"):
        BLIP2(str(tmp_path)).caption([image], [layout])


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_eight_bits_without_their_package_are_a_clear_error(checkpoint):
    with pytest.raises(CheckpointError, match="requires bitsandbytes"):
        BLIP2(checkpoint, quantization="8bit").caption(*([x] for x in SCENES[0]))
