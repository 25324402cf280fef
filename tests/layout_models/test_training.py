"""The training loop on one process: what a step does, and what a bad one leaves alone."""

import importlib.util
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from hydra.utils import instantiate

from scenewright.layout import Batch
from scenewright.layout_models.training import Diverged, Step, optimize, prepare, train, trainable

ROOT = Path(__file__).parents[2]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("scripts") / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = script("tiny_run")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


class Training:
    """A model in training, with all its parts at hand."""

    def __init__(
        self, images: int = 8, accumulate: int = 1, bad: tuple[int, ...] = (), kind: str = "SGD", **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        self.model = tiny.TinyModel()
        self.batches = tiny.Drawn(images, 0, 1, accumulate, bad)
        self.optimizer = optimize(self.model, partial(getattr(torch.optim, kind), lr=0.1))
        self.schedule = get_scheduler("linear", self.optimizer, num_warmup_steps=2, num_training_steps=10)
        self.ema = EMAModel(trainable(self.model).values(), decay=0.9)
        size = images // accumulate
        self.prepared, self.optimizer, _ = prepare(
            self.accelerator, self.model, self.optimizer, self.schedule, batch_size=size
        )
        self.options = {"ema": self.ema, **options}

    def steps(self, count: int, batches: Any = None) -> list[Step]:
        parts = (
            self.prepared,
            self.batches if batches is None else batches,
            self.optimizer,
            self.schedule,
            self.accelerator,
        )
        going = train(*parts, **self.options)
        return [step for _, step in zip(range(count), going, strict=False)]

    @property
    def state(self) -> dict[str, Any]:
        """Copies of all that a step changes."""
        return {
            "weights": {k: x.clone() for k, x in self.model.state_dict().items()},
            "average": [x.clone() for x in self.ema.shadow_params],
            "averaged": self.ema.optimization_step,
            "schedule": self.schedule.state_dict(),
            "optimizer": [{k: x.clone() for k, x in s.items()} for s in self.optimizer.state_dict()["state"].values()],
        }


def test_no_batches_make_no_step():
    training = Training()
    before = training.state
    assert training.steps(3, batches=[]) == []
    torch.testing.assert_close(training.state, before, rtol=0, atol=0)


def test_a_last_step_that_lacks_micro_batches_is_not_made():
    training = Training(accumulate=2)
    stream = iter(training.batches)
    assert len(training.steps(9, batches=[next(stream) for _ in range(5)])) == 2


def test_a_step_says_what_it_did():
    first, second = Training(images=6, accumulate=3, start=40).steps(2)
    assert (first.number, second.number, first.images) == (41, 42, 6)
    assert first.seconds >= first.waited >= 0 and not first.skipped
    assert first.learning_rate == 0 and second.learning_rate == pytest.approx(0.05)  # a warm-up of two steps


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_together_are_the_big_batch(accumulate):
    big = Training()
    made = big.steps(5)
    GradientState._reset_state()  # it holds the number of micro-batches for the whole process
    small = Training(accumulate=accumulate)
    for one, other in zip(made, small.steps(5), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    torch.testing.assert_close(small.state, big.state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("max_grad_norm", "clipped"), [(None, False), (1e3, False), (0.05, True)])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_gradient_is_clipped_once_per_step(max_grad_norm, clipped, accumulate):
    training = Training(accumulate=accumulate, max_grad_norm=max_grad_norm)
    training.steps(1)  # at a learning rate of zero
    before = training.state["weights"]
    (step,) = training.steps(1)
    after = training.state["weights"]
    moved = math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in after))
    used = max_grad_norm if clipped else step.grad_norm
    assert step.grad_norm > 0.1 and moved == pytest.approx(step.learning_rate * used, rel=1e-4)


def test_what_is_frozen_stays_and_has_no_average():
    training = Training(kind="AdamW")
    before = training.state["weights"]
    training.steps(4)
    after = training.state["weights"]
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == set(trainable(training.model)) == set(after) - {"base.weight", "base.bias"}
    assert [x.shape for x in training.ema.shadow_params] == [x.shape for x in trainable(training.model).values()]


def test_the_average_follows_the_weights():
    training = Training()
    expected = training.state["average"]
    for number in range(1, 7):
        training.steps(1)
        decay = 0.0 if number < 2 else min(0.9, number / (9 + number))  # diffusers' rise to 0.9
        now = trainable(training.model).values()
        expected = [decay * a + (1 - decay) * w.detach() for a, w in zip(expected, now, strict=True)]
    torch.testing.assert_close(training.state["average"], expected)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_finite_gradients_changes_nothing(kind, accumulate, caplog):
    training = Training(kind=kind, accumulate=accumulate, bad=(2,))
    training.steps(2)
    before = training.state
    (step,) = training.steps(1)
    torch.testing.assert_close(training.state, before, rtol=0, atol=0)
    assert step.skipped and not math.isfinite(step.loss) and "skipped: loss nan" in caplog.text
    (step,) = training.steps(1)
    assert not step.skipped and math.isfinite(step.loss)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(training.state, before, rtol=0, atol=0)


def test_a_loss_that_is_infinite_beside_a_finite_gradient_is_skipped_too():
    training = Training()
    training.model.register_forward_hook(lambda _, __, loss: loss + math.inf)
    before = training.state
    assert [step.skipped for step in training.steps(2)] == [True, True]
    torch.testing.assert_close(training.state, before, rtol=0, atol=0)


def test_half_precision_that_overflows_lowers_its_scale_and_changes_nothing_until_it_fits(monkeypatch):
    """Accelerate has fp16 on GPUs only; its scaler and torch's autocast work on a CPU too."""
    original = tiny.TinyModel

    def model() -> Any:
        accelerator = AcceleratorState()
        accelerator._mixed_precision = "fp16"
        return original()

    monkeypatch.setattr(tiny, "TinyModel", model)
    made = Accelerator.__init__

    def with_scaler(self: Any, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.scaler, self.native_amp = torch.amp.GradScaler("cpu", init_scale=2.0**24), True

    monkeypatch.setattr(Accelerator, "__init__", with_scaler)
    training = Training(accumulate=2)
    scaler: Any = training.accelerator.scaler
    before, scales, skipped, step = training.state, [], [], None
    for _ in range(16):
        (step,) = training.steps(1)
        scales.append(scaler.get_scale())
        skipped.append(step.skipped)
        if not step.skipped:
            break
        torch.testing.assert_close(training.state, before, rtol=0, atol=0)
    assert skipped[0] and not skipped[-1]
    assert scales[:-1] == [2.0 ** (23 - i) for i in range(len(scales) - 1)] and scales[-1] == scales[-2]
    assert step and 0.01 < step.grad_norm < 10  # of the gradient itself, not of the scaled one


def test_too_many_bad_steps_in_a_row_end_the_training_and_name_the_samples():
    training = Training(images=2, bad=(0, 1, 3, 4, 5), max_skipped=3)
    going = train(
        training.prepared, training.batches, training.optimizer, training.schedule, training.accelerator, max_skipped=3
    )
    assert [next(going).skipped for _ in range(5)] == [True, True, False, True, True]
    with pytest.raises(Diverged, match=r"step 6 was skipped.* 3 steps in a row.*bad-5-0, 5-1"):
        next(going)


def test_the_model_is_trained_in_training_mode_whatever_happened_between_steps():
    training = Training()
    seen = []
    training.model.register_forward_hook(lambda module, *_: seen.append(module.training))
    for _ in range(2):
        training.steps(1)
        training.model.eval()
    assert seen == [True, True]


def test_the_device_is_waited_for_as_often_with_many_micro_batches_as_with_one(monkeypatch):
    class Quiet(torch.nn.Linear):
        def forward(self, input: Batch) -> torch.Tensor:  # type: ignore[override]
            return super().forward(input.images.flatten(1).float()).square().mean()

    counts = []
    for name in ("item", "tolist", "__bool__", "__float__", "numpy"):
        original = getattr(torch.Tensor, name)
        spied = lambda self, *a, original=original: (counts.append(1), original(self, *a))[1]  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, spied)
    found = []
    for accumulate in (1, 8):
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        monkeypatch.setattr(tiny, "TinyModel", lambda: Quiet(192, 1))
        training = Training(accumulate=accumulate)
        stream = iter(training.batches)
        batches = [next(stream) for _ in range(2 * accumulate)]
        counts.clear()
        training.steps(2, batches=batches)
        found.append(len(counts))
    assert found[0] == found[1]


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="Linear has no parameter with requires_grad=True"):
        optimize(torch.nn.Linear(2, 2).requires_grad_(False), torch.optim.SGD)


@pytest.mark.parametrize(("decay_vectors", "expected"), [(True, {0.3: 7}), (False, {0.3: 2, 0.0: 5})])
def test_weight_decay_leaves_vectors_out_if_told_to(decay_vectors, expected):
    made = optimize(tiny.TinyModel(), partial(torch.optim.AdamW, weight_decay=0.3), decay_vectors=decay_vectors)
    assert {group["weight_decay"]: len(group["params"]) for group in made.param_groups} == expected


@pytest.mark.parametrize("kind", ["torch.optim.Adafactor", "torch.optim.RMSprop", "bitsandbytes.optim.AdamW8bit"])
def test_any_optimizer_of_torchs_manner_is_named_in_the_configuration(kind):
    pytest.importorskip(kind.split(".")[0])
    model = torch.nn.Linear(64, 64)  # large enough to be kept in 8 bits
    before = model.weight.detach().clone()
    made = optimize(model, instantiate({"_target_": kind, "_partial_": True, "lr": 0.01}), decay_vectors=False)
    model(torch.ones(1, 64)).square().mean().backward()
    made.step()
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_how_to_launch(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config: Any = load_config_from_file(str(path))
    assert path.read_text().startswith("# ")
    options = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    options, _, _ = _validate_launch_command(options)
    assert options.num_processes == config.num_processes and options.mixed_precision == config.mixed_precision
    assert options.use_deepspeed == path.stem.startswith("zero")
    assert options.multi_gpu == (config.distributed_type.value == "MULTI_GPU")
    if options.use_deepspeed:
        assert options.zero_stage == int(path.stem[4])
        assert options.offload_param_device == ("cpu" if "offload" in path.stem else "none")
