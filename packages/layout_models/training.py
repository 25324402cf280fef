"""The training loop: one optimizer step per iteration, as a generator.

Accelerate does devices, precision, accumulation and the processes; what happens between two steps
(log, validate, save, stop) is the business of whoever iterates.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from scenewright.layout import Batch

logger = logging.getLogger(__name__)


class Diverged(ValueError):
    """Too many steps in a row had a loss or a gradient that was no finite number."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        number: of the step, from 1; steps that were skipped count.
        loss: mean over all images of the step, on all processes; not finite only where the step was skipped.
        images: how many, on all processes.
        grad_norm: of all trained parameters together, before clipping.
        skipped: loss or gradient was not finite, so weights, moments, average and schedule stayed as they were.
        learning_rate: that this step was made with, of the first parameter group.
        seconds: from asking for the first batch to the end of the step.
        waited: seconds of these in which the loader was waited for.
    """

    number: int
    loss: float
    images: int
    grad_norm: float
    skipped: bool
    learning_rate: float
    seconds: float
    waited: float


def trainable(model: Module) -> dict[str, Parameter]:
    """The parameters that are trained, by their names, in the model's order."""
    return {name: x for name, x in model.named_parameters() if x.requires_grad}


def full_weights(weights: Mapping[str, Parameter], accelerator: Any) -> dict[str, Parameter]:
    """Trained parameters, whole and as exact as the optimizer holds them; under DeepSpeed all processes must call.

    Args:
        weights: as ``trainable`` gives them of the model without what Accelerate put around it.
    """
    if accelerator.deepspeed_plugin is None:
        return dict(weights)
    from deepspeed.utils import safe_get_full_fp32_param

    # a prepared model's own tensors are parts of the whole (ZeRO-3), or rounded to half precision
    whole: Any = safe_get_full_fp32_param
    return {name: Parameter(whole(x)) for name, x in weights.items()}


def optimize(model: Module, factory: Callable[[Any], torch.optim.Optimizer], *, decay_vectors: bool = True) -> Any:
    """Make the optimizer of the parameters that are trained.

    Args:
        factory: called with parameter groups: any optimizer of torch's manner with its settings bound.
        decay_vectors: weight decay on biases, norms and single vectors too.

    Raises:
        ValueError: nothing is trained.
    """
    parameters = list(trainable(model).values())
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameter with requires_grad=True, so there is nothing to train"
        )
    vectors = [] if decay_vectors else [x for x in parameters if x.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": [x for x in parameters if decay_vectors or x.ndim >= 2]}]
    groups += [{"params": vectors, "weight_decay": 0.0}]
    return factory([group for group in groups if group["params"]])


def prepare(
    accelerator: Any,
    model: Module,
    optimizer: Any,
    schedule: Any,
    *,
    batch_size: int,
    max_grad_norm: float | None = 1.0,
) -> tuple[Module, Any, Any]:
    """Hand model and optimizer to Accelerate, and tell it what no prepared loader tells it.

    The schedule comes back as it was: Accelerate would step it once per process. The loader is never prepared.

    Args:
        batch_size: images of one micro-batch on one process.
        max_grad_norm: DeepSpeed clips on its own and must know it now; None for no clipping.
    """
    from accelerate.utils import DistributedDataParallelKwargs

    if accelerator.deepspeed_plugin is not None:
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = batch_size
        config["gradient_accumulation_steps"] = accelerator.gradient_accumulation_steps
        config["gradient_clipping"] = max_grad_norm or 0.0
        sizes = config["zero_optimization"]
        for name in [x for x in sizes if sizes[x] == "auto"]:  # Accelerate would guess them from a hidden_size
            del sizes[name]
    # a null vector has no gradient where no layout was dropped, a projection none where all were
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    network = model
    model, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.deepspeed_plugin is not None:
        _reach_all(network, accelerator.deepspeed_plugin.zero_stage)
    return model, optimizer, schedule


class _Reach(torch.autograd.Function):
    """Zero, with a gradient of zero for every parameter."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in parameters]
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(gradients[0].new_zeros(()).expand(shape) for shape in ctx.shapes)


def _reach_all(network: Module, stage: int) -> None:
    """Give every trained parameter a gradient in every backward, in the same order on all processes.

    DeepSpeed joins gradients in the order in which they come, without a look at whose they are: processes whose
    batches use other parameters, or in another order, mix them up or break. What is made first in the forward is
    the last in the backward, so all gradients are complete there at once.
    """
    parameters = list(trainable(network).values())
    if stage == 3:
        import deepspeed
        import diffusers.training_utils
        from deepspeed.runtime.zero.partition_parameters import register_external_parameter

        # its EMAModel needs it, but imports it only where ZeRO-3 is on before diffusers is imported
        lacking: Any = diffusers.training_utils
        lacking.deepspeed = deepspeed
        for parameter in parameters:  # whole from the beginning of the forward to the end of the backward
            register_external_parameter(network, parameter)
    zeros: list[Any] = []

    def before(*_: Any) -> None:
        zeros[:] = [_Reach.apply(*parameters)]

    def behind(_: Any, __: Any, loss: Any) -> Any:
        return loss + zeros.pop().to(loss.dtype)

    network.register_forward_pre_hook(before)
    network.register_forward_hook(behind)


def train(
    model: Module,
    batches: Iterable[Batch],
    optimizer: Any,
    schedule: Any,
    accelerator: Any,
    *,
    ema: Any = None,
    max_grad_norm: float | None = 1.0,
    start: int = 0,
    max_skipped: int = 20,
) -> Iterator[Step]:
    """Train, one optimizer step per iteration, for as long as there are batches.

    Between two iterations the loader stands exactly behind the last batch of the step, so its state belongs to the
    weights. A last step that lacks micro-batches is not made.

    Args:
        model: as ``prepare`` gave it; called with a batch it returns the mean loss.
        batches: this process's share, never prepared; all of one length.
        ema: a diffusers ``EMAModel`` of ``trainable(model).values()``, made before ``prepare``.
        max_grad_norm: larger gradients are scaled down to it; None for no clipping.
        start: the number of the last step that was made before.
        max_skipped: so many skipped steps in a row end the training.

    Raises:
        Diverged: ``max_skipped`` steps in a row had no finite loss or gradient.
    """
    weights = trainable(accelerator.unwrap_model(model, keep_torch_compile=False))
    parameters = list(weights.values())
    if ema is not None:
        ema.to(accelerator.device)
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers, once more after a resume
        stream = iter(batches)
    number, skipped = start, 0
    accelerator.step = 0  # of a micro-batch within its step
    optimizer.zero_grad()
    while True:
        began = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        if not model.training:
            model.train()
        losses, images, keys, waited = _accumulate(model, stream, accelerator)
        if len(losses) < accelerator.gradient_accumulation_steps:
            return
        loss, grad_norm = _measure(losses, parameters, accelerator, max_grad_norm)
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if accelerator.deepspeed_plugin is not None:
            finite = not optimizer.step_was_skipped  # it has made the step in the last backward
        if finite:
            optimizer.step()
            _advance(schedule, optimizer)
            if ema is not None:
                ema.step(full_weights(weights, accelerator).values())
        elif accelerator.scaler is not None:
            accelerator.scaler.update()  # lowers its scale
        optimizer.zero_grad()  # of a step that was skipped, too
        number, skipped = number + 1, 0 if finite else skipped + 1
        if skipped:
            _warn_or_stop(number, loss, grad_norm, skipped, max_skipped, keys)
        seconds = time.perf_counter() - began
        yield Step(number, loss, images, grad_norm, not finite, learning_rate, seconds, waited)


def _advance(schedule: Any, optimizer: Any) -> None:
    """One step of the schedule, whichever optimizer has taken the place of the one that it was made for."""
    schedule.step()
    for group, learning_rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = learning_rate


def _accumulate(model: Module, stream: Iterator[Batch], accelerator: Any) -> tuple[list[Tensor], int, list[str], float]:
    """Forward and backward of one step's micro-batches; the losses stay on the device."""
    losses, images, keys, waited = [], 0, [], 0.0
    for _ in range(accelerator.gradient_accumulation_steps):
        began = time.perf_counter()
        batch = next(stream, None)
        waited += time.perf_counter() - began
        if batch is None:
            break
        with accelerator.accumulate(model):
            loss = model(batch.to(accelerator.device))
            accelerator.backward(loss)
        losses.append(loss.detach())
        images += len(batch) * accelerator.num_processes
        keys = batch.keys
    return losses, images, keys, waited


def _measure(
    losses: list[Tensor], parameters: list[Parameter], accelerator: Any, max_grad_norm: float | None
) -> tuple[float, float]:
    """The step's loss and gradient norm, the same on all processes; clips. The only wait for the device in a step."""
    grad_norm = accelerator.clip_grad_norm_(parameters, math.inf if max_grad_norm is None else max_grad_norm)
    loss = accelerator.reduce(torch.stack(losses).float().mean(), "mean")
    both = torch.stack([loss, torch.as_tensor(grad_norm, dtype=loss.dtype, device=loss.device)])
    return tuple(both.tolist())


def _warn_or_stop(number: int, loss: float, norm: float, skipped: int, limit: int, keys: list[str]) -> None:
    what = f"step {number} was skipped: loss {loss}, gradient norm {norm}"
    if skipped < limit:
        logger.warning("%s (%d in a row)", what, skipped)
        return
    shown = ", ".join(keys[:16]) + (", …" if len(keys) > 16 else "")
    raise Diverged(
        f"{what}; {skipped} steps in a row were. The last batch held {shown}. Lower the learning rate, "
        "train in bf16 or fp32 instead of fp16, or look at these samples"
    )
