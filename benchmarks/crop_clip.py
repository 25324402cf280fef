"""CropCLIP against a loop that scores object by object, as the reference does, with the same network in the same run.

The loop (the baseline): of each object, Pillow's crop, one call of transformers' processor, one forward pass of picture
and text. Ours: the crops of all images in batches, texts in theirs, equal ones once. With ``compat`` the scores are the
loop's, and the largest difference is printed; by default all of a crop is seen. The network is a CLIP with random
weights, as deep as ViT-B/32 and narrow: its arithmetic is as small a part of the loop as it is on a GPU, which mostly
waits. With ``--published`` it is as wide too; on a CPU arithmetic is then most of both, and batches halve it.
"""

import argparse
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from materials.layouts import random_layout
from materials.photographs import write_photographs
from PIL import Image as PILImage

from scenewright.annotators.similarity import CLIP
from scenewright.evaluation.crop_clip import CropCLIP
from scenewright.layout import Image, Layout, Sample, decode

GOAL = 5
#: Width, layers and heads of vision and text, and of their common sphere.
NARROW = ((32, 12, 2), (32, 12, 2), 32)
PUBLISHED = ((768, 12, 12), (512, 12, 8), 512)


def write_checkpoint(folder: Path, published: bool) -> None:
    """A CLIP for pictures of 224 pixels and texts of 77 tokens; each letter is a token."""
    (vision, text, common), letters = PUBLISHED if published else NARROW, string.ascii_lowercase
    marks = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {x: i for i, x in enumerate([*letters, *(f"{x}</w>" for x in letters), *marks])}
    tokenizer: Any = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config: Any = transformers.CLIPConfig
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.CLIPModel(
            config(
                vision_config={**_tower(*vision), "image_size": 224, "patch_size": 32},
                text_config={**_tower(*text), **ends, "vocab_size": len(tokenizer)},
                projection_dim=common,
                logit_scale_init_value=4.6052,
            )
        )
        for parameter in network.parameters():  # larger than at the start of training, so that scores differ
            if parameter.ndim > 1 and not published:
                parameter.data.normal_(0, 0.1)
    network.save_pretrained(folder)
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def _tower(width: int, layers: int, heads: int) -> dict[str, int]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads}


class Reference:
    """Object by object."""

    def __init__(self, folder: Path, device: str) -> None:
        self.processor: Any = transformers.CLIPProcessor.from_pretrained(folder)
        self.network: Any = transformers.CLIPModel.from_pretrained(folder).eval()
        self.network.to(device)
        self.device = device

    @torch.inference_mode()
    def score(self, pictures: Sequence[PILImage.Image], layouts: Sequence[Layout]) -> list[float]:
        scores = []
        for picture, layout in zip(pictures, layouts, strict=True):
            boxes = layout.pixel_boxes(picture.height, picture.width).int().tolist()
            for box, text in zip(boxes, layout.captions, strict=True):
                crop, options = picture.crop(tuple(box)), {"padding": True, "truncation": True, "max_length": 77}
                inputs = self.processor(text=[text], images=[crop], return_tensors="pt", **options).to(self.device)
                scores.append(self.network(**inputs).logits_per_image.item())
        return scores


def scenes(count: int, objects: int, side: int) -> tuple[list[Image], list[Layout]]:
    """Photographs, and on each so many boxes with captions of twelve words."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), count, side)
        images = [decode(x.read_bytes()) for x in sorted(Path(folder).iterdir())]
    generator, layouts = torch.Generator().manual_seed(0), []
    for seed in range(count):
        boxes = (random_layout(objects, seed).boxes * side).round() / side
        words = torch.randint(0, 26, (objects, 12), generator=generator).tolist()
        captions = [" ".join(string.ascii_lowercase[x] for x in row) for row in words]
        layouts.append(Layout(boxes, ["thing"] * objects, captions))
    return images, layouts


def seconds(call: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two images, once, to see that it runs")
    parser.add_argument("--published", action="store_true", help="the shape of ViT-B/32")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--objects", type=int, default=10, help="in each image")
    parser.add_argument("--side", type=int, default=512, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if options.smoke:
        options.images, options.objects, options.repeats = 2, 3, 1
    torch.set_num_threads(1)  # else the loop's small steps wait for one another where cores are busy
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "one thread of a CPU"
    images, layouts = scenes(options.images, options.objects, options.side)
    pictures = [PILImage.fromarray(x.permute(1, 2, 0).numpy()) for x in images]
    samples, images = [Sample(str(i), layout=x) for i, x in enumerate(layouts)], [x.to(device) for x in images]
    print(f"{options.images} images of {options.side} px with {options.objects} objects each, on {where}")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), options.published)
        reference, clip = Reference(Path(folder), device), CLIP(folder)
        metrics = {name: CropCLIP(clip, compat=name == "compat") for name in ("default", "compat")}
        calls: dict[str, Callable[[], Any]] = {"object by object": lambda: reference.score(pictures, layouts)}
        calls |= {name: lambda metric=metric: metric.score(images, samples) for name, metric in metrics.items()}
        first = {name: call() for name, call in calls.items()}  # loads it
        rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(options.repeats)]
    scores = [x for record in first["compat"] for x in record.objects["crop_clip"]]
    differences = [abs(x - y) for x, y in zip(scores, first["object by object"], strict=True)]
    for name in calls:
        took = median(x[name] for x in rounds)
        ratio = median(x["object by object"] / x[name] for x in rounds)
        goal = f", object by object / {name} {ratio:.1f} times (goal {GOAL})" if name in metrics else ""
        print(f"  {name:<17}{1e3 * took / len(scores):7.2f} ms per object{goal}")
    print(f"  largest difference of compat's scores from the loop's: {max(differences):.1e}", flush=True)


if __name__ == "__main__":
    main()
