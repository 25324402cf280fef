"""RAT-Diffusion's recipes as users run them: lists of pairs, two stages of training, 30000 images, numbers."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image as PILImage
from safetensors.torch import load_file

from scenewright.datasets.files import IMAGE_EXTENSIONS
from scenewright.datasets.framing import Framing
from scenewright.datasets.pair_list import PairList
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards
from scenewright.entrypoints.drawing_run import DrawingRun
from scenewright.entrypoints.evaluation_run import EvaluationRun
from scenewright.entrypoints.training_run import TrainingRun
from scenewright.evaluation.leaderboard.comparing import differences

ROOT = Path(__file__).parents[2]
RECIPES = {"rat_cub": "a picture of bird", "rat_flowers": "a picture of flower", "rat_coco": "a picture"}
MODEL = (
    *("layout_model=tiny_rat_dit", "layout_model.depth=4", "layout_model.hidden_size=32"),
    *("layout_model.num_inference_steps=2", "layout_model.zero_gates=false"),
)
#: A run of some seconds.
SMALL = (
    *("framing.height=32", "framing.width=32", "batch_size=4", "workers=0", "log_every=2", "trackers=none"),
    *("checkpoint_every=2", "validation.every=0", "validation.count=0", "framing.caption=random"),
    *("warmup=0", "optimizer.lr=1e-3"),
)


class CoarseNetwork:
    """Features and logits: mean colours of the quarters of an image."""

    def __init__(self, resize: str = "mean 2") -> None:
        self.resize = resize

    @property
    def settings(self) -> dict[str, str]:
        return {"network": "CoarseNetwork", "resize": self.resize}

    def digest(self) -> str:
        return "none"

    def features(self, images):
        return torch.stack([torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten() for x in images])

    logits = features


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(True)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Six scenes with two captions each, as the authors' list has them."""
    (tmp_path / "images").mkdir()
    records = []
    for scene in Shapes(length=6, height=32, width=32, difficulty="easy"):
        PILImage.fromarray(scene.image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{scene.key}.png")
        records.append([f"{scene.key}.png", [scene.caption, "a scene of shapes"]])
    (tmp_path / "test.pkl").write_bytes(pickle.dumps(records))
    return tmp_path / "test.pkl"


@pytest.fixture
def train(config):
    def trained(*overrides: str) -> None:
        AcceleratorState._reset_state(True)
        run = TrainingRun(config("train", *MODEL, *SMALL, *overrides))
        run.train()
        run.conclude()

    return trained


@pytest.fixture
def judge(config, pairs, tmp_path):
    """``judge(*overrides)``: the numbers of the protocol, with coarse features in place of Inception's."""

    def judged(*overrides: str, resize: str = "mean 2") -> dict:
        AcceleratorState._reset_state(True)
        cfg = config(
            "eval",
            *("experiment=eval/rat_eval", *MODEL, f"dataset.path={pairs}", f"dataset.root={tmp_path / 'images'}"),
            *("height=32", "width=32", "metric.fid.reference=null", "metric.inception_score.splits=2", "rounds=0"),
            *("report=0", "contact_sheet=0", f"output_dir={tmp_path / 'eval'}", *overrides),
        )
        # as a plugin from outside would be put there
        cfg.metric.fid.network = {"_target_": f"{__name__}.CoarseNetwork", "resize": resize}
        run = EvaluationRun(cfg)
        run.draw()
        run.judge()
        run.conclude()
        return json.loads((Path(cfg.output_dir) / "metrics.json").read_text())

    return judged


def pair_list(pairs: Path) -> tuple[str, ...]:
    return "dataset=pair_list", f"dataset.path={pairs}", f"dataset.root={pairs.parent / 'images'}"


def weights(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[x], other[x]) for x in one)


def drawn(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in sorted(folder.glob("*-[0-9]*.png")) if "overlay" not in x.name}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_as_published(name, config):
    cfg = config("train", f"experiment=train/{name}", "output_dir=x", "dataset.directory=y")
    assert cfg.layout_model.null_text == RECIPES[name] and cfg.layout_model.cache_latents
    assert (cfg.layout_model.size, cfg.layout_model.patch, cfg.layout_model.image_size) == ("L", 2, 256)
    assert (cfg.batch_size * 2, cfg.optimizer.lr, cfg.optimizer.weight_decay) == (24, 1e-4, 0)
    assert (cfg.lr_schedule, cfg.warmup, cfg.max_grad_norm, cfg.ema.decay) == ("constant", 0, None, 0.9999)
    assert cfg.framing.caption == "random" and cfg.layout_model.caption_drop == 0


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*/rat_*.yaml")), ids=lambda x: x.stem)
def test_every_command_that_a_recipe_shows_is_one(path, config):
    """The launcher's options come before the script, the script's own after it, and all of these exist."""
    text = path.read_text().replace("\\\n#", "")
    commands = re.findall(r"^# ((?:accelerate|python) .*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        program, *words = shlex.split(command)
        script = next(i for i, x in enumerate(words) if x.endswith(".py"))
        assert all("=" not in x for x in words[:script]) and (program == "python" or words[0] == "launch")
        assert (ROOT / words[script]).exists()
        overrides = [x.replace("experiment=", f"experiment={path.parent.name}/") for x in words[script + 1 :]]
        assert config(Path(words[script]).stem, *overrides).output_dir == overrides[-1].partition("=")[2]


@pytest.mark.parametrize("size", [(300, 200), (256, 700), (1100, 640), (90, 120)])
def test_the_framing_shows_what_the_authors_transform_shows(size, config):
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
    array = np.stack([127 + 120 * np.sin(x * (i + 1) + y) for i in range(3)], -1).astype(np.uint8)
    cfg = config("train", "experiment=train/rat_cub", "output_dir=x", "dataset.directory=y").framing
    framing = Framing(**{k: v for k, v in cfg.items() if not k.startswith("_")} | {"flip": 0})
    sample = Shapes(length=1, height=32, width=32).read(0, 1).__next__()
    shown, _ = framing(type(sample).from_image("a", torch.from_numpy(array).permute(2, 0, 1)), 0)

    image = PILImage.fromarray(array)
    while min(image.size) >= 2 * 256:
        image = image.resize(tuple(side // 2 for side in image.size), PILImage.Resampling.BOX)
    scale = 256 / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), PILImage.Resampling.BICUBIC)
    left, top = ((side - 256) // 2 for side in image.size)
    expected = np.asarray(image.crop((left, top, left + 256, top + 256))).astype(float)
    difference = np.abs(shown.image.permute(1, 2, 0).numpy() - expected)
    assert shown.image.shape == (3, 256, 256) and difference.mean() < 3 and np.percentile(difference, 99) < 12


def test_pairs_are_written_into_shards_without_any_annotator(command, pairs, tmp_path):
    records = pickle.loads(pairs.read_bytes())
    pairs.write_bytes(pickle.dumps([*records, ["none.png", ["nothing"]]]))
    stages = [f"~annotator/{x}" for x in ("tagger", "detector", "segmenter", "captioner")]
    done = command("annotate", *pair_list(pairs), *stages, f"output_dir={tmp_path / 'shards'}")
    assert done.returncode == 0, done.stderr
    found = list(Shards(tmp_path / "shards"))
    assert [x.caption for x in found] == [x[1][0] for x in records]
    assert found[0].metadata["captions"] == records[0][1]
    assert (found[0].source.data) == (tmp_path / "images" / records[0][0]).read_bytes()
    manifest = json.loads(next((tmp_path / "shards").glob("0*.json")).read_text())
    assert "none" in json.dumps(manifest)  # counted, not lost
    done = command("export", "format=pair_list", f"shards={tmp_path / 'shards'}", f"output={tmp_path / 'pairs'}")
    assert done.returncode == 0, done.stderr
    again = list(PairList(str(tmp_path / "pairs" / "pairs.json")))
    assert [x.metadata["captions"] for x in again] == [x[1] for x in records]


def test_the_second_stage_begins_with_the_average_of_the_first_and_with_a_new_optimizer(train, pairs, tmp_path):
    first, second, again = (tmp_path / x for x in ("first", "second", "again"))
    train(*pair_list(pairs), f"output_dir={first}", "steps=4", "ema.decay=0.5", "+ema.min_decay=0.5")
    average = weights(first, 4, "ema")
    assert not equal(average, weights(first, 4, "weights"))
    train(*pair_list(pairs), f"output_dir={second}", "steps=1", f"start_from={first}", "optimizer.lr=0")
    assert equal(weights(second, 1, "weights"), average)
    state = torch.load(second / "checkpoints" / "step-00000001" / "state.pt", weights_only=True)
    steps = {int(x["step"]) for x in state["optimizer"]["state"].values()}
    assert steps == {1} and state["ema"]["optimization_step"] == 1
    train(*pair_list(pairs), f"output_dir={again}", "steps=1", f"layout_model.weights={first}", "optimizer.lr=0")
    assert equal(weights(again, 1, "weights"), average)


def test_a_model_learns_from_pairs_and_draws_and_is_judged(train, judge, config, pairs, tmp_path):
    train(*pair_list(pairs), f"output_dir={tmp_path / 'run'}", "steps=2")
    found = judge(f"checkpoint={tmp_path / 'run'}", "images_in_all=15")
    images = drawn(tmp_path / "eval" / "images")
    assert len(images) == 15 == found["coverage"]["found"] and len(set(images.values())) == 15  # no image twice
    assert {x.suffix[1:] for x in (tmp_path / "eval" / "images").iterdir()} - IMAGE_EXTENSIONS == {"json", "jsonl"}
    lines = (tmp_path / "eval" / "images" / "images.jsonl").read_text().splitlines()
    known = [json.loads(x) for x in lines]
    assert len(known) == 15 and len({x["seed"] for x in known}) == 15 and len({x["key"] for x in known}) == 12
    assert found["metrics"]["fid"]["fingerprint"]["layouts"]["images"] == 15
    assert found["metrics"]["fid"]["value"] > 0 and found["metrics"]["inception_score"]["value"] >= 1
    assert found["made_by"]["images_in_all"] == 15 and found["settings"]["seed"] == 100


def test_fewer_or_more_images_than_captions_are_drawn_and_more_may_follow(judge, tmp_path, train, pairs):
    train(*pair_list(pairs), f"output_dir={tmp_path / 'run'}", "steps=1")
    run, counts = f"checkpoint={tmp_path / 'run'}", []
    before: dict[str, bytes] = {}
    for number in (5, 12, 26):
        found = judge(run, f"images_in_all={number}")
        after = drawn(tmp_path / "eval" / "images")
        assert before.items() <= after.items() and found["coverage"]["expected"] == number
        counts.append(len(after))
        before = after
    assert counts == [5, 12, 26]


def test_numbers_of_another_count_split_resize_or_splits_are_not_compared(judge, train, pairs, tmp_path):
    train(*pair_list(pairs), f"output_dir={tmp_path / 'run'}", "steps=1")
    run = f"checkpoint={tmp_path / 'run'}"
    one = judge(run, "images_in_all=12")["metrics"]
    changes = {
        "layouts.images": (["images_in_all=24"], {}),
        "network.settings.resize": (["images_in_all=12"], {"resize": "mean 3"}),
        "layouts.digest": (["images_in_all=12", "dataset.caption=first"], {}),
    }
    for field, (overrides, options) in changes.items():
        other = judge(run, *overrides, "overwrite=true", f"output_dir={tmp_path / field}", **options)["metrics"]
        for name in ("fid", "inception_score"):
            found = differences(one[name]["fingerprint"], other[name]["fingerprint"])
            assert any(x.endswith(field) for x in found), (name, field, found)
    same = judge(run, "images_in_all=12", "batch_size=3", "seed=7", "overwrite=true")["metrics"]
    assert not differences(one["fid"]["fingerprint"], same["fid"]["fingerprint"])


def test_a_sample_with_a_feature_alone_is_drawn_by_it(config, train, pairs, tmp_path):
    train(*pair_list(pairs), f"output_dir={tmp_path / 'run'}", "steps=2", "optimizer.lr=0.1")
    feature = torch.randn(512, generator=torch.Generator().manual_seed(0)).tolist()
    for name, more in (("with", [feature]), ("without", [])):
        records = [["a.png", [], *more]]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
        AcceleratorState._reset_state(True)
        run = (f"checkpoint={tmp_path / 'run'}", "ema=false", f"output_dir={tmp_path / name}", "contact_sheet=0")
        source = ("dataset=pair_list", f"dataset.path={tmp_path / name}.json")
        drawing = DrawingRun(config("generate", *MODEL, *source, *run))
        drawing.draw()
        drawing.conclude()
    with_it, without = drawn(tmp_path / "with"), drawn(tmp_path / "without")
    assert with_it.keys() == without.keys() == {"a-0.png"} and with_it != without


@pytest.mark.slow
def test_two_processes_that_are_stopped_and_started_draw_what_one_does(config, train, pairs, tmp_path):
    train(*pair_list(pairs), f"output_dir={tmp_path / 'run'}", "steps=1")
    given = (*MODEL, *pair_list(pairs), f"checkpoint={tmp_path / 'run'}", "images_in_all=15", "dataset.caption=all")
    AcceleratorState._reset_state(True)
    drawing = DrawingRun(config("generate", *given, f"output_dir={tmp_path / 'one'}"))
    drawing.draw()
    drawing.conclude()
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for count in (8, 15):  # the second command goes on
        words = (*(x for x in given if "in_all" not in x), f"images_in_all={count}", f"output_dir={tmp_path / 'two'}")
        done = subprocess.run(
            [*launcher, "entrypoints/generate.py", *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert drawn(tmp_path / "two") == drawn(tmp_path / "one") and len(drawn(tmp_path / "one")) == 15


def test_no_command_chooses_a_device_by_itself():
    """Accelerate gives each process the device of its place on its machine."""
    for path in [*(ROOT / "entrypoints").glob("*.py"), *(ROOT / "packages" / "layout_models").rglob("*.py")]:
        assert not re.search(r"set_device|device_ids|\.cuda\(", path.read_text()), path
