"""Verifying and repairing from the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scenewright.datasets.shards import verify
from scenewright.entrypoints.annotating import Annotating
from scenewright.entrypoints.repairing import check_targets, repair

ROOT = Path(__file__).parents[2]


def command(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f"entrypoints/{program}.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def shards(config, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    drawn = ["dataset=shapes", "dataset.length=8", "dataset.height=48", "dataset.width=48", "samples_per_shard=3"]
    drawn += ["~annotator/tagger", "~annotator/detector", "~annotator/segmenter"]
    Annotating(config("annotate", *drawn, f"output_dir={tmp_path / 'shards'}")).write()
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
    [({}, []), ({"a": [{"_target_": "scenewright.x.Y"}]}, ["scenewright"]), ({"_target_": "acme.X"}, ["acme"])],
)
def test_vouched_for_classes_are_let_through(recorded, packages):
    check_targets(recorded, packages)


def test_verify_says_and_exits_with_what_it_found(shards):
    done = command("shards", "verify", f"shards={shards}")
    assert done.returncode == 0 and done.stdout == f"{shards} is whole\n"
    shutil.copy(shards / "00000.tar", shards / "00001.tar")
    done = command("shards", "verify", f"shards={shards}")
    assert done.returncode == 1 and "00001.tar" in done.stdout and "1 faults in" in done.stdout


def test_stats_and_a_wrong_word(shards, tmp_path):
    done = command("shards", "stats", f"shards={shards}")
    assert done.returncode == 0 and "images                 8" in done.stdout
    done = command("shards", "destroy", f"shards={shards}")
    assert done.returncode == 2 and "must be verify, repair or stats, got 'destroy'" in done.stderr
    done = command("shards", "verify", f"shards={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and done.stderr.startswith("error: no folder")


def test_the_report_command_writes_a_page(shards):
    done = command("report", f"shards={shards}")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    assert page == shards / "report.html" and "shapes-train-00000000" in page.read_text()
