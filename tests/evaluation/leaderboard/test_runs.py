"""Runs are found in folders, folders of folders and patterns, and refused by name where they are none."""

import json
from pathlib import Path

import pytest

from scenewright.evaluation.leaderboard.runs import find_runs, read_runs

ENTRY = {"value": 0.5, "interval": None, "higher_is_better": True, "fingerprint": {}}


def made(folder: Path, **document) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"m": ENTRY}, **document}))
    return folder


def test_runs_come_once_in_the_order_they_are_named(tmp_path):
    b, a, deep = made(tmp_path / "s" / "b"), made(tmp_path / "s" / "a"), made(tmp_path / "s" / "x" / "deep")
    alone = made(tmp_path / "alone")
    assert find_runs([alone, tmp_path / "s", a]) == ([alone, a, b, deep], [])
    assert find_runs([f"{tmp_path}/s/[ab]", f"{tmp_path}/al*"])[0] == [a, b, alone]


def test_what_lies_in_a_run_is_no_run_and_what_lies_beside_one_is_said(tmp_path):
    run = made(tmp_path / "s" / "a")
    made(run / "images" / "old")
    made(tmp_path / "s" / ".hidden")
    (tmp_path / "s" / "broken").mkdir()
    assert find_runs([tmp_path / "s"]) == ([run], [tmp_path / "s" / "broken"])


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    run = made(tmp_path / "a[1]*")
    assert find_runs([run])[0] == [run]


@pytest.mark.parametrize("place", ["nothing", "no*thing", "file"])
def test_a_place_that_is_no_folder_is_refused_by_name(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError) as error:
        find_runs([tmp_path / place])
    assert str(error.value) == f"there is no folder {tmp_path / place}"


def test_a_folder_without_runs_is_refused_by_name(tmp_path):
    made(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for read in (find_runs, read_runs):
        with pytest.raises(ValueError, match=f"{tmp_path}/empty has no metrics.json.* entrypoints/eval.py writes it"):
            read([tmp_path / "a", tmp_path / "empty"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"metrics": {', "is not whole"),
        ("[1]", "has no metrics"),
        ('{"metrics": {"m": {"value": 1}}}', "says no higher_is_better and no fingerprint of m"),
    ],
)
def test_a_file_that_cannot_be_a_runs_is_refused_by_name(tmp_path, text, says):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        read_runs([tmp_path])
    assert str(tmp_path / "metrics.json") in str(error.value)


def test_runs_are_called_after_what_tells_their_folders_apart(tmp_path):
    folders = [made(tmp_path / x) for x in ("one/eval", "two/eval", "two/more")]
    assert [x.name for x in read_runs(folders)] == ["one/eval", "two/eval", "two/more"]
    assert [x.name for x in read_runs(folders[1:])] == ["eval", "more"]
    assert [x.name for x in read_runs(folders[:1])] == ["eval"]


def test_a_run_knows_its_settings_and_what_it_lacks(tmp_path):
    metrics = {"m": {**ENTRY, "coverage": 1.0}, "k": {**ENTRY, "coverage": 0.5}}
    coverage = {"expected": 8, "found": 6, "missing": {"a": "gone", "b": "gone"}}
    (run,) = read_runs([made(tmp_path / "r", settings={"seed": 3}, metrics=metrics, coverage=coverage)])
    assert (run.settings, run.coverage, run.lacks) == ({"seed": 3}, 0.75, [("images", 0.75), ("k", 0.5)])
    assert read_runs([made(tmp_path / "whole")])[0].lacks == []
