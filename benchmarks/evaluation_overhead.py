"""What of an evaluation's time is spent outside the networks: reading, cropping, keeping scores, intervals, the report.

Judges a folder of JPEG files by CropCLIP and CLIPScore, as ``entrypoints/eval.py`` does, from the first image to the
report. The baseline is the time inside the networks in the same run: all calls of the outermost modules. The network
has the shape of CLIP ViT-B/32 and random weights. Starting up and loading are left out.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from crop_clip import scenes, write_checkpoint
from hydra import compose, initialize_config_module
from PIL import Image as PILImage
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from scenewright.entrypoints.evaluation_run import EvaluationRun
from scenewright.layout import Image, Layout

GOAL = 10


class Clock:
    """Seconds inside the outermost modules."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._depth, self._start = 0.0, 0, 0, 0.0

    def _enter(self, module: Any, args: Any) -> None:
        if not self._depth:
            _wait()
            self._start = time.perf_counter()
        self._depth += 1

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        self._depth -= 1
        if not self._depth:
            _wait()
            self.seconds += time.perf_counter() - self._start
            self.calls += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while this is open."""
        hooks = register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_inputs(folder: Path, images: list[Image], layouts: list[Layout]) -> None:
    """``images/KEY.jpg`` and ``layouts.json``."""
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{number:05d}.jpg", quality=92)
    keys = [f"{i:05d}" for i in range(len(layouts))]
    entries = [
        {"key": key, "caption": x.captions[0], "boxes": x.boxes.tolist(), "labels": x.labels, "captions": x.captions}
        for key, x in zip(keys, layouts, strict=True)
    ]
    (folder / "layouts.json").write_text(json.dumps(entries))


def measure(folder: Path) -> tuple[float, Clock]:
    """Seconds from the first image to the report, and those in the networks."""
    clip = [f"metric.{name}.image_text.{x}" for name in ("crop_clip", "clip_score") for x in ("checkpoint", "revision")]
    chosen = [folder / "clip", "null"] * 2
    with initialize_config_module("scenewright.conf", version_base="1.3"):
        given = ["dataset=layout_file", f"layouts={folder / 'layouts.json'}", f"images={folder / 'images'}"]
        given += ["metric=[crop_clip,clip_score]", f"output_dir={folder / 'run'}"]
        given += [f"{name}={value}" for name, value in zip(clip, chosen, strict=True)]
        run, clock = EvaluationRun(compose("eval", given)), Clock()
    for metric in run.metrics.values():
        assert metric.image_text.scale  # loads it
    with clock.running():
        start = time.perf_counter()
        run.judge()
        run.conclude()
        return time.perf_counter() - start, clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two images, to see that it runs")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--objects", type=int, default=10, help="in each image")
    parser.add_argument("--side", type=int, default=512, help="of an image, in pixels")
    options = parser.parse_args()
    if options.smoke:
        options.images, options.objects = 2, 3
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "one thread of a CPU"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, *scenes(options.images, options.objects, options.side))
        write_checkpoint(folder / "clip", published=not options.smoke)
        whole, clock = measure(folder)
    outside = 100 * (whole - clock.seconds) / whole
    print(f"{options.images} images of {options.side} px with {options.objects} objects each, on {where}")
    print(f"  in all        {whole:7.2f} s")
    print(f"  in networks   {clock.seconds:7.2f} s, {clock.calls} calls")
    print(f"  outside       {outside:7.1f} % of the whole (goal {GOAL} %)", flush=True)


if __name__ == "__main__":
    main()
