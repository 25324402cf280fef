"""What one structured call per image costs, against one call per crop, the baseline, of the same regions.

Both run through ``QwenVL`` as users run it, on a Qwen3-VL with random weights: of its published shape in bfloat16 where
there is a GPU, else a small one. Random weights write no JSON. So that the work is that of a model which does, every
caption takes a fixed number of new tokens in both ways, a structured reply six more for each region (its number,
quotes, colon and comma), and when it has been generated, at full cost, a well-formed reply is put in its place. What a
real model leaves out of its reply would be asked for again and comes on top. Prompts are counted with a vocabulary
trained on this project's own pages, whose tokens are a little shorter than Qwen's.

What to expect: calls fall by the number of regions, which is what a server that is paid or waited for by the call
feels; prompt tokens fall where the crops have more pixels together than the image is shown with. New tokens do not
fall, and within one process they are generated one after the other instead of side by side, so that seconds may rise.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from materials.photographs import write_photographs
from torch import Tensor

from scenewright.annotators.captioners.qwen_vl import QwenVL
from scenewright.layout import Layout, decode

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
_SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
_JSON = 6  # tokens of `"12": "", `
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


@dataclass
class Spent(logging.Handler):
    """Sums what a captioner says it has spent."""

    calls: int = 0
    prompt: int = 0
    new: int = 0

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        spent: Any = record.args
        if isinstance(spent, tuple) and len(spent) == 3:
            calls, prompt, new = spent
            self.calls, self.prompt, self.new = self.calls + calls, self.prompt + prompt, self.new + new

    __hash__ = logging.Handler.__hash__


def write_checkpoint(folder: Path, published: bool) -> None:
    """A Qwen3-VL with random weights that never stops by itself, and a processor."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLConfig
    from transformers.models.qwen3_vl import (
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    root = Path(__file__).parents[1]
    pages = [str(x) for x in (*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("packages/**/*.py"))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(
        pages,
        trainers.BpeTrainer(vocab_size=8000, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    roles = ("image_token", "video_token", "vision_bos_token", "vision_eos_token")
    names = dict(zip(roles, ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"), strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=_SPECIAL[0], extra_special_tokens=names)
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    text, vision = (_PUBLISHED if published else _SMALL).values()
    ids: dict[str, Any] = {f"{name}_token_id": _SPECIAL.index(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {f"{name}_token_id": _SPECIAL.index(f"<|{name}_pad|>") for name in ("image", "video")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if published else torch.float32)
        network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
        torch.set_default_dtype(torch.float32)
    network.generation_config.eos_token_id = None
    network.save_pretrained(folder)


_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
#: Qwen3-VL-2B's.
_PUBLISHED = {
    "text": {
        **{"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28},
        **{"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
        "rope_parameters": {**_ROPE, "mrope_section": [24, 20, 20]},
    },
    "vision": {
        **{"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048},
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
#: A quarter of it each way.
_SMALL = {
    "text": {
        **{"vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 7},
        **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64},
        "rope_parameters": {**_ROPE, "mrope_section": [12, 10, 10]},
    },
    "vision": {
        **{"depth": 6, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "out_hidden_size": 512},
        "deepstack_visual_indexes": [1, 3, 5],
    },
}


class Obedient(QwenVL):
    """Generates as many tokens as a structured reply has, and then says what a real model would have said."""

    def answer(self, pictures: Sequence[Tensor], prompts: Sequence[str], limits: Sequence[int], **options) -> list[str]:
        regions = [sum(x[:1].isdigit() for x in prompt.splitlines()) for prompt in prompts]
        limits = [n * (self.max_new_tokens + _JSON) if n else self.max_new_tokens for n in regions]
        said = super().answer(pictures, prompts, limits, **options)
        return [
            json.dumps({str(i + 1): "A thing." for i in range(n)}) if n else x
            for n, x in zip(regions, said, strict=True)
        ]


def scenes(count: int, regions: int, side: int, device: str) -> tuple[list[Tensor], list[Layout]]:
    """Photographs, and on each so many boxes of 15 to 50 % of its sides."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), count, side)
        images = [decode(x.read_bytes()).to(device) for x in sorted(Path(folder).iterdir())]
    generator = torch.Generator().manual_seed(0)
    layouts = []
    for _ in images:
        sizes = 0.15 + 0.35 * torch.rand(regions, 2, generator=generator)
        starts = torch.rand(regions, 2, generator=generator) * (1 - sizes)
        layouts.append(Layout(boxes=torch.cat([starts, starts + sizes], 1), labels=["street light"] * regions))
    return images, layouts


def measure(caption: Callable[[], object], repeats: int) -> tuple[Spent, float]:
    """What one run spends, and the seconds of the fastest."""
    logger, seconds = logging.getLogger("scenewright.annotators.captioners.qwen_vl"), []
    logger.setLevel(logging.DEBUG)
    spent = Spent()
    for _ in range(repeats):
        spent = Spent()
        logger.addHandler(spent)
        start = time.perf_counter()
        caption()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        logger.removeHandler(spent)
    return spent, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one image, to see that it runs")
    parser.add_argument("--images", type=int, default=8, help="in one batch or more")
    parser.add_argument("--regions", type=int, default=8, help="in each image")
    parser.add_argument("--tokens", type=int, default=24, help="of each caption")
    parser.add_argument("--side", type=int, default=768, help="of an image, in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    if options.smoke:
        options.images, options.regions, options.tokens, options.side = 1, 3, 4, 256
    published = torch.cuda.is_available() and not options.smoke
    device = "cuda" if published else "cpu"
    transformers.utils.logging.disable_progress_bar()
    images, layouts = scenes(options.images, options.regions, options.side, device)
    name = "Qwen3-VL-2B's shape, bfloat16" if published else "a quarter of Qwen3-VL-2B each way, float32"
    print(f"{options.images} images of {options.side} px, {options.regions} regions of {options.tokens} tokens each")
    print(f"{name}, on {torch.cuda.get_device_name() if published else 'a CPU'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), published)
        dtype = "bfloat16" if published else "float32"
        settings = {"max_new_tokens": options.tokens, "batch_size": options.batch_size, "dtype": dtype, "min_area": 1}
        results = {}
        for calls, title in (("region", "one call per crop"), ("image", "one call per image")):
            captioner = Obedient(folder, calls=calls, **settings)
            captioner.caption(images[:1], layouts[:1])  # loads it
            spent, seconds = measure(partial(captioner.caption, images, layouts), 3 if published else 1)
            results[title] = (spent.calls, spent.prompt, spent.new, seconds)
            print(f"{title:19}{spent.calls:6} calls{spent.prompt:8} prompt tokens{spent.new:8} new", end="")
            print(f" tokens{seconds:8.2f} s", flush=True)
    whats = ("calls", "prompt tokens", "new tokens", "seconds")
    ratios = [a / b for a, b in zip(results["one call per crop"], results["one call per image"], strict=True)]
    print(
        "  one call per crop / one call per image:",
        ", ".join(f"{w} {r:.2f}" for w, r in zip(whats, ratios, strict=True)),
    )


if __name__ == "__main__":
    main()
