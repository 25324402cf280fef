"""Checkpoints with random weights, in the files that users have: they cost what trained ones cost.

What such networks find means nothing. ``TINY`` is for tests, ``SMALL`` fits a CPU; ``REAL`` has the sizes of RAM with
Swin-L, Grounding DINO with Swin-T, SAM with ViT-H, and BLIP-2 with FLAN-T5-XL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORDS = "person dog car tree house ball chair table window flower".split()


@dataclass(frozen=True)
class Size:
    """How large the four networks are.

    Attributes:
        swin: embedding width, depths, heads and window of RAM's backbone; its picture is 32 windows wide.
        head: width of RAM's decoder.
        detector: options of ``GroundingDinoConfig``; its picture's shorter side, at most so much for the longer one.
        segmenter: options of ``SamVisionConfig``.
        vision, qformer, text: options of BLIP-2's parts.
        words: of a caption, exactly.
    """

    swin: tuple[int, tuple[int, ...], tuple[int, ...], int]
    head: int
    detector: Mapping[str, Any]
    shorter: int
    segmenter: Mapping[str, Any]
    vision: Mapping[str, Any]
    qformer: Mapping[str, Any]
    text: Mapping[str, Any]
    words: int = 12
    queries: int = 32
    longer: int = field(default=1333)


_THIN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
#: For tests.
TINY = Size(
    swin=(4, (1, 1, 1, 1), (1, 1, 2, 2), 2),
    head=16,
    detector={
        "backbone_config": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
        "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "num_queries": 20,
    },
    shorter=128,
    longer=192,
    segmenter={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16},
    vision=_THIN | {"image_size": 28, "patch_size": 14},
    qformer=_THIN,
    text={"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    words=3,
    queries=4,
)
_NARROW = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}
SMALL = Size(
    swin=(32, (2, 2, 4, 2), (2, 4, 8, 16), 7),
    head=128,
    detector={
        "backbone_config": {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]},
        "text_config": {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
        "d_model": 128,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "num_queries": 100,
    },
    shorter=192,
    longer=320,
    segmenter={"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "image_size": 256},
    vision=_NARROW | {"image_size": 112},
    qformer=_NARROW,
    text={"d_model": 192, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_heads": 6},
)
REAL = Size(
    swin=(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    head=768,
    detector={
        "backbone_config": {
            "embed_dim": 96,
            "depths": [2, 2, 6, 2],
            "num_heads": [3, 6, 12, 24],
            "window_size": 7,
            "image_size": 224,
        },
        "text_config": {},
    },
    shorter=800,
    segmenter={
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
        "mlp_dim": 5120,
        "image_size": 1024,
    },
    vision={},
    qformer={},
    text={"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
)


def write(folder: Path, size: Size) -> None:
    """Write ``ram.pth`` and the folders ``detector``, ``segmenter`` and ``captioner``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save({"model": ram_tensors(size)}, folder / "ram.pth")
        _write_detector(folder / "detector", size)
        _write_segmenter(folder / "segmenter", size)
        _write_captioner(folder / "captioner", size)


def ram_tensors(size: Size, classes: int = 4585) -> dict[str, Tensor]:
    """Random tensors under the names of RAM's published file."""
    width, depths, heads, window = size.swin
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        **_norm("patch_embed.norm", width),
    }
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        wide = width * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            shapes |= _norm(f"{at}.norm1", wide) | _norm(f"{at}.norm2", wide)
            shapes |= {f"{at}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, count)}
            shapes |= _linear(f"{at}.attn.qkv", wide, 3 * wide) | _linear(f"{at}.attn.proj", wide, wide)
            shapes |= _linear(f"{at}.mlp.fc1", wide, 4 * wide) | _linear(f"{at}.mlp.fc2", 4 * wide, wide)
        if stage < len(depths) - 1:
            shapes |= _norm(f"layers.{stage}.downsample.norm", 4 * wide)
            shapes |= {f"layers.{stage}.downsample.reduction.weight": (2 * wide, 4 * wide)}
    last = width * 2 ** (len(depths) - 1)
    shapes = {f"visual_encoder.{name}": shape for name, shape in (shapes | _norm("norm", last)).items()}
    shapes |= _linear("image_proj", last, 512) | _linear("wordvec_proj", 512, size.head) | _linear("fc", size.head, 1)
    shapes["label_embed"] = (classes, 512)
    for layer in range(2):
        at = f"tagging_head.encoder.layer.{layer}"
        shapes |= _linear(f"{at}.crossattention.self.query", size.head, size.head)
        shapes |= _linear(f"{at}.crossattention.self.key", 512, size.head)
        shapes |= _linear(f"{at}.crossattention.self.value", 512, size.head)
        shapes |= _linear(f"{at}.crossattention.output.dense", size.head, size.head)
        shapes |= _norm(f"{at}.crossattention.output.LayerNorm", size.head)
        shapes |= _linear(f"{at}.intermediate.dense", size.head, 4 * size.head)
        shapes |= _linear(f"{at}.output.dense", 4 * size.head, size.head) | _norm(f"{at}.output.LayerNorm", size.head)
    return {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}


def _linear(name: str, narrow: int, wide: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (wide, narrow), f"{name}.bias": (wide,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _write_detector(folder: Path, size: Size) -> None:
    import transformers

    options = dict(size.detector)
    backbone: dict[str, Any] = {"window_size": 7, **options.pop("backbone_config"), "out_indices": [2, 3, 4]}
    swin = transformers.SwinConfig(**backbone)
    bert = transformers.BertConfig(**options.pop("text_config"))
    config = transformers.GroundingDinoConfig(backbone_config=swin, text_config=bert, **options)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    # the network knows the ends of sentences by the ids that BERT's vocabulary gives them
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ",": 1010, ".": 1012, "?": 1029}
    vocabulary = {f"[unused{i}]": i for i in range(1040) if i not in special.values()} | special
    vocabulary |= {word: 1040 + i for i, word in enumerate(WORDS)}
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": size.shorter, "longest_edge": size.longer})
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True)
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


def _write_segmenter(folder: Path, size: Size) -> None:
    import transformers

    side = size.segmenter["image_size"]
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(**size.segmenter),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(image_size=side),
    )
    transformers.SamModel(config).save_pretrained(folder)
    processor = transformers.SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    processor.save_pretrained(folder)


def _write_captioner(folder: Path, size: Size) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<pad>", "</s>", "<unk>", *WORDS]
    tokens = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )
    vocabulary = 32_128  # FLAN-T5's; of the tokens beyond the words, none has a text
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    text = {"model_type": "t5", "vocab_size": vocabulary, "is_encoder_decoder": True, **size.text, **ends}
    width = size.vision.get("hidden_size", 1408)
    config = transformers.Blip2Config(
        vision_config=dict(size.vision),
        qformer_config={**size.qformer, "encoder_hidden_size": width},
        text_config=text,
        num_query_tokens=size.queries,
        image_token_index=vocabulary - 1,
    )
    network = transformers.Blip2ForConditionalGeneration(config)
    network.generation_config.min_new_tokens = size.words
    network.save_pretrained(folder)
    side = size.vision.get("image_size", 224)
    images = transformers.BlipImageProcessor(size={"height": side, "width": side})
    transformers.Blip2Processor(images, tokenizer, num_query_tokens=size.queries).save_pretrained(folder)
