"""The leaderboard ranks, marks what is not whole, and says the same in Markdown, CSV and HTML."""

import csv
import html
import re
from dataclasses import replace

import pytest

from scenewright.evaluation.leaderboard import write_leaderboard


def rows_of(path) -> list[list[str]]:
    """Cells of the first table of a Markdown file, the heading first."""
    lines = re.split(r"\n\n", path.read_text().partition("| rank")[2])[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in ["rank" + lines[0], *lines[2:]]]
    return [[x.strip() for x in row if x.strip() or row.index(x)] for row in cells]


def column(path, name: str) -> list[str]:
    head, *rows = rows_of(path)
    return [row[head.index(name)] for row in rows]


def test_no_run_and_an_unknown_number_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="there is no run to rank"):
        write_leaderboard([], tmp_path)
    with pytest.raises(ValueError, match="by must be one of m, got 'fid'"):
        write_leaderboard(runs(0.5), tmp_path, by="fid")


def test_runs_are_ranked_by_the_first_number_and_those_without_come_last(runs, tmp_path):
    path = write_leaderboard(runs(0.25, None, 0.5, 0.25, 0.15), tmp_path)[0]
    assert column(path, "rank") == ["1", "2", "2", "4", "–"]
    assert column(path, "run") == ["run-2", "run-0", "run-3", "run-4", "run-1"]
    assert column(path, "m ↑") == [
        "**0.50 (0.42-0.58)**",
        "0.25 (0.17-0.33)",
        "0.25 (0.17-0.33)",
        "0.15 (0.07-0.23)",
        "–",
    ]


def test_another_number_can_rank_and_lower_may_be_better(runs, entry, tmp_path):
    every = runs(*({"m": entry(0.5), "fid": entry(x, higher_is_better=False)} for x in (30.0, 10.0, 20.0)))
    path = write_leaderboard(every, tmp_path, by="fid")[0]
    assert column(path, "run") == ["run-1", "run-2", "run-0"] and "ranked by fid (lower is better)" in path.read_text()
    assert [x.startswith("**") for x in column(path, "fid ↓")] == [True, False, False]
    assert not any("*" in x for x in column(path, "m ↑"))  # all are equal, so none is best


def test_columns_are_the_settings_that_differ(runs, tmp_path):
    settings = [{"model": "tiny", "scale": 3, "steps": 20}, {"model": "tiny", "scale": 1.5, "steps": 20, "ema": None}]
    path = write_leaderboard(runs(0.5, 0.6, settings=settings), tmp_path)[0]
    assert rows_of(path)[0] == ["rank", "scale", "m ↑", "run"]
    assert column(path, "scale") == ["1.5", "3"]
    page = (tmp_path / "leaderboard.html").read_text()
    assert "<dt>steps</dt><dd>20</dd>" in page and "3 settings" in page


def test_runs_that_differ_in_nothing_are_told_apart_by_their_folders(runs, tmp_path):
    path = write_leaderboard(runs(0.5, 0.6, settings=[{}, {}]), tmp_path)[0]
    assert rows_of(path)[0] == ["rank", "run", "m ↑"] and column(path, "run") == ["run-1", "run-0"]


def test_csv_has_every_number_in_full(runs, entry, tmp_path):
    every = runs({"m": entry(1 / 3, n=7, coverage=0.875)}, {"m/AP50": entry(None)})
    every[0] = replace(every[0], coverage=0.9)
    with open(write_leaderboard(every, tmp_path)[1], newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["rank"], first["run"], first["model"], first["coverage"]) == ("1", "run-0", "model 0", "0.9")
    assert float(first["m.value"]) == 1 / 3 and float(first["m.low"]) == 1 / 3 - 0.08
    assert (first["m.n"], first["m.coverage"]) == ("7", "0.875")
    assert (second["rank"], second["m.value"], second["m/AP50.value"], second["m/AP50.low"]) == ("", "", "", "")


def test_a_run_that_is_not_covered_as_a_whole_is_marked(runs, entry, tmp_path):
    every = runs({"m": entry(0.5, coverage=0.99996)}, 0.6, 0.7)
    every[2] = replace(every[2], coverage=0.5)
    path = write_leaderboard(every, tmp_path)[0]
    assert column(path, "rank") == ["1 †", "2", "3 †"]
    assert column(path, "m ↑")[2] == "0.50 (0.42-0.58) † 99.9 %"  # not rounded up
    assert "† run-2: not everything was scored: images 50 %" in path.read_text()
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count('title="not everything was scored"') == 2 and "† 99.9 %" in page


def test_runs_that_differ_in_their_seeds_get_means(runs, tmp_path):
    settings = [{"model": model, "seed": seed} for model in "ab" for seed in (0, 1, 2)]
    path = write_leaderboard(runs(0.1, 0.2, 0.3, 0.5, None, 0.7, settings=settings), tmp_path)[0]
    second = path.read_text().partition("## Over seeds")[2]
    assert [x for x in second.splitlines() if x.startswith("|")] == [
        "| model | seeds | m ↑ |",
        "| --- | --- | --- |",
        "| b | 3 | 0.60 ± 0.14 (of 2) |",
        "| a | 3 | 0.20 ± 0.10 |",
    ]
    assert 'id="seeds"' in (tmp_path / "leaderboard.html").read_text()


def test_runs_that_differ_in_more_than_seeds_get_no_means(runs, tmp_path):
    settings = [{"model": "a", "seed": 0}, {"model": "b", "seed": 1}]
    paths = write_leaderboard(runs(0.1, 0.2, settings=settings), tmp_path)
    assert not any("seeds" in x.read_text().lower().replace("--", "") for x in paths[:2])
    assert 'id="seeds"' not in paths[2].read_text()


def test_a_seed_that_ran_twice_counts_once(runs, tmp_path):
    settings = [{"seed": 0}, {"seed": 0}, {"seed": 1}]
    path = write_leaderboard(runs(0.2, 0.4, 0.5, settings=settings), tmp_path)[0]
    assert "| 2 | 0.40 ± 0.14 |" in path.read_text()


def test_negative_intervals_are_not_written_as_a_row_of_hyphens(runs, entry, tmp_path):
    path = write_leaderboard(runs({"m": entry(-0.5)}), tmp_path)[0]
    assert column(path, "m ↑") == ["-0.50 (-0.58 to -0.42)"]


def test_cells_of_markdown_stay_cells(runs, tmp_path):
    path = write_leaderboard(runs(0.5, 0.6, settings=[{"a|b": "x|y\n`z`"}, {"a|b": "*<b>*"}]), tmp_path, title="a|b")[0]
    assert {len(row) for row in rows_of(path)} == {4}
    assert column(path, r"a\|b") == [r"\*\<b>\*", r"x\|y \`z\`"]


def test_nothing_in_a_run_can_become_markup(runs, entry, tmp_path):
    evil = """<script>alert('x')</script><img src=x onerror="alert(1)">&amp;'"-->]]>{{ 7 * 7 }}$\\frac$"""
    settings = [{f"key {evil}": f"value {evil}", "same": evil}, {f"key {evil}": 2, "same": evil}]
    numbers = [{f"m {evil}": entry(0.5), "k": entry(1.0, fingerprint={evil: i})} for i in range(2)]
    every = [replace(x, name=f"{x.name} {evil}", coverage=0.5) for x in runs(*numbers, settings=settings)]
    page = write_leaderboard(every, tmp_path, title=evil, allow_unequal=True)[2].read_text()
    assert "<script" not in page and "<img" not in page and 'onerror="' not in page
    assert "{{ 7 * 7 }}" in page and html.unescape(page.replace("<wbr>", "")).count(evil) >= 8


def test_every_comparable_number_has_a_panel_with_a_dot_per_run(runs, entry, tmp_path):
    every = runs(*({"m": entry(x), "k": entry(None)} for x in (0.5, 0.6, 0.7)))
    page = write_leaderboard(every, tmp_path)[2].read_text()
    assert page.count('<svg class="plot') == 1
    assert [page.count(f">model {i}</text>") for i in range(3)] == [1, 1, 1]


def test_long_names_in_a_panel_are_cut_and_still_told_apart(runs, tmp_path):
    settings = [{"checkpoint": f"a/very/long/path/to/a/checkpoint-{i}"} for i in range(2)]
    page = write_leaderboard(runs(0.5, 0.6, settings=settings), tmp_path)[2].read_text()
    assert ">1  a/very/long/path/to/a/c…</text>" in page and ">2  a/very/long/path/to/a/c…</text>" in page


def test_equal_runs_give_equal_bytes(runs, tmp_path):
    first, again = (
        [x.read_bytes() for x in write_leaderboard(runs(0.5, 0.25, 0.75), tmp_path / name)] for name in "ab"
    )
    assert first == again


@pytest.fixture
def of_many_runs(runs, entry, tmp_path):
    numbers = [{f"a_metric_with_a_long_name/part_{k}": entry(i / 60 + k) for k in range(4)} for i in range(30)]
    settings = [{"layout_model": f"model_{i}", "checkpoint": "runs/" + "long" * 30, "seed": i} for i in range(30)]
    return write_leaderboard(runs(*numbers, settings=settings), tmp_path)[2]


def test_a_page_of_many_runs_opens_and_nothing_sticks_out(page, of_many_runs):
    for width in (1440, 390):
        run = page(of_many_runs, width)
        assert run("return document.documentElement.scrollWidth") <= width
        heights = run("return [...document.querySelectorAll('#runs tbody tr')].map(x => x.offsetHeight)")
        assert len(heights) == 30 and max(heights) < 80
        assert run("return [...document.querySelectorAll('svg.plot')].filter(x => x.clientWidth > 200).length") == 4


def test_a_number_of_which_neither_way_is_better_is_shown_and_ranks_nothing(runs, entry, tmp_path):
    spreads = [entry(x, higher_is_better=None) for x in (0.1, 0.3)]
    every = runs(*({"kid/std": x, "kid": entry(0.5 - i / 10, higher_is_better=False)} for i, x in enumerate(spreads)))
    path = write_leaderboard(every, tmp_path)[0]
    assert rows_of(path)[0] == ["rank", "model", "kid/std", "kid ↓", "run"]
    assert column(path, "run") == ["run-1", "run-0"] and not any("*" in x for x in column(path, "kid/std"))
    with pytest.raises(ValueError, match="neither more nor less of kid/std is better"):
        write_leaderboard(every, tmp_path, by="kid/std")
