"""Checkpoints are whole or not there, and a run goes on from one as if it had never stopped."""

import importlib.util
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scenewright.checkpoints import CheckpointError
from scenewright.layout_models import checkpoint
from scenewright.layout_models.checkpoint import load_trained, newest, prune, read_weights


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("scripts") / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny, forking = script("tiny_run"), script("forking")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def run(folder: Path, steps: int = 6, **options: Any) -> list[dict[str, Any]]:
    """Train in this process, with a checkpoint every two steps."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return list(tiny.run(folder, steps, **{"every": 2, **options}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints, at steps 2, 4 and 6; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, workers):
    """SIGKILL before the first checkpoint, behind one, and between two; data go through epochs."""
    going = partial(tiny.run, steps=12, every=3, noisy=True, workers=workers, images=4)
    (whole,) = forking.forked(partial(going, tmp_path / "whole"))
    seen: dict[int, dict[str, Any]] = {}
    for kill_at in (2, 4, 3, None):
        (steps,) = forking.forked(partial(going, tmp_path / "killed"), kill_at=kill_at)
        assert len(steps) == kill_at or kill_at is None
        for step in steps:
            assert seen.setdefault(step["step"], step) == step
    assert [seen[number] for number in range(1, 13)] == whole
    for average in (False, True):
        found, expected = (read_weights(tmp_path / name, ema=average) for name in ("killed", "whole"))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_writer_that_is_killed_leaves_the_last_checkpoint(tmp_path):
    """SIGKILL at each of the changes that writing a checkpoint makes to the disk."""
    expected = run(tmp_path / "whole", 4)
    run(tmp_path / "base", 2)
    kill_at = 0
    for kill_at in range(12):
        folder = Path(shutil.copytree(tmp_path / "base", tmp_path / f"killed-{kill_at}"))

        def work(folder: Path = folder, kill_at: int = kill_at) -> Iterator[dict[str, Any]]:
            count = iter(range(100))

            def sync(path: Path, original: Callable[[Path], None] = checkpoint._sync) -> None:
                if next(count) == kill_at:
                    os.kill(os.getpid(), 9)
                original(path)

            checkpoint._sync = sync
            yield from tiny.run(folder, 4, every=2)

        (steps,) = forking.forked(work, kill_at=-1)
        done = len(steps) == 2
        found = newest(folder)
        assert found is not None and found.name in ("step-00000002", "step-00000004")
        assert found.name == "step-00000004" or not done
        assert run(folder, 4) == (expected[2:] if found.name == "step-00000002" else [])
        torch.testing.assert_close(read_weights(folder), read_weights(tmp_path / "whole"), rtol=0, atol=0)
        if done:
            break
    assert kill_at >= 5  # four files and two folders at least


def test_without_a_checkpoint_a_run_begins_at_the_beginning(tmp_path):
    assert newest(tmp_path) is None
    assert [step["step"] for step in run(tmp_path, 1)] == [1]


def test_only_what_is_trained_is_written(trained):
    model = tiny.TinyModel()
    expected = {name for name, x in model.named_parameters() if x.requires_grad}
    folder = newest(trained)
    assert folder is not None and folder.name == "step-00000006"
    for name in ("weights.safetensors", "ema.safetensors"):
        assert set(load_file(folder / name)) == expected and not any(x.startswith("base.") for x in expected)
    about = json.loads((folder / "checkpoint.json").read_text())
    assert (
        about["files"] == {x.name: x.stat().st_size for x in folder.iterdir() if x.name != "checkpoint.json"}
        and about["step"] == 6
    )


def test_what_is_written_loads_without_running_code(trained):
    folder = newest(trained)
    assert folder is not None
    for path in folder.glob("*.pt"):
        assert torch.load(path, weights_only=True)


def test_every_global_generator_goes_on_where_it_was():
    accelerator = tiny._accelerator(1, None)
    draws = lambda: (random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist())  # noqa: E731
    np.random.standard_normal()  # leaves a second one for later
    state = checkpoint._random_state(accelerator)
    expected = draws()
    draws()
    checkpoint._set_random_state(state, accelerator)
    assert draws() == expected


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda x: truncate(x / "state.pt"), r"state\.pt has \d+ bytes instead of \d+"),
        (lambda x: (x / "weights.safetensors").unlink(), r"weights\.safetensors is missing"),
        (lambda x: (x / "checkpoint.json").unlink(), r"it has no checkpoint\.json"),
        (lambda x: truncate(x / "checkpoint.json") or (x / "checkpoint.json").write_text("{"), "is broken"),
        (lambda x: x.rename(x.with_name(x.name + ".partial")), "it was never finished"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(copy, damage, reason, caplog):
    expected = run(copy.with_name("other"))
    damage(copy / "checkpoints" / "step-00000006")
    found = newest(copy)
    assert found is not None and found.name == "step-00000004"
    (record,) = [x for x in caplog.records if "no whole checkpoint" in x.message]
    record.getMessage()
    assert "step-00000006" in record.message and record.levelno == logging.WARNING
    assert run(copy) == expected[4:]
    assert steps_in(copy) == ["step-00000002", "step-00000004", "step-00000006"]  # whole again, nothing else


@pytest.mark.parametrize(("keep", "left"), [(1, [6]), (2, [4, 6]), (3, [2, 4, 6]), (9, [2, 4, 6]), (None, [2, 4, 6])])
def test_the_newest_checkpoints_are_kept(copy, keep, left):
    prune(copy, keep)
    assert steps_in(copy) == [f"step-{step:08d}" for step in left]


def test_a_damaged_checkpoint_does_not_count_among_those_kept(copy):
    truncate(copy / "checkpoints" / "step-00000006" / "state.pt")
    prune(copy, 1)
    assert steps_in(copy) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("kind", [OSError, SafetensorError, RuntimeError])
def test_a_disk_that_is_full_costs_no_older_checkpoint(kind, copy, monkeypatch):
    before = contents(copy)

    def full(*_: Any, **__: Any) -> None:
        raise kind("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(copy, 8, keep=1)
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"images": 4}, "batch_size was 8, now 4"),
        ({"accumulate": 2}, "batch_size was 8, now 4; gradient_accumulation_steps was 1, now 2"),
        ({"accumulate": 2, "images": 16}, "gradient_accumulation_steps was 1, now 2"),
        ({"optimizer": "SGD"}, "optimizer was AdamW, now SGD"),
    ],
)
def test_another_kind_of_run_is_refused(copy, options, fact):
    before = contents(copy)
    with pytest.raises(ValueError, match=f"cannot go on from .*step-00000006.*{fact}"):
        run(copy, 8, **options)
    assert contents(copy) == before


def test_a_run_that_trains_something_else_is_refused(copy):
    model = tiny.TinyModel()
    model.norm.requires_grad_(False)
    model.extra = torch.nn.Parameter(torch.zeros(3))
    model.null = torch.nn.Parameter(torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"1 are missing \(extra\); 2 are unknown \(norm.*null \(8,\) instead of"):
        run(copy, 8, model=model)


def test_settings_that_changed_are_told(copy, caplog):
    run(copy, 7, learning_rate=0.5)
    assert "learning_rate was 0.01, now 0.5" in caplog.text


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    "place",
    [lambda x: x, lambda x: x / "checkpoints" / "step-00000006", lambda x: str(x / "checkpoints" / "step-00000006")],
)
def test_weights_are_found_in_a_run_and_in_a_checkpoint(trained, place, average):
    file = "ema.safetensors" if average else "weights.safetensors"
    expected = load_file(trained / "checkpoints" / "step-00000006" / file)
    found = read_weights(place(trained), ema=average)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(read_weights(trained / "checkpoints" / "step-00000006" / file), expected)


def test_without_an_average_the_weights_themselves_are_read(copy):
    for path in (copy / "checkpoints").rglob("ema.safetensors"):
        path.unlink()
    folder = copy / "checkpoints" / "step-00000006"
    assert set(read_weights(folder)) == set(load_file(folder / "weights.safetensors"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x / "nowhere", "nowhere does not exist; a checkpoint is a run's output_dir"),
        (lambda x: (x / "checkpoints").mkdir() or x, "has no whole checkpoint yet"),
        (lambda x: x, r"weights\.safetensors does not exist"),
        (lambda x: (x / "w.safetensors").write_bytes(b"abc") and x / "w.safetensors", "cannot be read"),
    ],
)
def test_weights_that_cannot_be_read_are_named(tmp_path, make, message):
    with pytest.raises(CheckpointError, match=message):
        read_weights(make(tmp_path))


def test_trained_weights_are_copied_into_a_model_and_nothing_else(trained):
    model = tiny.TinyModel()
    base = model.base.weight.clone()
    weights = read_weights(trained)
    load_trained(model, weights)
    torch.testing.assert_close({k: x.detach() for k, x in model.named_parameters() if k in weights}, weights)
    assert torch.equal(model.base.weight, base)


def test_weights_of_another_model_are_refused_with_the_keys_that_differ(trained, tmp_path):
    weights = read_weights(trained)
    weights["head.weight"] = torch.zeros(5, 16)
    weights["tail.weight"] = weights.pop("body.weight")
    save_file(weights, tmp_path / "other.safetensors")
    model = tiny.TinyModel()
    before = model.head.weight.clone()
    message = (
        r"other does not fit TinyModel: 1 are missing \(body\.weight\); 1 are unknown \(tail\.weight\); "
        r"1 have another shape \(head\.weight \(5, 16\) instead of \(8, 16\)\); was it trained on another base"
    )
    with pytest.raises(CheckpointError, match=message):
        load_trained(model, read_weights(tmp_path / "other.safetensors"), "other")
    assert torch.equal(model.head.weight, before)
