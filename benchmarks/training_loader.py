"""What of a training step's time is neither forward, backward nor optimizer, with the tiny model on drawn scenes.

Baseline, measured in the same run: the same training on batches that are in memory already. What the loader costs
beyond its share of the loop (its workers take caches and cores from the model) shows in the ratio of the two.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from scenewright.datasets.batches import Batches, loader
from scenewright.datasets.framing import Framing
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch
from scenewright.layout_models.training import optimize, prepare, train, trainable

#: The parts of a step that are the model's own.
PARTS: tuple[str, ...] = ("forward", "backward", "optimizer")


class Clock:
    """Seconds in each part of a training step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds[part] += time.perf_counter() - start
            return result

        return measured


def measure(batches: Iterable[Batch], steps: int, batch_size: int) -> dict[str, float]:
    """Seconds per step: the whole, its parts, the wait for the loader, and what is left."""
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    with initialize_config_module("scenewright.conf", version_base="1.3"):
        config = compose("train", ["layout_model=tiny", "layout_model.weights=null", "dataset=shapes", "output_dir=x"])
    model, accelerator, clock = instantiate(config.layout_model), Accelerator(cpu=True), Clock()
    optimizer = optimize(model, instantiate(config.optimizer))
    schedule, ema = get_scheduler("constant", optimizer), EMAModel(trainable(model).values())
    model, optimizer, schedule = prepare(accelerator, model, optimizer, schedule, batch_size=batch_size)
    model.forward = clock.timed("forward", model.forward)
    accelerator.backward = clock.timed("backward", accelerator.backward)
    optimizer.step = clock.timed("optimizer", optimizer.step)
    run = train(model, batches, optimizer, schedule, accelerator, ema=ema)
    warm = 2  # workers begin, memory is allotted
    for _ in islice(run, warm):
        pass
    clock.seconds = dict.fromkeys(PARTS, 0.0)
    start = time.perf_counter()
    waited = sum(step.waited for step in islice(run, steps))
    seconds = {"step": time.perf_counter() - start, **clock.seconds, "waiting": waited}
    seconds["left"] = seconds["step"] - sum(seconds[part] for part in (*PARTS, "waiting"))
    return {part: value / steps for part, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps, repeats = (2, 1) if arguments.smoke else (10, 3)
    size, batch_size = arguments.size, arguments.batch_size

    def batches(seed: int) -> Batches:
        framing = Framing(height=size, width=size, flip=0.5, masks=False)
        drawn = Shapes(length=100_000, height=size, width=size)
        return Batches(drawn, framing, batch_size, seed=seed, block=16, window=1)

    held = list(islice(batches(0), 8))
    rounds = []
    for seed in range(repeats):
        memory = measure(cycle(held), steps, batch_size)
        rounds.append((memory, measure(loader(batches(seed), arguments.workers), steps, batch_size)))
    print(f"{size} px, batches of {batch_size}, workers: {arguments.workers}, threads: {arguments.threads}")
    print(f"  {'ms per step':<12}{'in memory':>12}{'loaded':>12}")
    for part in rounds[0][0]:
        memory, loaded = (1e3 * median(x[way][part] for x in rounds) for way in (0, 1))
        print(f"  {part:<12}{memory:12.2f}{loaded:12.2f}")
    shares = [1 - sum(x[part] for part in PARTS) / x["step"] for _, x in rounds]
    ratios = [x["step"] / memory["step"] for memory, x in rounds]
    spread = f"of {repeats}: {min(shares):.2%} to {max(shares):.2%}"
    print(f"  outside forward, backward and optimizer  {median(shares):.2%}  ({spread}; goal 3%)")
    print(f"  loaded / in memory  {median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
