"""Our pipeline against a loop as the reference scripts have it, with the same networks in the same run.

The loop (the baseline): an image is opened, made ready by Pillow, tagged, its tags given to the detector as text that
is encoded anew, its boxes cut out, and each crop described by itself, before a JSON file is written and the next image
is opened. RAM, Grounding DINO, SAM and BLIP-2 are transformers' classes, and the port of RAM, with random weights;
both ways have the same ten tags, the six surest boxes, and captions of one length.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from materials.photographs import write_photographs
from materials.random_checkpoints import REAL, SMALL, WORDS, write
from PIL import Image as PILImage
from pycocotools import mask as _pycocotools
from torchvision.ops import nms
from torchvision.transforms.functional import normalize, to_tensor

from scenewright.annotators.captioners.blip2 import BLIP2
from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.annotators.pipeline import Timings, annotate
from scenewright.annotators.recognition.weights import read_network
from scenewright.annotators.segmenters.sam import SAM
from scenewright.annotators.taggers.ram import RAM
from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shards import ShardWriter, write_shards
from scenewright.layout import Image

coco: Any = _pycocotools  # its type stubs know single masks only

REGIONS = 6


@dataclass(frozen=True)
class TenTags:
    """A tagger that does its work, and then names ten words: the tags of random weights are none or thousands."""

    tagger: Any

    def tag(self, images: Sequence[Image]) -> list[list[str]]:
        self.tagger.tag(images)
        return [list(WORDS) for _ in images]


class Reference:
    """The four networks in a loop over images, as the published scripts use them."""

    def __init__(self, folder: Path, words: int, device: str, dtype: torch.dtype) -> None:
        load, self.words, self.device, self.dtype = partial(_loaded, device=device, dtype=dtype), words, device, dtype
        self.tagger = read_network(folder / "ram.pth", "RAM").to(device, dtype)
        self.detector = load(transformers.GroundingDinoForObjectDetection, folder / "detector")
        self.text: Any = transformers.GroundingDinoProcessor.from_pretrained(folder / "detector")
        self.segmenter = load(transformers.SamModel, folder / "segmenter")
        self.prompts: Any = transformers.SamProcessor(
            transformers.SamImageProcessor.from_pretrained(folder / "segmenter")
        )
        self.captioner = load(transformers.Blip2ForConditionalGeneration, folder / "captioner")
        self.crops: Any = transformers.Blip2Processor.from_pretrained(folder / "captioner")

    @torch.inference_mode()
    def annotate(self, path: Path) -> dict[str, Any]:
        image = PILImage.open(path).convert("RGB")
        side = self.tagger.image_size
        pixels = normalize(to_tensor(image.resize((side, side))), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.tagger(pixels[None].to(self.device, self.dtype)).sigmoid().cpu()
        boxes, scores = self.boxes(image)
        inputs = self._moved(self.prompts(image, input_boxes=[boxes.tolist()], return_tensors="pt"))
        found = self.segmenter(**inputs, multimask_output=False)
        masks = self.prompts.image_processor.post_process_masks(
            found.pred_masks.float().cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0][:, 0]
        annotations = []
        for box, score, mask in zip(boxes.tolist(), scores.tolist(), masks, strict=True):
            lengths = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            left, top, right, bottom = map(int, box)
            caption = self.caption(image.convert("RGB").crop((left, top, right, bottom)))
            counts = lengths["counts"].decode()
            annotations.append({"bbox": box, "pred_score": score, "mask": counts, "caption": caption})
        return {"caption": self.caption(image), "annos": annotations}

    def boxes(self, image: PILImage.Image) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self._moved(self.text(images=image, text=", ".join(WORDS) + ".", return_tensors="pt"))
        found = self.detector(**inputs)
        scores, boxes = found.logits[0].float().sigmoid().cpu().max(-1).values, found.pred_boxes[0].float().cpu()
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).clamp(0, 1)
        corners *= torch.tensor([*image.size, *image.size])
        kept = nms(corners, scores, 0.5)[:REGIONS]
        return corners[kept], scores[kept]

    def caption(self, crop: PILImage.Image) -> str:
        inputs = self._moved(self.crops(images=crop, text="", return_tensors="pt"))
        tokens = self.captioner.generate(**inputs, do_sample=False, max_new_tokens=self.words)
        return self.crops.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    def _moved(self, inputs: Any) -> Any:
        return {k: v.to(self.device, self.dtype if v.is_floating_point() else None) for k, v in inputs.items()}


def _loaded(kind: Any, folder: Path, *, device: str, dtype: torch.dtype) -> Any:
    return kind.from_pretrained(folder, dtype=dtype).eval().to(device)


def ours(folder: Path, words: int, dtype: str, batch_size: int) -> dict[str, Any]:
    """The annotators of the pipeline on the same networks."""
    return {
        "tagger": TenTags(RAM(str(folder / "ram.pth"), batch_size=batch_size, dtype=dtype)),
        "detector": GroundingDINO(
            str(folder / "detector"), box_threshold=0.0, max_boxes=REGIONS, batch_size=batch_size, dtype=dtype
        ),
        "segmenter": SAM(str(folder / "segmenter"), batch_size=batch_size, dtype=dtype),
        "captioner": BLIP2(
            str(folder / "captioner"), max_new_tokens=words, min_area=0, batch_size=8 * batch_size, dtype=dtype
        ),
    }


def pipeline(annotators: dict[str, Any], photographs: Path, batch_size: int, device: str, timings: Timings) -> float:
    """Seconds from image files to whole shards."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        run = partial(annotate, **annotators, batch_size=batch_size, device=device, timings=timings)
        with ShardWriter(output) as writer:
            write_shards(ImageFolder(str(photographs)), writer, run)
        return time.perf_counter() - start


def loop(reference: Reference, photographs: Path) -> float:
    """Seconds from image files to a JSON file for each."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        for path in sorted(photographs.iterdir()):
            record = reference.annotate(path)
            Path(output, f"label_{path.stem}.json").write_text(json.dumps(record, indent=4))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one image, once, to see that it runs")
    parser.add_argument("--size", choices=["small", "real"], default="small", help="real wants a large GPU")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    size, dtype = (REAL, "bfloat16") if options.size == "real" else (SMALL, "float32")
    count, repeats = (1, 1) if options.smoke else (options.images, options.repeats)
    with tempfile.TemporaryDirectory() as directory:
        weights, photographs = Path(directory, "weights"), Path(directory, "photographs")
        weights.mkdir()
        write(weights, size)
        write_photographs(photographs, count, side=768)
        annotators = ours(weights, size.words, dtype, options.batch_size)
        reference = Reference(weights, size.words, options.device, getattr(torch, dtype))
        timings = Timings()
        ways: dict[str, Callable[[], float]] = {
            "pipeline": lambda: pipeline(annotators, photographs, options.batch_size, options.device, timings),
            "loop": lambda: loop(reference, photographs),
        }
        if not options.smoke:  # loads networks, fills caches
            pipeline(annotators, photographs, options.batch_size, options.device, Timings())
            reference.annotate(next(photographs.iterdir()))
        rounds = []
        for number in range(repeats):  # there and back, so that none is always first
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            rounds.append({way: ways[way]() for way in order})
    report(rounds, timings, count, options)


def report(rounds: list[dict[str, float]], timings: Timings, count: int, options: argparse.Namespace) -> None:
    print(f"{options.size} networks on {options.device}, {count} photographs of 768 px, {REGIONS} regions in each")
    for way in ("pipeline", "loop"):
        print(f"  {way:<9} {median(x[way] for x in rounds) / count * 1e3:8.1f} ms/image")
    ratios = [x["loop"] / x["pipeline"] for x in rounds]
    print(f"  loop / pipeline  {median(ratios):.2f} times  (of {len(rounds)}: {min(ratios):.2f} to {max(ratios):.2f})")
    for stage, seconds in timings.seconds.items():
        print(f"    {stage:<9} {seconds / timings.images * 1e3:8.1f} ms/image of the pipeline")
    stages = sum(seconds for stage, seconds in timings.seconds.items() if stage != "wait")
    print(f"  stages / pipeline  {stages / sum(x['pipeline'] for x in rounds):.0%} of the time is in the annotators")


if __name__ == "__main__":
    main()
