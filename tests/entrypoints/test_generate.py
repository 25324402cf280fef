"""The command as users run it, with a model that takes no time."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image as PILImage
from safetensors.torch import save_file
from tqdm import tqdm

from scenewright.datasets.layout_file import LayoutFile
from scenewright.entrypoints.drawing_run import DrawingRun

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

PARK = {
    **{"key": "park", "caption": "A park", "height": 40, "width": 64},
    **{"boxes": [[0.1, 0.2, 0.5, 0.9], [0.6, -0.1, 1.2, 0.4]], "labels": ["dog", "sun"]},
}
DEMO = [PARK, {"boxes": [], "labels": [], "caption": "nothing"}, {"boxes": [[0, 0, 1, 1]], "labels": ["all"]}]


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    """Accelerate remembers its settings for the whole process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.syspath_prepend(str(HERE))
    AcceleratorState._reset_state(True)


@pytest.fixture
def layouts(tmp_path) -> Path:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(DEMO))
    return path


@pytest.fixture
def run(config, capsys, tmp_path, layouts) -> Callable[..., tuple[str, str]]:
    """``run(*overrides)`` is the command in this process; it returns what was printed."""

    def drawn(*overrides: str) -> tuple[str, str]:
        search = f"hydra.searchpath=[file://{HERE / 'conf'}]"
        known = (search, "layout_model=painter", f"layouts={layouts}", f"output_dir={tmp_path / 'out'}")
        drawing = DrawingRun(config("generate", *known, *overrides))
        drawing.draw()
        drawing.conclude()
        return capsys.readouterr()

    return drawn


def images(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in sorted(folder.glob("*.png")) if not x.name.startswith("contact")}


def size(path: Path) -> tuple[int, int]:
    with PILImage.open(path) as opened:
        return opened.size


def test_each_layout_gets_an_image_an_overlay_and_a_line_and_all_a_contact_sheet(run, tmp_path):
    out, folder = run("images_per_layout=2"), tmp_path / "out"
    assert out.out == f"6 images in {folder} · {folder / 'contact_sheet.png'}\n"
    assert "park: boxes clipped to the canvas: 1 of 2" in out.err
    names = [
        f"{key}-{i}{part}.png" for key in ("demo-1", "demo-2", "park") for i in (0, 1) for part in ("", "-overlay")
    ]
    assert sorted(images(folder)) == sorted(names)
    assert size(folder / "park-0.png") == (64, 40) and size(folder / "demo-1-0.png") == (48, 32)
    assert size(folder / "park-0-overlay.png")[0] == 512 and size(folder / "contact_sheet.png")[0] > 512
    lines = [json.loads(x) for x in (folder / "images.jsonl").read_text().splitlines()]
    assert [x["file"] for x in lines] == [f"{key}-{i}.png" for key in ("park", "demo-1", "demo-2") for i in (0, 1)]
    assert lines[0]["caption"] == "A park" and (lines[0]["height"], lines[0]["width"]) == (40, 64)
    assert lines[0]["layout"]["boxes"] == [[0.1, 0.2, 0.5, 0.9], [0.6, 0.0, 1.0, 0.4]]
    assert lines[0]["layout"]["labels"] == ["dog", "sun"] and lines[0]["warnings"]
    assert len({x["seed"] for x in lines}) == 6
    assert not list(folder.glob(".*"))


def test_a_demo_of_instancediffusion_is_drawn_as_it_is_and_its_points_are_in_the_line(run, tmp_path, layouts):
    annos = [
        {"bbox": [0, 0, 32, 40], "category_name": "dog", "caption": "a dog", "mask": [], "point": [16, 20]},
        {"bbox": [32, 0, 32, 40], "caption": "a cat", "mask": [], "scribble": [32, 0, 64, 40]},
    ]
    layouts.write_text(json.dumps({"caption": "a park", "width": 64, "height": 40, "annos": annos}))
    run()
    assert size(tmp_path / "out" / "demo-0.png") == (64, 40)
    known = json.loads((tmp_path / "out" / "images.jsonl").read_text())["layout"]
    assert known["labels"] == ["dog", "a cat"] and known["captions"] == ["a dog", "a cat"]
    assert known["points"] == [[0.25, 0.5], None] and known["scribbles"] == [[], [[0.5, 0.0], [1.0, 1.0]]]
    (tmp_path / "again.json").write_text(json.dumps(known))
    (again,) = LayoutFile(str(tmp_path / "again.json"))
    assert again.layout.points is not None and again.layout.points[0].tolist() == [0.25, 0.5]


def test_an_image_depends_on_its_seed_and_layout_alone(run, tmp_path):
    run("images_per_layout=2", "batch_size=1")
    run("images_per_layout=3", "batch_size=4", f"output_dir={tmp_path / 'more'}")
    run("limit=1", f"output_dir={tmp_path / 'one'}")
    run("seed=1", f"output_dir={tmp_path / 'other'}")
    found = images(tmp_path / "out")
    assert found.items() <= images(tmp_path / "more").items()
    assert images(tmp_path / "one") == {x: found[x] for x in ("park-0.png", "park-0-overlay.png")}
    assert images(tmp_path / "other")["park-0.png"] != found["park-0.png"] != found["park-1.png"]


def test_images_that_are_there_are_not_made_again(run, tmp_path):
    run("images_per_layout=2")
    folder, found = tmp_path / "out", images(tmp_path / "out")
    (folder / "park-0.png").unlink()
    (folder / "demo-1-1-overlay.png").unlink()
    (folder / ".demo-2-0.png.1.tmp").write_bytes(b"half")
    stays = {x: (folder / x).stat().st_mtime_ns for x in ("park-1.png", "demo-1-1.png", "demo-2-0.png")}
    run("images_per_layout=2")
    assert images(folder) == found and not list(folder.glob(".*"))
    assert {x: (folder / x).stat().st_mtime_ns for x in stays} == stays


def test_a_process_that_shows_no_progress_goes_on_too(run, tmp_path, monkeypatch):
    run("limit=1")
    before = images(tmp_path / "out")
    monkeypatch.setattr("scenewright.entrypoints.drawing_run.progress_bar", lambda *_, **__: tqdm(disable=True))
    run()
    assert before.items() < images(tmp_path / "out").items()


def test_so_many_images_in_all_are_shared_evenly(run, tmp_path):
    run("images_in_all=5")
    names = [x for x in images(tmp_path / "out") if "overlay" not in x]
    assert len(names) == 5 and "park-1.png" in names and "park-2.png" not in names
    run("images_in_all=7")
    assert len([x for x in images(tmp_path / "out") if "overlay" not in x]) == 7
    run("images_in_all=2", f"output_dir={tmp_path / 'few'}")
    assert len(list((tmp_path / "few").glob("*-overlay.png"))) == 2


def test_nothing_is_built_where_nothing_is_missing(run):
    run("height=32", "width=32")
    run("height=32", "width=32", "contact_sheet=0")
    with pytest.raises(Exception, match="unexpected keyword argument"):
        run("height=32", "width=32", "overwrite=true", "+layout_model.wrong=1")


def test_other_settings_are_refused_unless_all_is_drawn_anew(run, tmp_path):
    run()
    found = images(tmp_path / "out")
    for change in ("seed=1", "height=64 width=64".split(), "checkpoint=demo.safetensors"):
        with pytest.raises(ValueError, match="was begun with other settings: .* overwrite=true"):
            run(*([change] if isinstance(change, str) else change))
    assert images(tmp_path / "out") == found
    run("seed=1", "overwrite=true")
    assert images(tmp_path / "out")["park-0.png"] != found["park-0.png"]
    run("seed=1")


def test_drawing_all_anew_leaves_no_old_image_among_the_new(run, tmp_path, monkeypatch):
    run()
    found = images(tmp_path / "out")
    monkeypatch.setattr("scenewright.entrypoints.drawing_run.png", lambda _: 1 / 0)  # killed before the first image
    with pytest.raises(ZeroDivisionError):
        run("seed=1", "overwrite=true")
    monkeypatch.undo()
    run("seed=1", "batch_size=1")
    again = images(tmp_path / "out")
    assert again.keys() == found.keys() and all(again[x] != found[x] for x in found if "overlay" not in x)


def test_other_weights_under_the_same_name_are_refused(run, tmp_path):
    weights = tmp_path / "w.safetensors"
    for inside in (1.0, 0.5):
        save_file({"inside": torch.full((3,), inside), "around": torch.zeros(3)}, weights)
        os.utime(weights, (inside, inside))
        if inside == 1:
            run(f"checkpoint={weights}")
    with pytest.raises(ValueError, match="begun with other settings: files.* overwrite=true"):
        run(f"checkpoint={weights}")


def test_a_model_that_learnt_nothing_is_not_drawn_with(run, tmp_path):
    with pytest.raises(ValueError, match=r"Painter has not learnt to draw layouts: give checkpoint=RUN"):
        run("+layout_model.untrained=true")
    assert not (tmp_path / "out").exists()


def test_sizes_are_as_asked_else_the_canvas_else_the_models(run, tmp_path):
    run("height=24", "width=80")
    assert {size(tmp_path / "out" / f"{x}-0.png") for x in ("park", "demo-1")} == {(80, 24)}
    run("dataset=squares", "limit=2", f"output_dir={tmp_path / 'squares'}")
    assert {size(x) for x in (tmp_path / "squares").glob("*-0.png")} == {(48, 32)}


def test_a_model_draws_with_the_weights_of_a_checkpoint(run, tmp_path):
    run("limit=1", "layout_model.grain=0")
    save_file({"inside": torch.tensor([1.0, 0, 0]), "around": torch.tensor([0, 0, 1.0])}, tmp_path / "w.safetensors")
    run("limit=1", f"checkpoint={tmp_path / 'w.safetensors'}", f"output_dir={tmp_path / 'red'}", "layout_model.grain=0")
    with PILImage.open(tmp_path / "red" / "park-0.png") as image:
        assert image.getpixel((20, 20)) == (255, 0, 0) and image.getpixel((1, 1)) == (0, 0, 255)
    with PILImage.open(tmp_path / "out" / "park-0.png") as image:
        assert image.getpixel((20, 20)) == image.getpixel((1, 1)) == (128, 128, 128)


def test_weights_that_a_checkpoint_takes_the_place_of_need_not_be_there(run, tmp_path):
    save_file({"inside": torch.ones(3), "around": torch.zeros(3)}, tmp_path / "w.safetensors")
    missing = f"+layout_model.weights={tmp_path / 'published.pth'}"
    with pytest.raises(Exception, match=r"published\.pth"):
        run("limit=1", missing)
    run("limit=1", missing, f"output_dir={tmp_path / 'drawn'}", f"checkpoint={tmp_path / 'w.safetensors'}")
    assert (tmp_path / "drawn" / "park-0.png").exists()


def test_no_layouts_are_nothing_to_draw(run, layouts, tmp_path):
    layouts.write_text("[]")
    assert run().out == "there are no layouts: nothing to draw\n" and not (tmp_path / "out").exists()


def test_300_objects_are_drawn_and_listed(run, layouts, tmp_path):
    boxes = [[i / 400, (i % 7) / 10, i / 400 + 0.1, (i % 7) / 10 + 0.2] for i in range(300)]
    layouts.write_text(json.dumps({"boxes": boxes, "labels": ["word " * 500] * 300}))
    run("height=64", "width=64")
    assert size(tmp_path / "out" / "demo-0-overlay.png")[1] > 2000
    assert len(json.loads((tmp_path / "out" / "images.jsonl").read_text())["layout"]["boxes"]) == 300


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["height=64"], "height and width must be given together, got 64 and None"),
        (["height=0", "width=8"], "height must be a whole number, at least 1, or null, got 0"),
        (["height=60", "width=60"], "height and width must be multiples of 8, got 60 and 60"),
        (["batch_size=0"], "batch_size must be a whole number, at least 1, got 0"),
        (["images_per_layout=0"], "images_per_layout must be a whole number, at least 1, got 0"),
        (["limit=0"], "limit must be a whole number, at least 1, or null, got 0"),
        (["checkpoint=nowhere"], "nowhere does not exist"),
        (["layouts=nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(run, tmp_path, overrides, message):
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        run(*overrides)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_refused_with_what_differs(run, tmp_path):
    save_file({"inside": torch.zeros(4), "outside": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError) as error:
        run(f"checkpoint={tmp_path / 'w.safetensors'}")
    assert all(x in str(error.value) for x in ("w.safetensors", "around", "outside", "inside (4,) instead of (3,)"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_draw_what_one_does(run, tmp_path, layouts):
    run("images_per_layout=2")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("entrypoints/generate.py", "--config-dir", str(HERE / "conf"), "layout_model=painter"),
            *(f"layouts={layouts}", f"output_dir={tmp_path / 'two'}", "images_per_layout=2"),
        ],
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 images in") == 1 and images(tmp_path / "two") == images(tmp_path / "out")
    assert (tmp_path / "two" / "images.jsonl").read_text() == (tmp_path / "out" / "images.jsonl").read_text()


def test_what_a_user_got_wrong_is_said_in_one_line(command, tmp_path, layouts):
    layouts.write_text(json.dumps({"boxes": [[0, 0, 1, 1]], "labels": []}))
    painter = ("--config-dir", str(HERE / "conf"), "layout_model=painter")
    done = command("generate", *painter, f"layouts={layouts}", f"output_dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr == f"error: {layouts}: labels must be one entry per box (1), got 0\n"
