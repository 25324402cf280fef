"""RAT-Diffusion in small is trained, resumed and drawn with as users do it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import ShardWriter, write_shards
from scenewright.entrypoints.drawing_run import DrawingRun
from scenewright.entrypoints.training_run import TrainingRun

#: A run of some seconds.
SMALL = (
    *("layout_model=tiny_rat_dit", "layout_model.depth=4", "layout_model.hidden_size=32"),
    *("layout_model.num_inference_steps=2", "framing.height=32", "framing.width=32", "framing.crop=none"),
    *("framing.flip=0", "batch_size=4", "workers=0", "warmup=0", "optimizer.lr=2e-3", "log_every=2", "trackers=none"),
    *("shuffle={block: 8, window: 2}", "checkpoint_every=3", "validation.every=0", "validation.count=2"),
)
SHAPES = ("dataset=shapes", "dataset.length=64", "dataset.height=32", "dataset.width=32", "dataset.difficulty=easy")


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(True)


@pytest.fixture
def run(config):
    """``run(*overrides)`` is the command in this process."""

    def trained(*overrides: str) -> None:
        training = TrainingRun(config("train", *SMALL, *overrides))
        training.train()
        training.conclude()
        AcceleratorState._reset_state(True)

    return trained


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    return {f"{x.stem}.{name}": value for x in files for name, value in load_file(x).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[x], other[x]) for x in one)


def test_it_resumes_exactly_and_draws_what_it_has_learnt(run, config, tmp_path):
    run(*SHAPES, f"output_dir={tmp_path / 'whole'}", "steps=6")
    parts = (*SHAPES, f"output_dir={tmp_path / 'parts'}")
    run(*parts, "steps=3")
    before = weights(tmp_path / "parts", 3)
    run(*parts, "steps=6", "layout_model.solver=ddim")  # no weight depends on the sampler
    after = weights(tmp_path / "parts", 6)
    assert equal(after, weights(tmp_path / "whole", 6)) and not equal(before, after)

    small = [x for x in SMALL if x.startswith("layout_model")]
    folder = (f"output_dir={tmp_path / 'images'}", f"checkpoint={tmp_path / 'whole'}", "limit=2", "contact_sheet=0")
    drawing = DrawingRun(config("generate", *small, *SHAPES, *folder))
    drawing.draw()
    drawing.conclude()
    drawing.end()
    assert len([x for x in (tmp_path / "images").glob("*.png") if "overlay" not in x.name]) == 2


def test_stored_text_features_are_trained_on_in_place_of_captions(run, tmp_path):
    scenes = list(Shapes(length=16, height=32, width=32, difficulty="easy"))
    features = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    said = [replace(x, text_feature=feature) for x, feature in zip(scenes, features, strict=True)]
    unsaid = [replace(x, caption="") for x in said]
    for name, samples in (("plain", scenes), ("said", said), ("unsaid", unsaid)):
        with ShardWriter(tmp_path / name) as writer:
            write_shards(samples, writer, iter, samples_per_shard=8)
        source = ("dataset=shards", f"dataset.directory={tmp_path / name}", "validation.count=0", "steps=2")
        run(*source, f"output_dir={tmp_path / 'runs' / name}", "layout_model.caption_drop=0.0")
    plain, given, alone = (weights(tmp_path / "runs" / name, 2) for name in ("plain", "said", "unsaid"))
    assert equal(given, alone) and not equal(plain, given)
