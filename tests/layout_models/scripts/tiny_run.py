"""A whole training run in small, for tests that kill, resume, launch and compare runs.

As a script it prints one JSON object per step; ``run`` gives the same as a list.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from scenewright.datasets.batches import Batches, loader
from scenewright.datasets.framing import Framing
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, Layout
from scenewright.layout_models import checkpoint
from scenewright.layout_models.training import optimize, prepare, train, trainable


class TinyModel(torch.nn.Module):
    """A frozen base, trained layers, and a null vector that only images without objects give a gradient to."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.base = torch.nn.Conv2d(3, 8, 3, stride=2).requires_grad_(False)
        self.body = torch.nn.Linear(8, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 8)
        self.null = torch.nn.Parameter(torch.zeros(8))
        self.noisy = noisy

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.base(batch.images.to(self.base.weight.dtype) / 127.5 - 1).mean((2, 3))
        empty = torch.tensor([[not len(layout)] for layout in batch.layouts], device=x.device)
        if empty.any():
            x = x + empty * self.null
        x = self.norm(self.body(x))
        if self.noisy:  # Python's own generator is left out: beartype draws from it when it looks into a list
            x = torch.nn.functional.dropout(x, 0.2, self.training) + 0.01 * np.random.standard_normal()
        target = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in batch.seeds])
        if any(key.startswith("bad") for key in batch.keys):
            x = x * float("nan")
        return (self.head(x.relu()).float() - target.to(x.device)).square().mean()


class Drawn:
    """Batch i of all processes together is the same, however many processes and micro-batches share it."""

    def __init__(self, images: int, rank: int, world_size: int, parts: int, bad: tuple[int, ...]) -> None:
        self.images, self.rank, self.world_size, self.parts, self.bad = images, rank, world_size, parts, bad
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            i, part = divmod(self.position, self.parts)
            self.position += 1
            pixels = torch.randint(0, 256, (self.images, 3, 8, 8), generator=torch.Generator().manual_seed(i))
            size = self.images // (self.parts * self.world_size)
            first = (part * self.world_size + self.rank) * size
            own = range(first, first + size)
            yield Batch(
                images=pixels.to(torch.uint8)[first : first + size],
                captions=[""] * size,
                layouts=[Layout.whole() if (7 * i + j) % 5 else Layout.empty() for j in own],
                keys=[f"{'bad-' if i in self.bad and j == 0 else ''}{i}-{j}" for j in own],
                seeds=[100 * i + j for j in own],
            )

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def run(
    output_dir: str | Path,
    steps: int,
    *,
    every: int = 4,
    images: int = 8,
    accumulate: int = 1,
    workers: int | None = None,
    noisy: bool = False,
    optimizer: str = "AdamW",
    learning_rate: float = 1e-2,
    max_grad_norm: float | None = 1.0,
    zero: int | None = None,
    bad: tuple[int, ...] = (),
    keep: int | None = 3,
    model: Any = None,
) -> Iterator[dict[str, Any]]:
    """Train, save every few steps, resume if there is something to resume from.

    Args:
        images: of one step, over all processes and micro-batches.
        workers: of the real loader on shapes; None draws images that do not depend on the number of processes.
        zero: DeepSpeed's stage; None for none.
        bad: steps, from 0, whose gradients are NaN, on the first process that is.
    """
    accelerator = _accelerator(accumulate, zero)
    torch.manual_seed(0)
    np.random.seed(0)
    model = model or TinyModel(noisy)
    size = images // (accelerator.num_processes * accumulate)
    where = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    batches: Any = Drawn(images, parts=accumulate, bad=bad, **where)
    if workers is not None:
        shapes = Shapes(length=14, height=32, width=32, difficulty="easy", objects=[1, 2])
        batches = loader(
            Batches(shapes, Framing(height=16, width=16, flip=0.5), size, block=4, window=2, **where), workers
        )
    raw = optimize(model, partial(getattr(torch.optim, optimizer), lr=learning_rate), decay_vectors=False)
    schedule = get_scheduler("cosine", raw, num_warmup_steps=3, num_training_steps=40)
    ema = EMAModel(trainable(model).values(), decay=0.9)
    model, raw, schedule = prepare(accelerator, model, raw, schedule, batch_size=size, max_grad_norm=max_grad_norm)
    state = checkpoint.Run(accelerator, model, raw, schedule, batches, size, ema, {"learning_rate": learning_rate})
    number = checkpoint.resume(state, output_dir)
    going = train(model, batches, raw, schedule, accelerator, ema=ema, max_grad_norm=max_grad_norm, start=number)
    while number < steps:
        step = next(going)
        number = step.number
        if number % every == 0 or number == steps:
            checkpoint.save(state, output_dir, number, keep=keep)
        yield {
            "step": number,
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "skipped": step.skipped,
            "learning_rate": step.learning_rate,
            "rank": accelerator.process_index,
        }
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _accelerator(accumulate: int, zero: int | None) -> Accelerator:
    if zero is None:
        return Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles for a minute
    settings = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": zero, "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,
    }
    return Accelerator(
        gradient_accumulation_steps=accumulate,
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=settings),
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--noisy", action="store_true")
    options = vars(parser.parse_args())
    for line in run(options.pop("output_dir"), options.pop("steps"), **options):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
