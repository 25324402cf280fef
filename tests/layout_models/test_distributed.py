"""Several processes, and DeepSpeed, train to what one process trains to."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewright.entrypoints.training_run import TrainingRun
from scenewright.layout_models.checkpoint import newest, read_weights

#: Sums in another order; learning rate 0.3 and a gradient that is clipped to a sixth make steps of 1e-2.
TOLERANCE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-6}
SETTINGS: dict[str, Any] = {"optimizer": "SGD", "learning_rate": 0.3, "max_grad_norm": 0.2}


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("scripts") / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny, forking = script("tiny_run"), script("forking")


def run(folder: Path, steps: int = 6, processes: int = 1, **options: Any) -> list[list[dict[str, Any]]]:
    """The steps that each process made."""
    return forking.forked(partial(tiny.run, folder, steps, **{**SETTINGS, "every": 3, **options}), processes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What one process makes of the same images."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(folder)[0]


def assert_the_same(folder: Path, steps: list[dict[str, Any]], alone: tuple[Path, list[dict[str, Any]]]) -> None:
    for made, expected in zip(steps, alone[1], strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert made[name] == pytest.approx(expected[name], rel=1e-5), (name, made, expected)
    assert any(step["grad_norm"] > 5 * SETTINGS["max_grad_norm"] for step in steps)  # clipping has to be felt
    for average in (False, True):
        torch.testing.assert_close(read_weights(folder, ema=average), read_weights(alone[0], ema=average), **TOLERANCE)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_to_what_one_does(tmp_path, alone, accumulate):
    """Some micro-batches have no image without objects on one of them, so a parameter without a gradient there."""
    first, second = run(tmp_path, processes=2, accumulate=accumulate)
    assert [{**step, "rank": 0} for step in second] == first
    assert_the_same(tmp_path, first, alone)


def test_two_processes_resume_exactly_with_the_real_loader(tmp_path):
    options: dict[str, Any] = {"noisy": True, "workers": 0, "optimizer": "AdamW", "processes": 2}
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "halves", 3, **options)
    halves = run(tmp_path / "halves", 6, **options)
    assert [steps[3:] for steps in whole] == halves
    torch.testing.assert_close(read_weights(tmp_path / "halves"), read_weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    yield


@pytest.mark.parametrize(
    ("stage", "accumulate"), [(2, 1), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((2, 2), (3, 1)))]
)
def test_deepspeed_trains_clips_saves_and_resumes(tmp_path, alone, deepspeed, stage, accumulate):
    first, _ = run(tmp_path, processes=2, zero=stage, accumulate=accumulate)
    assert_the_same(tmp_path, first, alone)
    last = newest(tmp_path)
    assert last is not None
    expected = read_weights(last)
    shutil.rmtree(last)
    again, _ = run(tmp_path, processes=2, zero=stage, accumulate=accumulate)
    assert again == first[3:]
    torch.testing.assert_close(read_weights(tmp_path), expected, rtol=0, atol=0)


#: A few steps of the real model through the real command; an epoch is a batch, so however it is dealt out to
#: processes, it is the same one.
COMMAND = (
    *("experiment=train/embedded", "dataset.length=4", "shuffle={block: 1, window: 1}", "batch_size=4", "workers=0"),
    *("steps=4", "checkpoint_every=2", "lr_schedule=constant", "warmup=0"),
    *("optimizer={_target_: torch.optim.SGD, lr: 0.1}", "validation.every=0", "validation.dataset.length=2"),
)


def commanded(config: Any, folder: Path, *overrides: str, processes: int = 1) -> None:
    """``entrypoints/train.py`` in as many processes."""

    def work() -> Iterator[dict[str, Any]]:
        training = TrainingRun(config("train", *COMMAND, f"output_dir={folder}", *overrides))
        training.train()
        training.conclude()
        yield {}

    forking.forked(work, processes)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.mark.slow
def test_the_tiny_model_trains_in_two_processes_to_what_it_does_in_one(config, tmp_path, on_a_cpu):
    commanded(config, tmp_path / "one")
    commanded(config, tmp_path / "two", "batch_size=2", processes=2)
    for average in (False, True):
        one, two = (read_weights(tmp_path / x, ema=average) for x in ("one", "two"))
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_tiny_model_trains_and_resumes_under_deepspeed(config, tmp_path, deepspeed, monkeypatch):
    zero = {"stage": 2, "reduce_bucket_size": "auto"}
    settings = {name: "auto" for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")}
    settings |= {"gradient_clipping": "auto", "zero_optimization": zero, "zero_force_ds_cpu_optimizer": False}
    (tmp_path / "zero2.json").write_text(json.dumps(settings))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero2.json"))
    commanded(config, tmp_path / "run", "batch_size=2", processes=2)
    last = newest(tmp_path / "run")
    assert last is not None and last.name == "step-00000004" and (last / "deepspeed").is_dir()
    expected = read_weights(last)
    shutil.rmtree(last)
    commanded(config, tmp_path / "run", "batch_size=2", processes=2)
    torch.testing.assert_close(read_weights(tmp_path / "run"), expected, rtol=0, atol=0)


def test_all_processes_skip_a_step_in_which_one_has_no_finite_gradients(tmp_path):
    first, second = run(tmp_path, 4, processes=2, bad=(1,), every=1, keep=None)
    assert [step["skipped"] for step in first] == [step["skipped"] for step in second] == [False, True, False, False]
    folders = sorted((tmp_path / "checkpoints").iterdir())
    torch.testing.assert_close(read_weights(folders[1]), read_weights(folders[0]), rtol=0, atol=0)


def test_deepspeed_skips_a_step_without_finite_gradients(tmp_path, deepspeed):
    (steps, _) = run(tmp_path, 4, processes=2, zero=2, bad=(1,), every=1, keep=None)
    assert [step["skipped"] for step in steps] == [False, True, False, False]
    folders = sorted((tmp_path / "checkpoints").iterdir())
    for average in (False, True):
        before, skipped, after = (read_weights(folder, ema=average) for folder in folders[:3])
        torch.testing.assert_close(skipped, before, rtol=0, atol=0)
        assert any(not torch.equal(after[k], skipped[k]) for k in after)
    assert steps[1]["learning_rate"] == steps[2]["learning_rate"] < steps[3]["learning_rate"]


def test_deepspeed_never_writes_the_frozen_base(tmp_path, deepspeed):
    run(tmp_path, 1, processes=2, zero=2)
    folder = newest(tmp_path)
    assert folder is not None
    for path in (folder / "deepspeed").glob("*model_states.pt"):
        held = torch.load(path, weights_only=True)["module"]
        assert held and not [name for name in held if name.startswith("base.")]


def test_another_number_of_processes_is_refused(tmp_path):
    run(tmp_path, 3, processes=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AssertionError, match="cannot go on from .*step-00000003.*world_size was 2, now 1"):
        run(tmp_path, 6, processes=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
