"""Validation while a model is trained: always the same images, layouts and seeds, so that numbers can be compared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scenewright.layout import Batch, Image
from scenewright.layout_models.drawing import draw
from scenewright.layout_models.training import trainable


@dataclass(frozen=True, eq=False)
class Validated:
    """What a validation found.

    Attributes:
        loss: mean over the held-out images, each with its own seed; NaN where there are none.
        images: what the model draws for each layout, in order; the same on all processes.
        seconds: that it took.
    """

    loss: float
    images: list[Image]
    seconds: float


def validate(
    model: nn.Module,
    accelerator: Any,
    held_out: Sequence[Batch],
    wanted: Sequence[Batch],
    ema: Any = None,
) -> Validated:
    """Measure the loss on held-out batches and draw some layouts; weights and random states stay as they were.

    Every process calls this with the same batches, and they share the work.

    Args:
        model: as it is trained, prepared or not.
        held_out: batches that training never sees; an image's seed decides what the loss draws.
        wanted: captions, layouts, seeds and, by their images, the sizes to draw.
        ema: the diffusers ``EMAModel`` whose average is validated; without one, the weights as they are.
    """
    began = time.perf_counter()
    network = accelerator.unwrap_model(model)
    was_training = network.training
    network.eval()
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), averaged(network, accelerator, ema):
            loss = _loss(network, accelerator, held_out)
            images = _draw(network, accelerator, wanted)
    finally:
        network.train(was_training)
    return Validated(loss, images, time.perf_counter() - began)


@contextmanager
def averaged(network: nn.Module, accelerator: Any, ema: Any) -> Iterator[None]:
    """Let a model have the average of its weights for a while; under ZeRO-3 all processes must enter.

    Args:
        network: without what Accelerate put around it.
        ema: a diffusers ``EMAModel`` of its trained parameters; None changes nothing.
    """
    if ema is None:
        yield
        return
    parameters = list(trainable(network).values())
    with _whole(parameters, accelerator):
        ema.store(parameters)
        ema.copy_to(parameters)
    try:
        yield
    finally:
        with _whole(parameters, accelerator):
            ema.restore(parameters)


def _whole(parameters: list[nn.Parameter], accelerator: Any) -> AbstractContextManager[Any]:
    """Inside, parameters that ZeRO-3 spread over the processes are whole and can be changed."""
    plugin = accelerator.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters(parameters, modifier_rank=0)


def _loss(network: nn.Module, accelerator: Any, batches: Sequence[Batch]) -> float:
    total = torch.zeros(2, dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32)
    for number, counts in _share(len(batches), accelerator):
        loss = network(batches[number].to(accelerator.device)).double().cpu()
        if counts:
            total += torch.stack([loss * len(batches[number]), torch.tensor(float(len(batches[number])))])
    summed, images = accelerator.reduce(total.to(accelerator.device), "sum").tolist()
    return summed / images if images else float("nan")


def _draw(network: Any, accelerator: Any, batches: Sequence[Batch]) -> list[Image]:
    from accelerate.utils import gather_object

    drawn = []
    for number, counts in _share(len(batches), accelerator):
        batch = batches[number]
        height, width = batch.images.shape[-2:]
        layouts = [x.to(accelerator.device) for x in batch.layouts]
        with accelerator.autocast():
            words = batch.captions, layouts, batch.seeds, batch.text_features
            images = draw(network, *words, height=height, width=width)
        if counts:
            drawn.append((number, images.cpu()))
    gathered: list[Any] = drawn if accelerator.num_processes == 1 else gather_object(drawn)
    return [image for _, images in sorted(gathered, key=lambda x: x[0]) for image in images]


def _share(count: int, accelerator: Any) -> Iterator[tuple[int, bool]]:
    """The numbers of this process, as many as every other one has: ZeRO-3 gathers weights in each call.

    Yields:
        A number below ``count``, and whether it counts; the last one is repeated where others have one more.
    """
    processes = accelerator.num_processes
    for first in range(0, count, processes):
        number = first + accelerator.process_index
        yield min(number, count - 1), number < count
