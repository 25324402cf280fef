"""The command as users run it, with a model and metrics that take no time."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from accelerate.state import AcceleratorState
from omegaconf import OmegaConf
from PIL import Image as PILImage

from scenewright.entrypoints.evaluation_run import EvaluationRun
from scenewright.entrypoints.sweep import Leaderboard

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

LAYOUTS = [
    {"key": "park", "caption": "A park", "boxes": [[0.1, 0.2, 0.5, 0.9], [0.6, 0, 1, 0.4]], "labels": ["dog", "sun"]},
    {"key": "empty", "caption": "", "boxes": [], "labels": []},
    {"key": "twins", "boxes": [[0, 0, 1, 1], [0, 0, 0.001, 0.001]], "labels": ["cat", "cat"]},
]


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.syspath_prepend(str(HERE))
    AcceleratorState._reset_state(True)


@pytest.fixture
def settings(tmp_path) -> tuple[str, ...]:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(LAYOUTS))
    of_layouts = ("dataset=layout_file", f"layouts={path}", "layout_model=painter", "report=0", "contact_sheet=0")
    return (*of_layouts, "metric=[greyness]", f"+metric.greyness.log={tmp_path / 'log'}", "rounds=50")


@pytest.fixture
def run(config, capsys, tmp_path, settings) -> Callable[..., tuple[float, str]]:
    """``run(*overrides)`` is the command in this process; it returns the objective and what was printed."""

    def judged(*overrides: str) -> tuple[float, str]:
        search = f"hydra.searchpath=[file://{HERE / 'conf'}]"
        cfg = config("eval", search, *settings, f"output_dir={tmp_path / 'out'}", *overrides)
        evaluation = EvaluationRun(cfg)
        evaluation.draw()
        evaluation.judge()
        return evaluation.conclude(), capsys.readouterr().out

    return judged


def command(*arguments: str, processes: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [
            *(sys.executable, *(launch if processes > 1 else []), "entrypoints/eval.py"),
            *("--config-dir", str(HERE / "conf"), *arguments),
        ],
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)} | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )


def numbers(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def drawn(folder: Path, names: dict[str, str], mode: str = "RGB", **save) -> Path:
    """A folder of images as someone else made them: file names and colours."""
    folder.mkdir(exist_ok=True)
    for name, colour in names.items():
        PILImage.new("RGB", (20, 30), colour).convert(mode).save(folder / name, **save)
    return folder


ALL = {"park-0.png": "#102030", "empty.jpg": "#204060", "twins.webp": "#406080"}


def test_a_run_leaves_numbers_with_n_interval_and_coverage_and_two_tables(run, tmp_path):
    objective, out = run()
    found = numbers(tmp_path / "out")
    entry = found["metrics"]["greyness"]
    assert objective == entry["value"] and (entry["n"], entry["objects"], entry["coverage"]) == (2, 4, 1)
    assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]
    assert found["metrics"]["greyness/red"]["n"] == 3
    assert found["coverage"] == {"expected": 3, "found": 3, "missing": {}}
    assert found["made_by"]["layout_model"]["_target_"] == "painter.Painter" and found["settings"]["seed"] == 0
    assert "greyness/red ↑" in out and "95 % interval" in out
    images = pyarrow.parquet.read_table(tmp_path / "out" / "per_image.parquet").to_pylist()
    regions = pyarrow.parquet.read_table(tmp_path / "out" / "per_object.parquet").to_pylist()
    assert [(x["key"], x["greyness"] is None) for x in images] == [("empty", True), ("park", False), ("twins", False)]
    assert [(x["key"], x["object"], x["label"]) for x in regions] == [
        *[("park", 0, "dog"), ("park", 1, "sun")],
        *[("twins", 0, "cat"), ("twins", 1, "cat")],
    ]
    assert (tmp_path / "out" / "images" / "park-0.png").exists()


def test_a_fingerprint_says_with_what_and_on_what_it_was_measured(run, tmp_path):
    run()
    one = numbers(tmp_path / "out")["metrics"]["greyness"]["fingerprint"]
    assert one["metric"]["class"] == "greyness.Greyness" and one["metric"]["version"] == 1
    assert one["layouts"]["n"] == 3
    run("limit=2", "overwrite=true")
    other = numbers(tmp_path / "out")["metrics"]["greyness"]["fingerprint"]
    assert other["layouts"]["n"] == 2 and other["layouts"]["digest"] != one["layouts"]["digest"]
    assert other["metric"] == one["metric"]


def test_the_same_command_again_redoes_nothing(run, tmp_path):
    run()
    log, first = (tmp_path / "log").read_text(), (tmp_path / "out" / "metrics.json").read_bytes()
    drawn_at = {x: x.stat().st_mtime_ns for x in (tmp_path / "out" / "images").glob("*-0.png")}
    run()
    assert (tmp_path / "log").read_text() == log and len(log.splitlines()) == 3
    assert {x: x.stat().st_mtime_ns for x in drawn_at} == drawn_at
    assert (tmp_path / "out" / "metrics.json").read_bytes() == first
    run("overwrite=true")
    assert len((tmp_path / "log").read_text().splitlines()) == 6
    assert (tmp_path / "out" / "metrics.json").read_bytes() != b""


def test_a_changed_image_or_metric_is_judged_again(run, tmp_path):
    folder = drawn(tmp_path / "theirs", ALL)
    run(f"images={folder}")
    assert numbers(tmp_path / "out")["metrics"]["greyness"]["value"] == pytest.approx((0x20 + 0x60) / 2, rel=0.02)
    drawn(folder, {"park-0.png": "#105030"})
    run(f"images={folder}")
    assert numbers(tmp_path / "out")["metrics"]["greyness"]["value"] == pytest.approx((0x50 + 0x60) / 2, rel=0.02)
    run(f"images={folder}", "+metric.greyness.blind=sun", "require_coverage=0")
    assert numbers(tmp_path / "out")["metrics"]["greyness"]["coverage"] == 0.75


def test_other_settings_of_the_model_are_refused_in_the_same_folder(run):
    run()
    with pytest.raises(ValueError, match=r"grain.*overwrite=true"):
        run("layout_model.grain=0.9")


def test_scores_that_broke_off_are_made_anew(run, tmp_path):
    run()
    (kept,) = (tmp_path / "out" / "scores" / "greyness").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    run()
    assert len((tmp_path / "log").read_text().splitlines()) == 6


def test_anyones_images_are_found_by_key_with_any_extension(run, tmp_path):
    run(f"images={drawn(tmp_path / 'theirs', ALL)}")
    found = numbers(tmp_path / "out")
    assert found["coverage"]["found"] == 3 and found["made_by"] == {
        "images": str(tmp_path / "theirs"),
        "images_per_layout": 1,
    }
    assert not (tmp_path / "out" / "images").exists()


def test_a_missing_image_fails_the_run_and_is_named(run, tmp_path):
    folder = drawn(tmp_path / "theirs", {k: v for k, v in ALL.items() if "twins" not in k})
    with pytest.raises(ValueError) as error:
        run(f"images={folder}")
    assert all(
        x in str(error.value) for x in ("require_coverage=1.0", "greyness 0.5", "twins: there is no twins-0.png")
    )
    found = numbers(tmp_path / "out")
    assert found["coverage"]["missing"] == {"twins": "there is no twins-0.png or twins.*"}
    assert found["metrics"]["greyness"]["coverage"] == 0.5
    run(f"images={folder}", "require_coverage=0.5")


def test_a_broken_image_fails_the_run_and_is_named(run, tmp_path):
    folder = drawn(tmp_path / "theirs", ALL)
    (folder / "twins.webp").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="twins: the file is not an image"):
        run(f"images={folder}")


def test_a_region_that_could_not_be_scored_fails_the_run_and_is_named(run):
    with pytest.raises(ValueError, match=r"greyness 0.7500.*park: region 1 is a sun"):
        run("+metric.greyness.blind=sun")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16"])
def test_images_of_any_kind_and_size_are_judged_as_rgb(run, tmp_path, mode):
    folder = drawn(tmp_path / "theirs", {"park.tif": "#808080", "empty.tif": "white", "twins.tif": "black"}, mode)
    if mode == "I;16":
        PILImage.new("I;16", (7, 5), 0x80FF).save(folder / "park.tif")
    run(f"images={folder}")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "per_image.parquet").to_pylist()
    assert table[1]["greyness"] == pytest.approx(128, abs=1) and table[2]["greyness"] == 0


def test_the_datasets_own_images_can_be_judged(run, tmp_path):
    shapes = ("dataset=shapes", "dataset.length=3", "dataset.height=32", "dataset.width=32")
    run("images=truth", *shapes)
    assert numbers(tmp_path / "out")["coverage"]["found"] == 3


def test_a_metric_of_any_class_is_asked_and_has_no_interval(run, tmp_path):
    run("metric=[count,greyness]")
    found = numbers(tmp_path / "out")["metrics"]
    assert found["count"]["value"] == 3 and found["count"]["interval"] is None and found["count"]["coverage"] == 1
    assert list(found) == ["count", "greyness", "greyness/red"]


def test_several_images_of_a_layout_are_one_draw_of_the_bootstrap(run, tmp_path):
    run("images_per_layout=3")
    assert numbers(tmp_path / "out")["metrics"]["greyness"]["n"] == 6
    table = pyarrow.parquet.read_table(tmp_path / "out" / "per_image.parquet").to_pylist()
    assert [(x["key"], x["image"]) for x in table] == [(k, i) for k in ("empty", "park", "twins") for i in range(3)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("images=/no/such/folder", "images must be a folder or 'truth', got '/no/such/folder'"),
        ("require_coverage=1.5", "require_coverage must be in"),
        ("rounds=-1", "rounds must be"),
        ("objective=beauty", "objective must be one of greyness, greyness/red, got 'beauty'"),
        ("images_per_layout=0", "images_per_layout must be"),
        ("limit=0", "limit must be"),
    ],
)
def test_what_cannot_be_is_said(run, override, said):
    with pytest.raises(ValueError) as error:
        run(override)
    assert said in str(error.value)


def test_two_files_of_one_name_are_not_chosen_between(run, tmp_path):
    folder = drawn(tmp_path / "theirs", ALL)
    drawn(folder / "sub", {"twins.png": "red"})
    with pytest.raises(ValueError, match="twins: 2 files have its name"):
        run(f"images={folder}")


def test_a_folder_with_none_of_the_images_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="none of 3 images is there: empty: "):
        run(f"images={drawn(tmp_path / 'theirs', {'other.png': 'red'})}")


@pytest.mark.slow
def test_two_processes_find_the_numbers_of_one(run, settings, tmp_path):
    of_squares = ("dataset=squares", "dataset.length=70")
    run(*of_squares)
    done = command(*settings, *of_squares, f"output_dir={tmp_path / 'two'}", processes=2)
    assert done.returncode == 0, done.stderr
    for name in ("metrics.json", "per_object.parquet", "per_image.parquet"):
        one, two = ((tmp_path / x / name).read_bytes() for x in ("out", "two"))
        assert one == two if name != "metrics.json" else json.loads(one)["metrics"] == json.loads(two)["metrics"]
    assert done.stdout.count("95 % interval") == 1


@pytest.mark.slow
def test_a_sweep_ends_with_one_table_of_its_runs(settings, tmp_path):
    sweep = ("layout_model.grain=0.1,0.5", "seed=0,1", f"output_dir={tmp_path / 'sweep'}")
    done = command("-m", *settings, *sweep)
    assert done.returncode == 0, done.stderr
    assert all(f"leaderboard.{x}" in done.stdout for x in ("md", "csv", "html"))
    rows = list(csv.DictReader((tmp_path / "sweep" / "leaderboard.csv").read_text().splitlines()))
    assert {(x["layout_model.grain"], x["seed"]) for x in rows} == {(a, b) for a in ("0.1", "0.5") for b in "01"}
    folders = sorted(x.name for x in (tmp_path / "sweep").iterdir() if (x / "metrics.json").exists())
    assert len(folders) == 4 and folders[0].startswith("layout_model.grain=0.1,seed=0-")
    log = (tmp_path / "log").read_text()
    assert command("-m", *settings, *sweep).returncode == 0 and (tmp_path / "log").read_text() == log


@pytest.mark.slow
def test_optuna_searches_for_the_settings_that_make_a_number_best(settings, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.direction=maximize")
    space = ("layout_model.grain=interval(0.0,0.5)", "hydra.sweeper.sampler.seed=0")
    done = command("-m", *settings, *search, *space, "objective=greyness", f"output_dir={tmp_path / 'search'}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "search" / "leaderboard.csv").read_text().splitlines()))
    assert len(rows) == 3
    results = (tmp_path / "search" / ".jobs" / "optimization_results.yaml").read_text()
    found = OmegaConf.create(results)
    values = {float(x["layout_model.grain"]): float(x["greyness.value"]) for x in rows}
    assert found.best_value == pytest.approx(max(values.values()))
    assert values[found.best_params["layout_model.grain"]] == found.best_value


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(run, settings, tmp_path):
    of_squares = ("dataset=squares", "dataset.length=80")
    killed = command(*settings, *of_squares, f"output_dir={tmp_path / 'out'}", KILL_AFTER="70")
    assert killed.returncode == -9 and not (tmp_path / "out" / "metrics.json").exists()
    assert len((tmp_path / "log").read_text().splitlines()) == 71
    run(*of_squares)
    # 64 are kept, in two files of 32
    again = (tmp_path / "log").read_text().splitlines()[71:]
    assert again == [f"square-{i}" for i in range(64, 80)]
    run(*of_squares, f"output_dir={tmp_path / 'whole'}")
    for name in ("per_object.parquet", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_sweep_may_refer_to_what_only_its_runs_know(monkeypatch):
    monkeypatch.setenv("SCENEWRIGHT_SWEEP", "")  # so that it is as before in the end
    given = ["checkpoint=${hydra:runtime.choices.layout_model}", "limit=8"]
    Leaderboard().on_multirun_start(OmegaConf.create({"hydra": {"overrides": {"task": given}}}))
    assert json.loads(os.environ["SCENEWRIGHT_SWEEP"]) == given
