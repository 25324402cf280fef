"""Lines over object count, overlap and the like: what they pool, where they stand, and when there are none."""

import re
from dataclasses import replace

import pytest

from scenewright.evaluation.leaderboard import write_leaderboard
from scenewright.evaluation.leaderboard.curves import COLOURS, curves, read_line
from scenewright.evaluation.tables import parquet
from scenewright.evaluation.trends import TRAITS, Points, binned, points, ranges_of

COUNT = next(x for x in TRAITS if x.column == "count")


def scored(folder, score):
    """The tables of a run on 20 layouts of one to four regions; ``score`` of a region's count."""
    folder.mkdir()
    images = [{"key": f"{i}", "image": 0, "m": None} for i in range(20)]
    objects = [
        {"key": x["key"], "image": 0, "object": j, "area": 0.1, "overlap": 0.0, "words": 3, "count": n, "m": score(n)}
        for i, x in enumerate(images)
        for n in [i % 4 + 1]
        for j in range(n)
    ]
    (folder / "per_image.parquet").write_bytes(parquet(images))
    (folder / "per_object.parquet").write_bytes(parquet(objects))
    return folder


def test_a_line_pools_the_seeds_of_a_run_and_their_layouts_stay_one(tmp_path):
    folders = [scored(tmp_path / "a", lambda n: n / 4), scored(tmp_path / "b", lambda n: 0.5 + n / 4)]
    line = read_line("both", folders)
    assert line is not None
    found: Points = points("m", line.images, line.objects)
    assert len(found.scores) == 2 * 50 and len(set(found.owners.tolist())) == 20
    bins = binned(found, COUNT)
    assert [(x.low, round(x.mean, 6), x.count) for x in bins] == [(n, n / 4 + 0.25, 2 * 5 * n) for n in (1, 2, 3, 4)]


def test_lines_share_their_bins_and_a_line_without_scores_in_one_has_a_gap(tmp_path):
    found = [points("m", x.images, x.objects) for x in [read_line("", [scored(tmp_path / "a", lambda n: n)])] if x]
    ranges = ranges_of(found[0].values["count"], COUNT)
    some = replace(found[0], values={**found[0].values, "count": found[0].values["count"] * 0 + 3})
    assert [x.low for x in binned(some, COUNT, ranges)] == [3]


def test_only_what_varies_is_drawn_and_only_beside_another(tmp_path):
    one = read_line("a", [scored(tmp_path / "a", lambda n: 0.1 * n)])
    other = read_line("b", [scored(tmp_path / "b", lambda n: 0.2 * n)])
    assert one is not None and other is not None
    ((trait, svg),) = curves(0, "m", [one, other])
    assert trait == COUNT and all(svg.count(x) for x in COLOURS[:2]) and not svg.count(COLOURS[2])
    assert curves(0, "m", [one, replace(other, objects=[], images=[])]) == []
    assert curves(0, "unknown", [one, other]) == []


@pytest.mark.parametrize("count", [2, len(COLOURS) + 2])
def test_the_page_has_a_line_for_each_of_the_first_runs(runs, tmp_path, count):
    every = [
        replace(x, folder=scored(tmp_path / f"{i}", lambda n, i=i: n / 4 - i / 100))
        for i, x in enumerate(runs(*(0.9 - i / 100 for i in range(count))))
    ]
    page = write_leaderboard(every, tmp_path)[2].read_text()
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page, re.DOTALL)
    assert legend is not None
    assert re.findall(r"<bdi>(.*?)</bdi>", legend[1]) == [f"model {i}" for i in range(min(count, len(COLOURS)))]
    assert "by object count" in page and "by caption length" not in page


def test_runs_of_which_no_tables_are_left_have_no_curves(runs, tmp_path):
    every = [replace(x, folder=tmp_path) for x in runs(0.5, 0.6)]
    assert "By what was asked for" not in write_leaderboard(every, tmp_path)[2].read_text()
