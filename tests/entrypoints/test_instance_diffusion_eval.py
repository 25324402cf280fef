"""InstanceDiffusion's protocol as a user runs it, with plugins that need no weights in place of its networks."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from scenewright.entrypoints.evaluation_run import EvaluationRun
from scenewright.layout import Layout

HERE = Path(__file__).parent


class CoarseNetwork:
    """FID's features: the mean colours of the quarters of an image."""

    settings = {"network": "CoarseNetwork"}

    def digest(self) -> str:
        return "none"

    def features(self, images):
        return torch.stack([torch.nn.functional.adaptive_avg_pool2d(x.double(), 2).flatten() for x in images])


class Everywhere:
    """A detector that finds each tag in the middle of the image, and says nothing of its size."""

    def __init__(self, box_threshold: float, class_agnostic: bool) -> None:
        assert box_threshold < 0.1 and not class_agnostic

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
def run(config, tiny_clip, tmp_path):
    """``run(*overrides)``: the metrics that are found in drawn scenes, judged as they are."""
    clip = tiny_clip(tmp_path / "clip", words=("a", "object", "red", "blue", "circle"))

    def judged(*overrides: str) -> dict:
        cfg = config(
            "eval",
            *("experiment=eval/instance_diffusion_eval", "images=truth", f"output_dir={tmp_path / 'out'}"),
            *("annotator/detector@metric.pim.detector=superpixels", "annotator/segmenter@metric.pim.segmenter=grabcut"),
            *(f"metric.attribute_accuracy.image_text.checkpoint={clip}", "rounds=0", "report=0"),
            "metric.attribute_accuracy.image_text.revision=main",
            *overrides,
        )
        # as a plugin from outside would be put there
        cfg.metric.fid.network = {"_target_": f"{__name__}.CoarseNetwork"}
        settings = {x: cfg.metric.detector_ap.detector[x] for x in ("box_threshold", "class_agnostic")}
        cfg.metric.detector_ap.detector = {"_target_": f"{__name__}.Everywhere", **settings}
        evaluation = EvaluationRun(cfg)
        evaluation.draw()
        evaluation.judge()
        evaluation.conclude()
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]

    return judged


SMALL = ("length=8", "height=64", "width=64", "difficulty=easy")


def test_the_protocol_judges_any_dataset(run):
    shapes = ("dataset=shapes", *(f"dataset.{x}" for x in SMALL))
    found = run(*shapes)
    assert {"detector_ap", "detector_ap/AP_small", "detector_ap/AP_medium", "detector_ap/AP_large", "fid"} <= set(found)
    assert {"pim", "pim/scribble", "attribute_accuracy", "attribute_accuracy/local_clip"} <= set(found)
    assert found["pim"]["value"] > 0.5 and found["pim/scribble"]["value"] > 0.5, "plain scenes are cut out well"
    assert found["detector_ap/AP_large"]["value"] is None and 0 < found["detector_ap/iou"]["value"] < 1
    assert found["fid"]["value"] == pytest.approx(0, abs=0.01), "the images are the reference"


def test_attributes_are_those_of_the_phrases(run):
    inner = ("dataset@dataset.dataset=shapes", *(f"dataset.dataset.{x}" for x in SMALL))
    found = run("dataset=attribute_phrases", "dataset.attributes=texture", *inner)
    entry = found["attribute_accuracy/texture"]
    assert entry["n"] == 8 and entry["coverage"] == 1 and 0 <= entry["value"] <= 1


def test_the_dataset_is_coco_and_the_canvas_is_the_protocols(config):
    given = ("dataset.instances=i.json", "dataset.images=val2017", "output_dir=x")
    cfg = config("eval", "experiment=eval/instance_diffusion_eval", *given)
    assert cfg.dataset._target_.endswith(".Coco") and (cfg.height, cfg.width) == (512, 512)
    assert list(cfg.metric) == ["detector_ap", "attribute_accuracy", "pim", "fid"]
    assert cfg.metric.pim.detector._target_.endswith(".GroundingDINO")
