"""A folder and the settings it was begun with."""

import json
from pathlib import Path

import pytest

from scenewright.entrypoints.run_record import RunRecord, write_whole

SETTINGS = {"seed": 0, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}, "name": "é"}


def test_a_new_folder_may_be_begun_and_checking_writes_nothing(tmp_path):
    record = RunRecord(tmp_path / "new" / "run.json", SETTINGS, "")
    record.check()
    assert not (tmp_path / "new").exists()
    record.write()
    record.check()
    assert json.loads((tmp_path / "new" / "run.json").read_text())["name"] == "é"


def test_another_record_is_refused_with_each_difference_and_the_way_out(tmp_path):
    path = tmp_path / "run.json"
    RunRecord(path, SETTINGS, "").write()
    before = path.read_bytes()
    with pytest.raises(ValueError) as error:
        RunRecord(path, {"optimizer": {"lr": 0.2, "betas": (0.9, 0.99)}, "seed": 1, "name": "é"}, "go away").check()
    assert "optimizer.lr: was 0.1, is 0.2; seed: was 0, is 1; go away" in str(error.value)
    assert path.read_bytes() == before


def test_a_record_that_is_damaged_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is no JSON; choose another"):
        RunRecord(tmp_path / "run.json", {}, "choose another").check()


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_whole(path, b"old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert [x.name for x in Path(tmp_path).iterdir()] == ["a.png"] and path.read_bytes() == b"old"
