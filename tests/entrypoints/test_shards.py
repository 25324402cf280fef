"""Verifying and repairing from the command line."""

import json
import shutil
from pathlib import Path

import pytest

from scenewright.datasets.shards import verify
from scenewright.entrypoints.annotating import Annotating
from scenewright.entrypoints.repairing import check_targets, repair

ROOT = Path(__file__).parents[2]
SHAPES = "scenewright.datasets.shapes"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def shards(config, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    drawn = ["dataset=shapes", "dataset.length=8", "dataset.height=48", "dataset.width=48", "samples_per_shard=3"]
    drawn += ["~annotator/tagger", "~annotator/detector", "~annotator/segmenter"]
    Annotating(config("annotate", "experiment=embedded", *drawn, f"output_dir={tmp_path / 'shards'}")).write()
    return tmp_path / "shards"


@pytest.mark.parametrize("damage", ["nothing", "a flipped byte", "a missing manifest", "scraps", "a missing shard"])
def test_repair_redoes_what_is_damaged_and_only_that(damage, shards, config, capsys):
    whole = files(shards)
    before = (shards / "00000.tar").stat().st_mtime_ns
    if damage == "a flipped byte":
        data = bytearray((shards / "00001.tar").read_bytes())
        data[700] ^= 1
        (shards / "00001.tar").write_bytes(data)
    elif damage == "a missing manifest":
        (shards / "00001.json").unlink()
    elif damage == "scraps":
        (shards / ".00001.tar.elsewhere-1.tmp").touch()
    elif damage == "a missing shard":
        (shards / "00002.tar").unlink()
        (shards / "00002.json").unlink()
    repair(config("shards", "verb=repair", f"shards={shards}"))
    assert files(shards) == whole and list(verify(shards)) == []
    assert (shards / "00000.tar").stat().st_mtime_ns == before
    assert ("is whole" in capsys.readouterr().out) == (damage == "nothing")


def test_repair_runs_no_class_that_nobody_vouched_for(shards, config):
    run = json.loads((shards / "run.json").read_text())
    run["config"]["annotator"]["captioner"] = {"_target_": "os.system", "command": "true"}
    (shards / "run.json").write_text(json.dumps(run))
    (shards / "00001.json").unlink()
    with pytest.raises(ValueError, match=r"made with os.system.*trust=\[os\]"):
        repair(config("shards", "verb=repair", f"shards={shards}"))
    assert (shards / "00001.tar").exists()


@pytest.mark.parametrize(
    ("recorded", "packages"),
    [({}, []), ({"a": [{"_target_": f"{SHAPES}.Shapes"}]}, ["scenewright"]), ({"_target_": "torch.Size"}, ["torch"])],
)
def test_vouched_for_classes_are_let_through(recorded, packages):
    check_targets(recorded, packages)


@pytest.mark.parametrize("target", [f"{SHAPES}.dataset.np.zeros", "scenewright.entrypoints.repairing.repair"])
def test_neither_functions_nor_others_classes_are_reached_through_a_package_that_is_trusted(target):
    with pytest.raises(ValueError, match="which is no class of scenewright"):
        check_targets({"_target_": target}, ["scenewright"])


def test_repair_removes_nothing_when_the_source_is_not_what_it_was(tmp_path, config, monkeypatch, picture):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(picture(seed=i))
    bare = ["~annotator/tagger", "~annotator/detector", "~annotator/segmenter", "~annotator/captioner"]
    arguments = [f"dataset.directory={tmp_path / 'photos'}", f"output_dir={tmp_path / 'out'}", "samples_per_shard=2"]
    Annotating(config("annotate", "experiment=embedded", *arguments, *bare)).write()
    (tmp_path / "photos" / "new.jpg").write_bytes(picture())
    (tmp_path / "out" / "00001.tar").write_bytes(b"damaged")
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match="source.samples: was 3, is 4"):
        repair(config("shards", "verb=repair", f"shards={tmp_path / 'out'}"))
    assert files(tmp_path / "out") == before


def test_repair_leaves_whole_shards_of_another_run(shards, config, capsys):
    sheet = shards / "00001.json"
    sheet.write_text(sheet.read_text().replace('"seed": 0', '"seed": 7'))
    before = files(shards)
    repair(config("shards", "verb=repair", f"shards={shards}"))
    assert files(shards) == before and "made with other settings" in capsys.readouterr().out


def test_repair_of_whole_shards_is_one_line(shards, config, capsys):
    repair(config("shards", "verb=repair", f"shards={shards}"))
    assert capsys.readouterr().out == f"{shards} is whole\n"


def test_verify_says_and_exits_with_what_it_found(command, shards):
    done = command("shards", "verify", f"shards={shards}")
    assert done.returncode == 0 and done.stdout == f"{shards} is whole\n"
    shutil.copy(shards / "00000.tar", shards / "00001.tar")
    done = command("shards", "verify", f"shards={shards}")
    assert done.returncode == 1 and "00001.tar" in done.stdout and "1 faults in" in done.stdout


def test_stats_and_a_wrong_word(command, shards, tmp_path):
    done = command("shards", "stats", f"shards={shards}")
    assert done.returncode == 0 and "images                 8" in done.stdout
    assert "\n\n" not in done.stdout
    done = command("shards", "destroy", f"shards={shards}")
    assert done.returncode == 2 and "must be verify, repair or stats, got 'destroy'" in done.stderr
    done = command("shards", "verify", f"shards={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and done.stderr.startswith("error: no folder")


def test_the_report_command_writes_a_page(command, shards):
    done = command("report", f"shards={shards}")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    assert page == shards / "report.html" and "shapes-train-00000000" in page.read_text()


def test_the_report_shows_shards_without_images_where_it_is_told_of_them(
    command, config, shards, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    bare = ["dataset=shards", f"dataset.directory={shards}", "images=none", "~annotator/captioner"]
    bare += ["~annotator/tagger", "~annotator/detector", "~annotator/segmenter", f"output_dir={tmp_path / 'bare'}"]
    Annotating(config("annotate", "experiment=embedded", *bare)).write()
    bare_pictures = []
    for more in ([], ["+dataset@images=shards", f"images.directory={shards}"]):
        done = command("report", f"shards={tmp_path / 'bare'}", *more)
        assert done.returncode == 0, done.stderr
        bare_pictures.append((tmp_path / "bare" / "report.html").read_text().count("hold annotations only"))
    assert bare_pictures == [8, 0]
