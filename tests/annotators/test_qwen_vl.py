"""QwenVL through its real classes: tiny networks with random weights, saved and loaded as checkpoints are."""

import logging

import pytest
import torch

from scenewright.annotators.captioners.qwen_vl import QwenVL
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.protocols import Captioner

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def processor(kind: str):
    """A processor with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor
    from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl import Qwen3VLProcessor, Qwen3VLVideoProcessor

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *SPECIAL])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_token": "<|im_start|>",
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    if kind == "qwen3_vl":
        patches, whole, video = Qwen2VLImageProcessor(patch_size=16), Qwen3VLProcessor, Qwen3VLVideoProcessor()
    else:
        patches, whole, video = Qwen2VLImageProcessor(patch_size=14), Qwen2_5_VLProcessor, Qwen2VLVideoProcessor()
    return whole(image_processor=patches, tokenizer=tokenizer, video_processor=video, chat_template=TEMPLATE)


def network(kind: str):
    """Two layers of 32 channels."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    if kind == "qwen3_vl":
        rope |= {"mrope_interleaved": True}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    else:
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    config = AutoConfig.for_model(
        kind,
        text_config={
            **{"vocab_size": 263, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rope_parameters": rope},
            "max_position_embeddings": 4096,
        },
        vision_config=vision,
        **{"image_token_id": 261, "video_token_id": 262, "vision_start_token_id": 259, "vision_end_token_id": 260},
    )
    with torch.random.fork_rng(devices=[]):
        built = AutoModelForImageTextToText.from_config(config)
        torch.manual_seed(1)
        for name, parameter in built.named_parameters():
            if parameter.ndim > 1:
                # what is attended to must be louder than the token itself, or all pictures get one answer
                parameter.data.normal_(0, 0.6 if any(x in name for x in ("v_proj", "o_proj", "merger")) else 0.2)
            elif "q_norm" in name or "k_norm" in name:
                parameter.data.fill_(3.0)
    built.generation_config.eos_token_id = [258, 256]
    # as published checkpoints have it; a plugin must not follow
    built.generation_config.do_sample, built.generation_config.repetition_penalty = True, 1.9
    return built


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders = {}
    for kind in ("qwen3_vl", "qwen2_5_vl"):
        folders[kind] = str(tmp_path_factory.mktemp(kind))
        network(kind).save_pretrained(folders[kind])
        processor(kind).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def plugin(checkpoints: dict[str, str]):
    """``plugin(kind, …)``; networks are loaded once."""
    loaded: dict[str, QwenVL] = {}

    def made(kind: str = "qwen3_vl", **options) -> QwenVL:
        options = {"min_area": 1, "min_pixels": 1024, "max_pixels": 8192, "max_image_pixels": 16_384, **options}
        options = {"max_new_tokens": 8, "clean": False, **options}
        one = QwenVL(checkpoints[kind], **options)
        first = loaded.setdefault(kind, one)
        one.__dict__ |= {"_network": first._network, "_processor": first._processor}
        return one

    return made


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(60, 90), (200, 64), (48, 48)]
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def layouts() -> list[Layout]:
    boxes = [[[0, 0, 0.5, 0.9], [0.2, 0.3, 1, 1], [0.6, 0, 0.9, 0.4]], [], [[0.1, 0.1, 0.9, 0.9]]]
    labels = [["dog", "cup", "tree"], [], ["a very long name of a thing"]]
    return [
        Layout(boxes=torch.tensor(x, dtype=torch.float32).reshape(-1, 4), labels=y)
        for x, y in zip(boxes, labels, strict=True)
    ]


def test_it_is_a_captioner_and_loads_nothing_before_it_must():
    nowhere = QwenVL("no/such-checkpoint")
    assert isinstance(nowhere, Captioner)
    assert nowhere.caption([], []) == []
    assert nowhere.caption(images()[:1], [Layout.empty()]) == [[]]
    assert QwenVL("no/such-checkpoint", calls="image").caption(images()[:1], [Layout.empty()]) == [[]]


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("calls", ["region", "image"])
def test_captions_do_not_depend_on_the_batch(plugin, kind, calls):
    together = plugin(kind, calls=calls, batch_size=4).caption(images(), layouts())
    one = plugin(kind, calls=calls, batch_size=1)
    apart = [one.caption([image], [layout])[0] for image, layout in zip(images(), layouts(), strict=True)]
    assert together == apart and [len(x) for x in together] == [3, 0, 1]
    assert len({*together[0], *together[2]}) == 4  # pictures matter: no caption is like another
    assert plugin(kind, calls=calls, batch_size=4).caption(images(), layouts()) == together


def test_an_answer_is_what_transformers_generates_for_one_picture(plugin):
    (answer,) = plugin().answer(images()[:1], ["What is this?"], [8])
    network, processor = plugin()._network, plugin()._processor
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    size = {"shortest_edge": 1024, "longest_edge": 8192}
    inputs = processor(text=[text], images=images()[:1], size=size, return_tensors="pt")
    for _ in range(8):
        with torch.no_grad():
            logits = network(**inputs, use_cache=False).logits
        token = logits[:, -1:].argmax(-1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(token)], 1)
    assert answer == processor.tokenizer.decode(inputs["input_ids"][0, -8:], skip_special_tokens=True)


def test_answers_have_their_own_limits_and_their_pictures_order(plugin):
    three = images()
    answers = plugin().answer(three, ["a", "bb", "ccc"], [4, 12, 7])
    assert answers == [
        plugin().answer([x], [p], [n])[0] for x, p, n in zip(three, ["a", "bb", "ccc"], [4, 12, 7], strict=True)
    ]
    backwards = plugin().answer(three[::-1], ["ccc", "bb", "a"], [7, 12, 4])
    assert backwards == answers[::-1]


def test_what_was_spent_is_logged(plugin, caplog):
    with caplog.at_level(logging.DEBUG, "scenewright.annotators.captioners.qwen_vl"):
        plugin().answer(images(), ["a", "b", "c"], [8, 8, 8])
        plugin(calls="image").answer(images()[:1], ["a"], [8], max_pixels=16_384)
    (calls, prompt, new), (_, larger, _) = (x.args for x in caplog.records)
    patches = [2 * 3, 5 * 1, 2 * 2]  # squares of 32 pixels; 200 x 64 is more than 8192 pixels
    words = len("user\n") + 1 + 1 + len("\n") + 1 + len("assistant\n") + 2 + 1
    assert calls == 3 and new <= 24 and prompt == sum(patches) + 3 * words
    assert larger == 2 * 3 + words


def test_a_structured_reply_gives_the_captions_and_the_rest_is_asked_alone(plugin, monkeypatch):
    captioner = plugin(calls="image", clean=True)
    prompts = []

    def answer(pictures, texts, limits, *, max_pixels=None, seeds=None):
        prompts.extend(texts)
        return ['{"1": "A dog."}' if "JSON" in text else "Something alone." for text in texts]

    monkeypatch.setattr(captioner, "answer", answer)
    # the first call names the dog, the second the cup under the number 1, the tree is left
    assert captioner.caption(images(), layouts()) == [
        ["A dog.", "A dog.", "Something alone."],
        [],
        ["Something alone."],
    ]
    assert ["JSON" in x for x in prompts] == [True, True, False, False]
    assert "2: cup [200, 300, 1000, 1000]" in prompts[0] and "1: cup" in prompts[1]


def test_qwen_2_5_is_told_boxes_in_pixels_of_the_picture_it_sees(plugin, monkeypatch):
    captioner = plugin("qwen2_5_vl", calls="image", clean=True)
    prompts = []

    def answer(pictures, texts, limits, **options):
        prompts.extend(texts)
        return ["{}" for _ in texts]

    monkeypatch.setattr(captioner, "answer", answer)
    captioner.caption(images(), layouts())
    # 60 x 90 pixels become 56 x 84
    assert "84 wide and 56 high" in prompts[0] and "2: cup [17, 17, 84, 56]" in prompts[0]
    seen = captioner._inputs(images()[:1], ["x"], captioner.max_image_pixels)["image_grid_thw"]
    assert seen.tolist() == [[1, 56 // 14, 84 // 14]]


def test_sampling_takes_a_seed_per_image_and_leaves_torchs_generator_alone(plugin):
    sampled = plugin(sample=True, top_p=1.0)
    state = torch.get_rng_state()
    captions = sampled.caption(images(), layouts(), seeds=[1, 2, 3])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert [
        sampled.caption([x], [y], seeds=[s])[0] for x, y, s in zip(images(), layouts(), [1, 2, 3], strict=True)
    ] == captions
    other = sampled.caption(images(), layouts(), seeds=[4, 5, 2**63 - 1])
    assert other[0] != captions[0] and other[2] != captions[2]
    with pytest.raises(ValueError, match="one seed per image"):
        sampled.caption(images(), layouts())


def test_a_cache_of_fixed_size_changes_nothing(plugin):
    assert plugin(compile=True).caption(images(), layouts()) == plugin().caption(images(), layouts())


def test_half_precision_runs(checkpoints):
    options = {"min_area": 1, "min_pixels": 1024, "max_pixels": 8192, "max_new_tokens": 4, "clean": False}
    halved = QwenVL(checkpoints["qwen3_vl"], dtype="bfloat16", **options)
    assert [len(x) for x in halved.caption(images(), layouts())] == [3, 0, 1]
    assert halved._network.dtype == torch.bfloat16


def test_small_regions_take_their_label_and_prompts_their_name(plugin):
    captions = plugin(min_area=2000).caption(images(), layouts())
    assert captions[0][2] == "tree" and captions[2] == ["a very long name of a thing"] and captions[0][0] != "dog"
    first = layouts()[0]
    other = Layout(boxes=first.boxes, labels=["cat", "cup", "tree"])
    named = [plugin().caption(images()[:1], [x])[0] for x in (first, other)]
    assert named[0][0] != named[1][0] and named[0][1:] == named[1][1:]
    plain = [plugin(prompt="Describe it.").caption(images()[:1], [x])[0] for x in (first, other)]
    assert plain[0] == plain[1] != named[0]


def test_wrong_settings_and_checkpoints_say_what_is_wrong(tmp_path, checkpoints):
    with pytest.raises(ValueError, match='calls must be "region" or "image", got \'both\''):
        QwenVL(calls="both").caption(images(), layouts())
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'many'"):
        QwenVL(checkpoints["qwen3_vl"], dtype="many").caption(images(), layouts())
    with pytest.raises(MissingWeights, match="has no config.json"):
        QwenVL(str(tmp_path)).caption(images(), layouts())
    from transformers import BlipConfig, BlipForConditionalGeneration

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BlipConfig(
        text_config={**small, "vocab_size": 40}, vision_config={**small, "image_size": 32}, projection_dim=8
    )
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    processor("qwen3_vl").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a model of the kind blip; QwenVL needs one of qwen2_vl, qwen2_5_vl"):
        QwenVL(str(tmp_path)).caption(images(), layouts())
