"""SAMIoU against a loop that looks at the image anew for every object, as the reference does, with the same network.

The loop (the baseline): of each object, transformers' processor, SAM's image encoder and its mask decoder for that box;
the mask's tight box against the box. Ours encodes an image once for all its objects. Seconds are given of the image
encoder, which is nearly all of SAM, and of the whole. Both take every mask, whatever the network believes of it. The
network is a SAM with random weights: what it finds means nothing, but both must find the same.
"""

import argparse
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
from torchvision.ops import box_iou, masks_to_boxes

from scenewright.annotators.segmenters.sam import SAM
from scenewright.evaluation.sam_iou import SAMIoU
from scenewright.layout import Image, Layout, Sample, decode

#: Of ``SamVisionConfig``.
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "image_size": 256}
#: ViT-B.
PUBLISHED = {"image_size": 1024}


def write_checkpoint(folder: Path, published: bool) -> None:
    vision: dict[str, Any] = PUBLISHED if published else SMALL
    side = vision["image_size"]
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(**vision),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(image_size=side),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.SamModel(config).save_pretrained(folder)
    processor = transformers.SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    processor.save_pretrained(folder)


class Clock:
    """How many pictures an image encoder has seen, and how long it took."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.pictures, self.seconds, self.start = 0, 0.0, 0.0
        encoder.register_forward_pre_hook(self.begin)
        encoder.register_forward_hook(self.end)

    def reset(self) -> None:
        self.pictures, self.seconds = 0, 0.0

    def begin(self, encoder: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.start = now()

    def end(self, encoder: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.seconds += now() - self.start
        self.pictures += len(output.last_hidden_state)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Reference:
    """Object by object."""

    def __init__(self, folder: Path, device: str) -> None:
        self.processor: Any = transformers.SamProcessor(transformers.SamImageProcessor.from_pretrained(folder))
        self.network: Any = transformers.SamModel.from_pretrained(folder).eval()
        self.network.to(device)
        self.device = device

    @torch.inference_mode()
    def score(self, images: Sequence[Image], layouts: Sequence[Layout]) -> list[float]:
        scores = []
        for image, layout in zip(images, layouts, strict=True):
            scores += [self.iou(image, box) for box in layout.pixel_boxes(*image.shape[1:]).int()]
        return scores

    def iou(self, image: Image, box: torch.Tensor) -> float:
        inputs = self.processor(images=image, input_boxes=[[box.tolist()]], return_tensors="pt").to(self.device)
        sizes = [inputs.pop(x) for x in ("original_sizes", "reshaped_input_sizes")]
        inputs["input_boxes"] = inputs["input_boxes"].float()
        found = self.network(**inputs, multimask_output=False)
        (mask,) = self.processor.image_processor.post_process_masks(found.pred_masks, *sizes)
        if not mask.any():
            return 0.0
        # from the first row and column to the last ones, as the reference has it
        return box_iou(masks_to_boxes(mask[0]).cpu(), box[None].float()).item()


def scenes(count: int, objects: int, side: int) -> tuple[list[Image], list[Layout]]:
    """Photographs, and on each so many boxes at whole pixels."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), count, side)
        images = [decode(x.read_bytes()) for x in sorted(Path(folder).iterdir())]
    boxes = [(random_layout(objects, seed).boxes * side).round() / side for seed in range(count)]
    return images, [Layout(x, ["thing"] * objects) for x in boxes]


def measure(call: Callable[[], Any], clock: Clock) -> tuple[float, float, int]:
    """Seconds of the encoder, seconds of everything, and pictures that were encoded."""
    clock.reset()
    start = now()
    call()
    return clock.seconds, now() - start, clock.pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two images, once, to see that it runs")
    parser.add_argument("--published", action="store_true", help="the shape of ViT-B; for a GPU")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--objects", type=int, default=8, help="in each image")
    parser.add_argument("--side", type=int, default=512, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.smoke:
        options.images, options.objects, options.repeats = 2, 3, 1
    torch.set_num_threads(1)  # else the loop's small steps wait for one another where cores are busy
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "one thread of a CPU"
    images, layouts = scenes(options.images, options.objects, options.side)
    images = [x.to(device) for x in images]
    samples = [Sample(str(i), layout=x) for i, x in enumerate(layouts)]
    print(f"{options.images} images of {options.side} px with {options.objects} objects each, on {where}")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), options.published)
        reference, segmenter = Reference(Path(folder), device), SAM(folder, batch_size=4 if device == "cuda" else 2)
        metric = SAMIoU(segmenter, min_predicted_iou=float("-inf"), compat=True)
        loop, ours = lambda: reference.score(images, layouts), lambda: metric.score(images, samples)
        expected, got = loop(), [x for record in ours() for x in record.objects["sam_iou"]]  # loads it
        calls = {
            "object by object": (loop, Clock(reference.network.vision_encoder)),
            "image by image": (ours, Clock(segmenter._network.vision_encoder)),
        }
        rounds = [{name: measure(*call) for name, call in calls.items()} for _ in range(options.repeats)]
    for name in calls:
        encoder, whole = (1e3 * median(x[name][i] for x in rounds) / len(expected) for i in (0, 1))
        print(
            f"  {name:<17}{encoder:8.2f} ms per object in the encoder, which saw {rounds[0][name][2]} pictures;", end=""
        )
        print(f"{whole:8.2f} ms in all")
    ratios = [median(x["object by object"][i] / x["image by image"][i] for x in rounds) for i in (0, 1, 2)]
    print(
        f"  object by object / image by image: {ratios[0]:.1f} times in the encoder (goal {options.objects}), "
        f"{ratios[1]:.1f} in all, {ratios[2]:g} in pictures"
    )
    differences = [abs(x - y) for x, y in zip(expected, got, strict=True)]
    print(f"  largest difference of the scores: {max(differences):.1e}", flush=True)


if __name__ == "__main__":
    main()
