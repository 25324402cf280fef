"""From run folders to a judging page, and from its votes to the table of correlations, as users run it."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image as PILImage

from scenewright.evaluation.human_preference.runs import choose_pairs, left_out, open_runs, read_pairs
from scenewright.evaluation.human_preference.votes import COLUMNS, Place

LAYOUT = {"boxes": [[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 0.3]], "labels": ["dog", "sky"], "captions": ["a dog", ""]}


def made(folder: Path, value: int, keys: str = "abcdef", each: int = 1, evaluated: bool = True, **about: Any) -> Path:
    """A run folder; ``value`` is its brightness and how good its metric says it is."""
    images = folder / "images" if evaluated else folder
    images.mkdir(parents=True)
    lines: list[str] = []
    for key in keys:
        for i in range(each):
            PILImage.new("RGB", (12, 8), (value, i, 0)).save(images / f"{key}-{i}.png")
            line = {"key": key, "file": f"{key}-{i}.png", "overlay": "", "seed": i, "caption": f"image\u2028{key}"}
            lines.append(json.dumps({**line, "height": 8, "width": 12, "layout": LAYOUT, **about}, ensure_ascii=False))
    (images / "images.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if evaluated:
        rows = [(key, i) for key in keys for i in range(each)]
        columns = {
            "key": [key for key, _ in rows],
            "image": [i for _, i in rows],
            "caption": ["text"] * len(rows),
            "regions": [2] * len(rows),
            "good": [float(value)] * len(rows),
            "distance": [float(-value)] * (len(rows) - 1) + [None],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "per_image.parquet")
        metrics = {"good": {"higher_is_better": True}, "distance": {"higher_is_better": False}}
        metrics["fid"] = {"higher_is_better": False}  # of the whole set: no column
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    return folder


def voted(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *((key, 0, a, b, choice, "ann", 1.5) for key, a, b, choice in rows)])
    return path


def test_the_page_and_then_the_table_are_made_of_run_folders(command, tmp_path):
    for i, name in enumerate("abc"):
        made(tmp_path / "runs" / name, 50 + 50 * i)
    done = command("preference", "runs=runs/*", "output=out/judge.html", "pairs=9", "repeats=0.2", where=tmp_path)
    assert (done.returncode, done.stdout) == (0, "9 pairs of 3 runs in out/judge.html\n"), done.stderr
    page = (tmp_path / "out" / "judge.html").read_text(encoding="utf-8")
    content = json.loads(page.partition('id="content">')[2].partition("</script>")[0])
    assert len(content["questions"]) == 11 and len(content["pictures"]) == 3  # equal pictures are stored once

    rows = [(x["key"], *x["runs"], "a" if x["runs"][0] > x["runs"][1] else "b") for x in content["questions"]]
    voted(tmp_path / "votes-ann.csv", rows)
    done = command(
        "preference",
        "runs=[runs/a,runs/b,runs/c]",
        "votes=votes*.csv",
        "output=out/table.md",
        "rounds=20",
        where=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert done.stdout == f"{text}\nout/table.md · out/table.csv\n"
    table = {x["metric"]: x for x in csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())}
    assert list(table) == ["good", "distance"]
    assert float(table["good"]["agreement"]) == float(table["good"]["run_tau"]) == 1
    assert float(table["distance"]["agreement"]) == 1, "metrics.json says that less is better"
    assert int(table["good"]["compared"]) == 9
    assert sorted(x.name for x in tmp_path.iterdir()) == ["out", "runs", "votes-ann.csv"]


def test_what_is_wrong_is_said_in_one_line(command, tmp_path):
    made(tmp_path / "a", 1, evaluated=False)
    made(tmp_path / "b", 2, evaluated=False)
    (tmp_path / "votes.csv").write_text("key\n")
    done = command("preference", "runs=[a,b]", "votes=votes.csv", where=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: votes.csv, line 1: the columns must be key,image,run_a")


def test_an_evaluated_run_and_a_drawn_one_are_compared(tmp_path):
    runs = open_runs([str(made(tmp_path / "a", 1)), str(made(tmp_path / "b", 2, evaluated=False))])
    (pair,) = read_pairs(choose_pairs(runs, 1))
    assert pair.runs == ("a", "b") and pair.caption == f"image\u2028{pair.place.key}"
    assert [int(x[0, 0, 0]) for x in pair.pictures] == [1, 2] and pair.pictures[0].shape == (3, 8, 12)
    assert pair.layout.labels == ["dog", "sky"] and pair.layout.captions == ["a dog", ""]
    assert torch.allclose(pair.layout.boxes, torch.tensor(LAYOUT["boxes"]))
    with pytest.raises(ValueError, match=r"b/per_image.parquet is not there; entrypoints/eval.py writes it"):
        _ = runs[1].scores


def test_images_of_one_layout_are_told_apart_by_their_order(tmp_path):
    runs = open_runs([str(made(tmp_path / name, 1, keys="kl", each=3)) for name in "ab"])
    assert list(runs[0].images) == [Place(key, i) for key in "kl" for i in range(3)] == list(runs[0].scores["good"])
    pairs = {x.place: x for x in read_pairs(choose_pairs(runs, 100))}
    assert len(pairs) == 6 and all(int(x.pictures[0][1, 0, 0]) == place.image for place, x in pairs.items())


def test_every_two_runs_get_as_many_comparisons_and_the_seed_chooses_them(tmp_path):
    runs = open_runs([str(made(tmp_path / name, 1, keys="abcdefghij")) for name in ("x", "y", "z")])
    chosen = choose_pairs(runs, 12)
    names = [f"{first.name}{second.name}" for _, first, second in chosen]
    assert {x: names.count(x) for x in names} == {"xy": 4, "xz": 4, "yz": 4}
    assert len({(place, name) for (place, _, _), name in zip(chosen, names, strict=True)}) == 12
    assert choose_pairs(runs, 6) == chosen[:6] and choose_pairs(runs, 12, seed=1) != chosen
    assert len(choose_pairs(runs, 1000)) == 30
    with pytest.raises(ValueError, match="at least 1 pair, got 0"):
        choose_pairs(runs, 0)


def test_what_only_one_run_has_is_left_out_and_counted(tmp_path):
    runs = open_runs([str(made(tmp_path / "a", 1, keys="abc")), str(made(tmp_path / "b", 1, keys="bcde"))])
    assert {place.key for place, _, _ in choose_pairs(runs, 9)} == {"b", "c"} and left_out(runs) == 3
    others = open_runs([str(tmp_path / "a"), str(made(tmp_path / "c", 1, keys="x"))])
    with pytest.raises(ValueError, match="no two of these runs have an image of the same layout"):
        choose_pairs(others, 9)


@pytest.mark.parametrize(
    "other",
    [
        {"caption": "another"},
        {"layout": {**LAYOUT, "labels": ["dog", "cat"]}},
        {"layout": {**LAYOUT, "boxes": [[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 0.31]]}},
        {"layout": {"boxes": [], "labels": [], "captions": []}},
    ],
)
def test_images_of_different_layouts_are_not_compared(tmp_path, other):
    runs = open_runs([str(made(tmp_path / "a", 1, keys="k")), str(made(tmp_path / "b", 2, keys="k", **other))])
    with pytest.raises(ValueError, match="'k' has another caption or layout in 'a' than in 'b'"):
        list(read_pairs(choose_pairs(runs, 1)))


def test_runs_are_called_by_what_tells_their_paths_apart(tmp_path):
    folders = [str(made(tmp_path / x / "eval", 1)) for x in ("one", "two")]
    assert [x.name for x in open_runs(folders)] == ["one/eval", "two/eval"]
    assert [x.name for x in open_runs(str(tmp_path / "*" / "eval"), ["x", "y"])] == ["x", "y"]
    for names in (["x"], ["x", "x"], ["x", ""]):
        with pytest.raises(ValueError, match=r"there must be one name per run \(2\), all different"):
            open_runs(folders, names)
    with pytest.raises(ValueError, match="at least two runs to compare, got 1"):
        open_runs([folders[0], folders[0]])
    with pytest.raises(ValueError, match="these runs are one and the same"):
        open_runs([folders[0], str(Path(folders[0]) / ".." / "eval")])
    with pytest.raises(ValueError, match="there is no run folder at nowhere"):
        open_runs(["nowhere", folders[0]])


def test_broken_run_folders_are_refused_with_the_file(tmp_path):
    (tmp_path / "empty").mkdir()
    runs = open_runs([str(made(tmp_path / "a", 1, evaluated=False)), str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="empty holds no images.jsonl"):
        _ = runs[1].images
    with (tmp_path / "a" / "images.jsonl").open("a") as file:
        file.write('{"key": "k"}\n')
    with pytest.raises(ValueError, match=r"a/images.jsonl, line 7 describes no image: KeyError\('file'\)"):
        _ = runs[0].images
    runs = open_runs([str(made(tmp_path / name, 1, keys="k", evaluated=False)) for name in ("b", "c")])
    (tmp_path / "c" / "k-0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="k-0.png: the file is not an image"):
        list(read_pairs(choose_pairs(runs, 1)))
    pyarrow.parquet.write_table(pyarrow.table({"key": ["k"]}), tmp_path / "b" / "per_image.parquet")
    with pytest.raises(ValueError, match="per_image.parquet has no column 'image'"):
        _ = runs[0].scores


def test_the_help_says_how_it_is_used(command):
    done = command("preference", "--help")
    assert done.returncode == 0 and "votes='votes*.csv'" in done.stdout and "lower_is_better" in done.stdout
