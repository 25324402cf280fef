"""From shards of composed scenes to a personal model and its numbers, as a user runs it, without anyone's weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image as PILImage

from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import ShardWriter
from scenewright.entrypoints.evaluation_run import EvaluationRun
from scenewright.entrypoints.training_run import TrainingRun
from scenewright.layout import Layout
from scenewright.layout_models.checkpoint import read_weights

HERE = Path(__file__).parent


class InTheMiddle:
    """A detector that finds each tag in the middle of the image."""

    def __init__(self, box_threshold: float, class_agnostic: bool) -> None:
        assert box_threshold == 0.1 and not class_agnostic

    def detect(self, images, tags):
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
        return [Layout(box.repeat(len(x), 1), list(x), scores=torch.full((len(x),), 0.5)) for x in tags]


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.syspath_prepend(str(HERE))
    AcceleratorState._reset_state(True)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Scenes with a star and a ring, as the composer would write them."""
    drawn = Shapes(12, 32, 32, difficulty="easy", objects=(2, 2), turn=0.0)
    composed = {"concepts": ["toys/star1", "toys/ring1"], "background": "on a plain grey background"}
    boxes = torch.tensor([[0.0, 0.2, 0.5, 0.8], [0.5, 0.2, 1.0, 0.8]])
    scenes = [
        replace(x, caption="two toys", layout=Layout(boxes, ["star", "ring"]), metadata={"gen4gen": composed})
        for x in drawn
    ]
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write(0, scenes)
    return tmp_path / "shards"


@pytest.fixture
def trained(config, shards, tmp_path):
    """``trained(steps)``: a run that goes on to this step."""
    (tmp_path / "photos").mkdir()
    for i in range(12):
        PILImage.new("RGB", (32, 32), (20 * i, 90, 30)).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text("a star")
    small = ("framing.height=32", "framing.width=32", "batch_size=4", "workers=0", "checkpoint_every=2", "log_every=2")
    quiet = ("trackers=none", "validation.count=0", "optimizer.lr=0.001")

    def run(steps: int, name: str = "run", *overrides: str) -> Path:
        cfg = config(
            *("train", "experiment=train/custom_diffusion", "layout_model=tiny_custom_diffusion", *small, *quiet),
            f"dataset.datasets.scenes.dataset.directory={shards}",
            f"dataset.datasets.regularisation.directory={tmp_path / 'photos'}",
            *(f"steps={steps}", f"output_dir={tmp_path / name}", *overrides),
        )
        AcceleratorState._reset_state(True)
        training = TrainingRun(cfg)
        training.train()
        training.conclude()
        return tmp_path / name

    return run


@pytest.fixture
def judged(config, shards, tiny_clip, tmp_path):
    """``judged(run)``: the metrics of what a run draws."""
    clip = tiny_clip(tmp_path / "clip", words=("a", "on", "the", "moon"))
    for name in ("star1", "ring1"):
        (tmp_path / "concepts" / name).mkdir(parents=True)
        PILImage.new("RGB", (24, 24), (200, 30, 30)).save(tmp_path / "concepts" / name / "0.png")

    def run(checkpoint: Path, *overrides: str) -> dict:
        cfg = config(
            *("eval", "experiment=eval/gen4gen_eval", "layout_model=tiny_custom_diffusion", f"checkpoint={checkpoint}"),
            *(f"dataset.dataset.directory={shards}", "dataset.backgrounds=[on the moon]", "height=32", "width=32"),
            *(
                f"metric.{x}.image_text.{y}"
                for x in ("cp_clip", "ti_clip")
                for y in (f"checkpoint={clip}", "revision=x")
            ),
            *(f"metric.cp_clip.references={tmp_path / 'concepts'}", "layout_model.num_inference_steps=2"),
            *("rounds=0", "report=0", f"output_dir={tmp_path / 'out'}", *overrides),
        )
        settings = {x: cfg.metric.cp_clip.detector[x] for x in ("box_threshold", "class_agnostic")}
        # as a plugin from outside would be put there
        cfg.metric.cp_clip.detector = {"_target_": f"{__name__}.InTheMiddle", **settings}
        AcceleratorState._reset_state(True)
        evaluation = EvaluationRun(cfg)
        evaluation.draw()
        evaluation.judge()
        evaluation.conclude()
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]

    return run


def test_a_composition_is_learnt_drawn_and_judged(trained, judged, tmp_path):
    found = judged(trained(2))
    assert {"cp_clip", "cp_clip/matched", "cp_clip/found", "ti_clip"} <= set(found)
    assert found["cp_clip/found"]["value"] == 1 and -1 <= found["cp_clip"]["value"] <= 1
    assert all(x["coverage"] == 1 for x in found.values())
    drawn = [json.loads(x) for x in (tmp_path / "out" / "images" / "images.jsonl").read_text().splitlines()]
    assert len({x["seed"] for x in drawn}) == 6 and {x["caption"] for x in drawn} == {
        "<comp> photo of <star1> star and <ring1> ring on the moon. <star1> star, <ring1> ring."
    }


def test_a_run_that_goes_on_ends_where_an_undisturbed_one_does(trained):
    whole = read_weights(trained(4, "whole"))
    trained(2, "halves")
    halves = read_weights(trained(4, "halves"))
    assert {"words.<comp>", "words.<star1>", "words.<ring1>"} < whole.keys() == halves.keys()
    assert all(torch.equal(x, halves[name]) for name, x in whole.items())


def test_a_run_without_the_token_of_the_composition_is_not_drawn_with_it(trained, judged):
    run = trained(2, "run", "dataset.datasets.scenes.composition=null")
    with pytest.raises(ValueError, match="1 are missing .*words.<comp>"):
        judged(run)
    assert judged(run, "dataset.composition=null")["cp_clip/found"]["value"] == 1


def test_the_protocol_is_six_images_of_one_prompt(config):
    cfg = config("eval", "experiment=eval/gen4gen_eval", "output_dir=x", "dataset.backgrounds=[on the moon]")
    assert (cfg.images_per_layout, cfg.limit, cfg.height) == (6, 1, 512)
    assert list(cfg.metric) == ["cp_clip", "ti_clip"] and cfg.metric.ti_clip.prompt == "background"
    assert cfg.metric.cp_clip.detector._target_.endswith(".OWLv2")
    assert cfg.metric.cp_clip.image_text.checkpoint == "openai/clip-vit-base-patch32"


def test_training_is_as_published(config):
    cfg = config("train", "experiment=train/custom_diffusion", "output_dir=x")
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.steps, cfg.warmup) == (8, 1e-5, 2000, 0)
    assert cfg.layout_model._target_.endswith(".CustomDiffusionSD15") and cfg.layout_model.prior_weight == 1
