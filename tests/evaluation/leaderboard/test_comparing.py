"""Numbers that were measured in different ways are refused, and what differs is named."""

from dataclasses import replace

import pytest

from scenewright.evaluation.leaderboard import write_leaderboard
from scenewright.evaluation.leaderboard.comparing import _FREE, differences


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, {}),
        ({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1.0}, {}),
        ({"a": float("nan")}, {"a": float("nan")}, {}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, {"a.b.c": (1, 2)}),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, {"a[1].b": (2, 3)}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": ([1, 2], [1])}),
        ({"a": {"b": 1}}, {"a": None}, {"a": ({"b": 1}, None)}),
        ({"x": 1, "a": True}, {"x": 2, "a": "true"}, {"a": (True, "true"), "x": (1, 2)}),
    ],
)
def test_every_differing_field_is_found_with_both_values(first, second, expected):
    assert differences(first, second) == expected


@pytest.mark.parametrize("name", _FREE)
def test_what_changes_no_number_may_differ_at_any_depth(name):
    assert differences({name: 1, "a": [{name: 1}]}, {"a": [{name: 2}]}) == {}


def test_a_field_that_one_lacks_differs_even_from_the_word_for_it(runs, entry, tmp_path):
    two = runs({"m": entry(0.5, fingerprint={"a": "absent"})}, {"m": entry(0.5, fingerprint={})})
    with pytest.raises(ValueError, match='a is "absent" and absent'):
        write_leaderboard(two, tmp_path)


def test_unequal_numbers_are_refused_with_metric_runs_and_every_field(runs, entry, tmp_path):
    fingerprints = [
        {"network": {"revision": "aaa", "resize": "bicubic"}, "batch_size": 8, "layouts": "x"},
        {"network": {"revision": "aaa", "resize": "bicubic"}, "batch_size": 2, "layouts": "x"},
        {"network": {"revision": "bbb", "resize": "bilinear"}, "layouts": "x", "split": "test"},
    ]
    every = runs(*({"m": entry(0.5), "fid": entry(9.0, fingerprint=x)} for x in fingerprints))
    with pytest.raises(ValueError) as error:
        write_leaderboard(every, tmp_path / "out")
    assert str(error.value).splitlines()[0] == (
        "fid of run-0 and of run-2 cannot be compared: "
        'network.resize is "bicubic" and "bilinear"; network.revision is "aaa" and "bbb"; split is absent and "test"'
    )
    assert not (tmp_path / "out").exists()
    assert write_leaderboard(every[:2], tmp_path / "out")


def test_every_unequal_number_is_named_at_once(runs, entry, tmp_path):
    two = runs(*({name: entry(1.0, fingerprint={"v": i}) for name in "ab"} for i in range(2)))
    with pytest.raises(ValueError, match=r"(?s)a of run-0 and.*v is 0 and 1.*b of run-0 and.*allow_unequal=true"):
        write_leaderboard(two, tmp_path)


def test_numbers_that_disagree_on_which_way_is_better_are_unequal(runs, entry, tmp_path):
    two = runs({"m": entry(1.0)}, {"m": entry(2.0, higher_is_better=False)})
    with pytest.raises(ValueError, match="higher_is_better is true and false"):
        write_leaderboard(two, tmp_path)


def test_unequal_numbers_can_be_shown_unranked_with_what_differs(runs, entry, tmp_path):
    two = runs(*({"a": entry(0.25 + i, fingerprint={"v": i}), "m": entry(0.5 + i / 4)} for i in range(2)))
    text = write_leaderboard(two, tmp_path, allow_unequal=True)[0].read_text()
    lines = [x for x in text.splitlines() if x.startswith("| ")]
    assert "ranked by m" in text  # the first that can be compared
    assert lines[2:] == [
        "| 1 | model 1 | 1.25 (1.17-1.33) | **0.75 (0.67-0.83)** | run-1 |",
        "| 2 | model 0 | 0.25 (0.17-0.33) | 0.50 (0.42-0.58) | run-0 |",
    ]
    assert "Not ranked: a of run-0 and of run-1 cannot be compared: v is 0 and 1" in text
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count("<figure") == 1 and "Not ranked: a of run-0" in page


def test_a_ranking_by_unequal_numbers_is_none(runs, entry, tmp_path):
    two = runs(*({"a": entry(0.25 + i, fingerprint={"v": i}), "m": entry(0.5 + i / 4)} for i in range(2)))
    text = write_leaderboard(two, tmp_path, by="a", allow_unequal=True)[0].read_text()
    assert "in no order" in text and text.index("| – | model 0") < text.index("| – | model 1")


def test_a_run_without_the_number_does_not_stand_in_the_way(runs, entry, tmp_path):
    every = runs({"m": entry(0.5)}, {"k": entry(0.5, fingerprint={"v": 2})}, {"m": entry(0.6)})
    assert write_leaderboard(every, tmp_path)
    every[2] = replace(every[2], metrics={"m": entry(0.6, fingerprint={"version": 2})})
    with pytest.raises(ValueError, match="m of run-0 and of run-2 .* version is 1 and 2"):
        write_leaderboard(every, tmp_path)
