"""Putting runs into one table, from the command line."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def sweep(tmp_path) -> Path:
    """A folder of two runs and of one that broke off."""
    for i in range(2):
        entry = {"value": 0.5 + i / 4, "interval": [0.4, 0.9], "higher_is_better": True, "fingerprint": {"revision": i}}
        numbers = {"m": {**entry, "fingerprint": {}}, "crop_clip": entry}
        folder = tmp_path / "sweep" / f"seed={i}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"metrics": numbers, "settings": {"seed": i}}))
    (tmp_path / "sweep" / "seed=2").mkdir()
    return tmp_path / "sweep"


def test_what_cannot_be_compared_is_refused_in_words_and_shown_on_request(command, sweep, tmp_path):
    arguments = [f"runs={sweep}", f"output_dir={tmp_path / 'out'}"]
    done = command("leaderboard", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: crop_clip of seed=0 and of seed=1 cannot be compared: revision is 0 and 1" in done.stderr
    assert not (tmp_path / "out").exists()
    done = command("leaderboard", *arguments, "allow_unequal=true", "by=m")
    assert done.returncode == 0, done.stderr
    names = [f"leaderboard.{x}" for x in ("md", "csv", "html")]
    assert done.stdout.split() == [str(tmp_path / "out" / x) for x in names]
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == sorted(names)
    assert f"left out, no metrics.json: {sweep / 'seed=2'}" in done.stderr
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "ranked by m" in text and text.index("| 1 | 1 |") < text.index("| 2 | 0 |")


def test_a_folder_without_a_run_is_refused_by_name(command, sweep, tmp_path):
    done = command("leaderboard", f"runs=['{sweep}/seed=0','{sweep}/seed=2']", f"output_dir={tmp_path / 'out'}")
    assert done.returncode == 2 and f"error: {sweep}/seed=2 has no metrics.json" in done.stderr


def test_help_names_every_field(command, config):
    done = command("leaderboard", "--help")
    assert done.returncode == 0 and "== Fields ==" in done.stdout
    for name in config("leaderboard", "runs=x", "output_dir=y"):
        assert f"\n{name} " in done.stdout, name
