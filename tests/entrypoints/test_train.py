"""The command as users run it, with a model that takes no time."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from omegaconf import DictConfig
from PIL import Image as PILImage
from safetensors.torch import load_file

from scenewright.entrypoints.training_run import TrainingRun

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

#: A run of a second.
SMALL = (
    *("layout_model=painter", "dataset=squares"),
    *("framing.height=16", "framing.width=16", "batch_size=4", "workers=0", "warmup=2", "steps=12"),
    *("optimizer.lr=0.05", "checkpoint_every=5", "log_every=4", "shuffle={block: 8, window: 2}"),
    *("validation.every=6", "validation.count=5", "validation.layouts=3", "trackers=none"),
)


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.syspath_prepend(str(HERE))
    AcceleratorState._reset_state(True)


@pytest.fixture
def compose(config, tmp_path) -> Callable[..., DictConfig]:
    def composed(*overrides: str) -> DictConfig:
        search = f"hydra.searchpath=[file://{HERE / 'conf'}]"
        return config("train", search, *SMALL, f"output_dir={tmp_path / 'run'}", *overrides)

    return composed


@pytest.fixture
def run(compose, capsys) -> Callable[..., str]:
    """``run(*overrides)`` is the command in this process; it returns what was printed."""

    def trained(*overrides: str) -> str:
        training = TrainingRun(compose(*overrides))
        training.train()
        training.conclude()
        AcceleratorState._reset_state(True)
        return capsys.readouterr().out

    return trained


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All that a checkpoint has of weights."""
    files = sorted((folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    return {f"{x.stem}.{name}": value for x in files for name, value in load_file(x).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[x], other[x]) for x in one)


def test_a_run_leaves_checkpoints_pictures_and_a_log_and_says_how_it_ended(run, tmp_path):
    out, folder = run("keep=2"), tmp_path / "run"
    assert re.fullmatch(
        r"Painter: 12 steps, 48 images in 0:00:\d\d \(.* images/s\) · loss .* · held-out loss .*\n", out
    )
    assert sorted(x.name for x in folder.iterdir()) == ["checkpoints", "run.json", "train.log", "validation"]
    assert sorted(x.name for x in (folder / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]
    assert sorted(x.name for x in (folder / "validation").iterdir()) == ["step-00000006.png", "step-00000012.png"]
    log = (folder / "train.log").read_text()
    assert "Painter: 6 of 11 parameters are trained, on 1 × cpu, from step 0 to 12" in log
    assert [int(x) for x in re.findall(r"step (\d+) of 12: loss", log)] == [4, 8, 12]
    assert "images/s" in log and "waiting for data" in log and re.search(r"peak memory \d+\.\d\d GiB", log)
    assert [int(x) for x in re.findall(r"step (\d+): loss [\d.]+ on 5 held-out images", log)] == [6, 12]


def test_it_learns(run, tmp_path):
    run("steps=60", "ema=null", "validation.count=0", "layout_model.grain=0")
    log = (tmp_path / "run" / "train.log").read_text()
    losses = [float(x) for x in re.findall(r"of 60: loss ([\d.]+)", log)]
    assert min(losses[-4:]) < losses[0] and "held-out" not in log
    trained = weights(tmp_path / "run", 60)
    assert sorted(trained) == ["weights.around", "weights.inside"] and (trained["weights.inside"] != 0.5).all()


def test_the_same_command_continues_exactly_and_says_when_there_is_nothing_left(run, tmp_path):
    whole, parts = f"output_dir={tmp_path / 'whole'}", f"output_dir={tmp_path / 'parts'}"
    run(whole)
    run(parts, "steps=7")
    assert "from step 7 to 12" in _log_after(run, tmp_path / "parts", parts)
    assert equal(weights(tmp_path / "whole", 12), weights(tmp_path / "parts", 12))
    assert "has its 12 steps already; steps=… goes on" in run(parts)
    assert equal(weights(tmp_path / "whole", 12), weights(tmp_path / "parts", 12))


def _log_after(run: Callable[..., str], folder: Path, *overrides: str) -> str:
    run(*overrides)
    return (folder / "train.log").read_text()


def test_validation_more_or_less_often_changes_no_weight(run, tmp_path):
    for every in (0, 1):
        run(f"output_dir={tmp_path / str(every)}", f"validation.every={every}", f"validation.layouts={every}")
    assert equal(weights(tmp_path / "0", 12), weights(tmp_path / "1", 12))
    assert len(list((tmp_path / "1" / "validation").iterdir())) == 12
    assert not (tmp_path / "0" / "validation").exists()


def test_what_is_held_out_is_never_trained_on(compose, tmp_path):
    training = TrainingRun(compose("steps=40"))
    seen, forward = set(), training.run.model.forward

    def watched(batch):
        seen.update(batch.keys)
        return forward(batch)

    training.run.model.forward = watched
    held_out = {key for batch in training._framed for key in batch.keys}
    batches = iter(training.run.batches)
    for _ in range(40):
        watched(next(batches))
    assert len(held_out) == 5 and len(seen) == 55 and not held_out & seen


def test_another_dataset_may_be_validated_on(compose):
    other = "{_target_: scenewright.datasets.shapes.Shapes, split: val, length: 3, height: 20, width: 24}"
    training = TrainingRun(compose(f"validation.dataset={other}"))
    assert [batch.keys[0][:10] for batch in training._framed] == ["shapes-val"] * 3
    assert all(batch.images.shape == (1, 3, 16, 16) for batch in training._framed)
    assert training.run.batches.batches.dataset.length == 60


def test_the_picture_of_a_validation_is_large_enough_to_read(run, tmp_path):
    run("validation.every=0")
    with PILImage.open(tmp_path / "run" / "validation" / "step-00000012.png") as sheet:
        assert sheet.width >= 3 * 256 and sheet.height >= 256


def test_drawn_scenes_are_trained_on_with_their_own_sizes(run, tmp_path):
    shapes = ("dataset=shapes", "dataset.length=30", "dataset.height=32", "dataset.width=48", "dataset.difficulty=easy")
    run(*shapes, "framing.width=24", "steps=3", "validation.count=3")
    assert (tmp_path / "run" / "validation" / "step-00000003.png").exists()


def test_trackers_get_numbers_and_pictures(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("trackers=tensorboard")
    (folder,) = (tmp_path / "run" / "logs").iterdir()
    events = EventAccumulator(str(folder), {"images": 0})
    events.Reload()
    tags = events.Tags()
    assert [x.step for x in events.Scalars("train/loss")] == [4, 8, 12]
    assert [x.step for x in events.Scalars("validation/loss")] == [6, 12]
    assert tags["images"] == ["validation"] and len(events.Images("validation")) == 2
    assert {"train/images_per_second", "train/learning_rate", "train/gradient_norm"} <= {*tags["scalars"]}
    assert tags["tensors"] == ["configuration/text_summary"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_what_was_asked_for(compose, precision):
    assert TrainingRun(compose(f"precision={precision}")).process.mixed_precision == {"fp32": "no"}.get(
        precision, "bf16"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr=0.1", "optimizer.lr: was 0.05, is 0.1"),
        ("dataset.seed=3", "dataset.seed: was 0, is 3"),
        ("batch_size=5", "batch_size: was 4, is 5"),
        ("framing.flip=0.25", "framing.flip: was 0.5, is 0.25"),
        ("validation.count=4", "validation.held_out: was 5, is 4"),
        ("precision=bf16", 'precision: was "no", is "bf16"'),
        ("ema=null", "ema"),
        ("lr_schedule=cosine", 'lr_schedule: was "constant_with_warmup", is "cosine"'),
    ],
)
def test_another_configuration_is_refused_with_the_difference(run, compose, tmp_path, change, message):
    folder = tmp_path / "run"
    folder.mkdir()
    TrainingRun(compose()).record.write()
    AcceleratorState._reset_state(True)
    before = (folder / "run.json").read_bytes()
    with pytest.raises(ValueError) as error:
        run(change)
    assert message in str(error.value) and "choose another output_dir" in str(error.value)
    assert [x.name for x in folder.iterdir()] == ["run.json"] and (folder / "run.json").read_bytes() == before


@pytest.mark.parametrize("change", ["+layout_model.guidance_scale=3", "max_skipped=7", "compile=true"])
def test_a_run_may_change_its_mind_about_what_moves_no_weight(compose, change):
    TrainingRun(compose()).record.write()
    AcceleratorState._reset_state(True)
    TrainingRun(compose(change))


def test_the_number_of_steps_is_fixed_where_the_learning_rate_falls_towards_it(compose):
    TrainingRun(compose("lr_schedule=cosine")).record.write()
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="steps: was 12, is 13"):
        TrainingRun(compose("lr_schedule=cosine", "steps=13"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=0", "steps must be a whole number, at least 1, got 0"),
        ("batch_size=0", "batch_size must be a whole number, at least 1, got 0"),
        ("accumulate=1.5", "accumulate must be a whole number, at least 1, got 1.5"),
        ("validation.count=-1", "validation.count must be a whole number, at least 0, got -1"),
        ("max_skipped=0", "max_skipped must be a whole number, at least 1, got 0"),
        ("keep=0", "keep must be at least 1, or null for all checkpoints, got 0"),
        ("precision=fp8", "precision must be one of no, fp32, fp16, bf16, got fp8"),
        ("lr_schedule=exponential", "lr_schedule must be one of constant, constant_with_warmup, linear"),
        ("trackers=[tensorboard,mlflow]", "trackers must be of tensorboard, wandb or none, got mlflow"),
        ("dataset.length=0", "the dataset is empty: nothing to train on"),
        ("dataset.length=9", "the dataset has 9 samples, too few to hold some out"),
        ("start_from=nowhere", "nowhere does not exist"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(compose, tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        TrainingRun(compose(change))
    assert not (tmp_path / "run").exists()


def test_a_run_may_begin_with_the_weights_of_another(run, compose, tmp_path):
    run()
    later = TrainingRun(compose(f"output_dir={tmp_path / 'later'}", f"start_from={tmp_path / 'run'}"))
    average = weights(tmp_path / "run", 12)
    assert torch.equal(later.run.network.inside.detach(), average["ema.inside"])
    assert torch.equal(later.run.ema.shadow_params[0], average["ema.inside"])


def command(tmp_path: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    return subprocess.Popen(
        [
            *(sys.executable, "entrypoints/train.py", "--config-dir", str(HERE / "conf")),
            *(*SMALL, f"output_dir={tmp_path / 'run'}", *arguments),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore interruptions, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_killed_ends_where_an_undisturbed_one_does(run, tmp_path):
    arguments = ("steps=40", "checkpoint_every=4", "validation.every=20", "validation.layouts=1", "keep=null")
    checkpoints = tmp_path / "run" / "checkpoints"
    stopped = command(tmp_path, *arguments)
    wait_for(checkpoints / "step-00000004", stopped)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "interrupted; the same command continues from here" in said
    reached = max(int(x.name[5:13]) for x in checkpoints.iterdir())
    killed = command(tmp_path, *arguments)
    wait_for(checkpoints / f"step-{reached + 4:08d}", killed)
    killed.kill()
    killed.communicate(timeout=60)
    whole = f"output_dir={tmp_path / 'whole'}"
    run(*arguments)
    run(*arguments, whole)
    assert equal(weights(tmp_path / "run", 40), weights(tmp_path / "whole", 40))
    assert equal(weights(tmp_path / "run", 28), weights(tmp_path / "whole", 28))
