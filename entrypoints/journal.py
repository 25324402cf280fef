"""What a training run says about itself: a progress bar, a log, trackers and pictures."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from PIL import Image as PILImage
from tqdm import tqdm

from scenewright.entrypoints.command import progress_bar
from scenewright.entrypoints.throughput import Throughput, peak_flops, peak_memory
from scenewright.evaluation.contact_sheet import boxed, contact_sheet, picture, plate
from scenewright.layout import Batch
from scenewright.layout_models.training import Step, trainable
from scenewright.layout_models.validation import Validated

logger = logging.getLogger("scenewright.entrypoints.train")

#: How much the loss on the bar remembers.
_MEMORY = 0.98


class Journal:
    """Reports on one run; only the main process writes and prints.

    Args:
        network: the model without what Accelerate put around it.
    """

    def __init__(self, cfg: DictConfig, process: Accelerator, network: Any) -> None:
        self.cfg, self.process, self.network = cfg, process, network
        self.folder = Path(cfg.output_dir)
        self.start = self.images = 0
        self.seconds, self.began = 0.0, time.perf_counter()
        self.loss = self.last_loss = float("nan")
        recomputes = any(getattr(x, "gradient_checkpointing", False) for x in self.network.modules())
        self.window = Throughput(self._peak(), recomputes)
        self._open = ExitStack()

    def __enter__(self) -> "Journal":
        self._open.enter_context(log_to(self.folder / "train.log", self.process.is_main_process))
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def begin(self, start: int) -> None:
        """Open bar and trackers.

        Args:
            start: the last step that was made before.
        """
        self.start = start
        name = f"{type(self.network).__name__}"
        trained = sum(x.numel() for x in trainable(self.network).values())
        whole = sum(x.numel() for x in self.network.parameters())
        logger.info(
            "%s: %s of %s parameters are trained, on %d × %s, from step %d to %d",
            *(name, short(trained), short(whole), self.process.num_processes, self.process.device.type),
            *(start, self.cfg.steps),
        )
        self._begin_trackers()
        self.bar = self._open.enter_context(
            progress_bar(self.process, "step", seconds=30, total=self.cfg.steps, initial=start)
        )

    def watched(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Report on steps as they are made."""
        stream = iter(steps)
        while (step := self._next(stream)) is not None:
            self._add(step)
            yield step

    def validated(self, number: int, found: Validated, held_out: Sequence[Batch], wanted: Sequence[Batch]) -> None:
        """Report on a validation, with a picture of what was drawn."""
        if not self.process.is_main_process:
            return
        self.last_loss = found.loss
        path = self.folder / "validation" / f"step-{number:08d}.png"
        images = sum(map(len, held_out))
        drawn = f" · {path}" if found.images else ""
        logger.info(
            "step %d: loss %.4f on %d held-out images · %.1f s%s", number, found.loss, images, found.seconds, drawn
        )
        self.process.log({"validation/loss": found.loss, "validation/seconds": found.seconds}, step=number)
        if found.images:
            sheet = validation_sheet(found, wanted)
            path.parent.mkdir(exist_ok=True)
            sheet.save(path)
            self._track_picture(sheet, number)

    @property
    def summary(self) -> str:
        """How the run ended, in a line."""
        if not self.images:
            return f"{self.folder} has its {self.start} steps already; steps=… goes on"
        loss = "" if np.isnan(self.last_loss) else f" · held-out loss {self.last_loss:.4f}"
        took = (
            f"{timedelta(seconds=round(time.perf_counter() - self.began))} ({self.images / self.seconds:.1f} images/s)"
        )
        return (
            f"{type(self.network).__name__}: {self.cfg.steps - self.start} steps, {self.images:,} images in {took} · "
            f"loss {self.loss:.4f}{loss} · {self.folder}"
        )

    def _next(self, stream: Iterator[Step]) -> Step | None:
        with nullcontext() if self.images else self.window.counting():
            return next(stream, None)

    def _add(self, step: Step) -> None:
        self.window.add(step)
        self.images += step.images
        self.seconds += step.seconds
        if not step.skipped:
            self.loss = step.loss if np.isnan(self.loss) else _MEMORY * self.loss + (1 - _MEMORY) * step.loss
        self.bar.set_postfix(self._postfix(), refresh=False)
        self.bar.update()
        if step.number % self.cfg.log_every == 0 or step.number == self.cfg.steps:
            self._log(step)

    def _postfix(self) -> dict[str, str]:
        shown = {"loss": f"{self.loss:.4f}", "images/s": f"{self.window.images_per_second:.1f}"}
        used = self.window.utilization
        return shown if used is None else {**shown, self.window.measure: f"{used:.0%}"}

    def _log(self, step: Step) -> None:
        window, steps = self.window, self.cfg.steps
        used = "" if window.utilization is None else f" · {window.measure} {window.utilization:.1%}"
        skipped = f" · {window.skipped} steps skipped" if window.skipped else ""
        waited = window.waited / window.seconds
        logger.info(
            "step %d of %d: loss %.4f · gradient norm %.3g · learning rate %.3g · %.1f images/s · %.1f %% of the time "
            "waiting for data%s%s · peak memory %s",
            *(step.number, steps, window.mean_loss, step.grad_norm, step.learning_rate, window.images_per_second),
            *(100 * waited, used, skipped, peak_memory(self.process.device)),
        )
        values = {
            "loss": window.mean_loss,
            "gradient_norm": step.grad_norm,
            "learning_rate": step.learning_rate,
            "images_per_second": window.images_per_second,
            "waiting_share": waited,
            "skipped_steps": window.skipped,
        }
        self.process.log({f"train/{k}": v for k, v in values.items()}, step=step.number)
        window.reset()

    def _begin_trackers(self) -> None:
        name = self.folder.resolve().name
        # the same command continues the same run of W&B, and takes the place of what TensorBoard has of lost steps
        identity = sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        wandb = {"dir": str(self.folder), "name": name, "id": identity, "resume": "allow"}
        options = {"tensorboard": {"purge_step": self.start + 1}, "wandb": wandb}
        self.process.init_trackers("scenewright", init_kwargs=options)
        text = OmegaConf.to_yaml(self.cfg, resolve=True)
        if self.process.trackers and not self.start:
            self.process.log({"configuration": "".join(f"    {x}\n" for x in text.splitlines())}, step=0)

    def _track_picture(self, sheet: PILImage.Image, number: int) -> None:
        pixels = np.asarray(sheet)[None]
        for tracker in self.process.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": pixels}, step=number, **layout)  # pyright: ignore[reportAttributeAccessIssue]

    def _peak(self) -> float | None:
        if self.process.device.type != "cuda":
            return None
        dtypes = {x.dtype for x in self.network.parameters()}
        half = self.process.mixed_precision in ("fp16", "bf16") or bool(dtypes & {torch.float16, torch.bfloat16})
        return peak_flops(torch.cuda.get_device_name(self.process.device), half)


def validation_sheet(found: Validated, wanted: Sequence[Batch]) -> PILImage.Image:
    """What was asked for and what was drawn, side by side."""
    asked = [(b.images[i], b.layouts[i], b.captions[i]) for b in wanted for i in range(len(b))]
    plates = []
    for (image, layout, caption), drawn in zip(asked, found.images, strict=True):
        pictures = [boxed(picture(image), layout), boxed(picture(drawn), layout), picture(drawn)]
        plates.append(plate(pictures, layout, caption, titles=["held out", "drawn"], most_regions=12))
    return contact_sheet(plates)


class log_to:  # noqa: N801
    """For a while, what the house logs goes to a file and above the bar; from other processes only errors are shown."""

    def __init__(self, path: Path, main: bool) -> None:
        terminal = _AboveBar()
        terminal.setFormatter(logging.Formatter("%(message)s"))
        terminal.setLevel(logging.INFO if main else logging.ERROR)
        self.handlers: list[logging.Handler] = [terminal]
        if main:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(path, encoding="utf-8")
            file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            self.handlers.append(file)

    def __enter__(self) -> None:
        house = logging.getLogger("scenewright")
        self.before = house.level, house.propagate
        house.setLevel(logging.INFO)
        house.propagate = False
        for handler in self.handlers:
            house.addHandler(handler)

    def __exit__(self, *_: Any) -> None:
        house = logging.getLogger("scenewright")
        house.level, house.propagate = self.before
        for handler in self.handlers:
            house.removeHandler(handler)
            handler.close()


class _AboveBar(logging.Handler):
    """Writes lines where they do not tear the bar; a loader's workers, which have no bar, straight to the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if os.getpid() == self.process:
            tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")


def short(count: int) -> str:
    """A large number for people: 1.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
