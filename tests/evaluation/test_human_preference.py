"""Human preference: votes are read with care, and what they add up to is what anyone would count by hand."""

import csv
import math
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from scenewright.checkpoints import checkpoints_of
from scenewright.evaluation.human_preference import HumanPreference
from scenewright.evaluation.human_preference.correlation import NUMBERS, correlations
from scenewright.evaluation.human_preference.judges import judges, together
from scenewright.evaluation.human_preference.table import as_csv, as_markdown, write_table
from scenewright.evaluation.human_preference.votes import COLUMNS, Place, Vote, comparisons, read_votes, win_shares
from scenewright.evaluation.scoring import pack, unpack
from scenewright.layout import Layout, Sample

HEAD = ",".join(COLUMNS)


def vote(key: str, choice: str, runs: str = "ab", judge: str = "ann", image: int = 0, seconds: float = 1.0) -> Vote:
    return Vote(Place(key, image), runs[0], runs[1], choice, judge, seconds)


def saved(path: Path, votes: list[Vote]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([*x.place, x.run_a, x.run_b, x.choice, x.judge, x.seconds] for x in votes)
    return path


def study(runs: str = "ab", layouts: int = 30, seed: int = 0) -> tuple[list[Vote], dict[str, dict[Place, float]]]:
    """Votes of three judges who see a quality that the second value has by run, with noise of their own."""
    generator = random.Random(seed)
    places = [Place(f"layout {i}", 0) for i in range(layouts)]
    quality = {run: {place: generator.gauss(i, 2) for place in places} for i, run in enumerate(runs)}
    votes = []
    for place in places:
        for judge in ("ann", "bob", "eve"):
            for a, b in combinations(runs, 2):
                difference = quality[a][place] - quality[b][place] + generator.gauss(0, 1)
                choice = "tie" if abs(difference) < 0.5 else "a" if difference > 0 else "b"
                votes.append(Vote(place, a, b, choice, judge, 2.0))
    return votes, quality


# reading


def test_a_file_is_read_as_it_was_written_whatever_a_key_holds(tmp_path):
    votes = [vote('a "key", with\nline ends', "a"), vote("ключ", "tie", judge="Ann, B."), vote("=1+1", "b", image=3)]
    assert read_votes(saved(tmp_path / "v.csv", votes)) == votes


def test_a_file_saved_by_a_spreadsheet_with_a_mark_and_empty_lines_is_read(tmp_path):
    (tmp_path / "v.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEAD}\r\n\r\nk,0,a,b,tie,ann,1\r\n\r\n".encode())
    assert read_votes(str(tmp_path / "v.csv")) == [vote("k", "tie")]


def test_several_judges_files_are_taken_together(tmp_path):
    first, second = [vote("k", "a"), vote("l", "b")], [vote("k", "b", judge="bob")]
    saved(tmp_path / "votes-ann.csv", first)
    saved(tmp_path / "votes-bob.csv", second)
    assert read_votes(str(tmp_path / "votes*.csv")) == first + second
    assert read_votes([tmp_path / "votes-bob.csv", str(tmp_path / "votes-ann.csv")]) == second + first
    assert read_votes([str(tmp_path / "*.csv"), tmp_path / "votes-bob.csv"]) == first + second


def test_a_judge_who_downloads_twice_is_counted_once_and_one_who_is_asked_twice_is_counted_twice(tmp_path):
    some = [vote("k", "a"), vote("k", "a"), vote("l", "b")]
    saved(tmp_path / "votes-ann.csv", some[:1])
    saved(tmp_path / "votes-ann (1).csv", some)
    assert sorted(map(repr, read_votes(str(tmp_path / "votes*.csv")))) == sorted(map(repr, some))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("k,0,a,b,a,ann", "there must be 7 values, got 6"),
        ("k,0,a,b,a,ann,1,2", "there must be 7 values, got 8"),
        ("k,-1,a,b,a,ann,1", "image must be a whole number, 0 or more, got '-1'"),
        ("k,1.0,a,b,a,ann,1", "image must be a whole number"),
        ("k,²,a,b,a,ann,1", "image must be a whole number"),
        ("k,0,a,b,A,ann,1", "choice must be a, b or tie, got 'A'"),
        ("k,0,a,b,,ann,1", "choice must be a, b or tie, got ''"),
        ("k,0,a,a,a,ann,1", "run_a and run_b must differ, both are 'a'"),
        ("k,0,,b,a,ann,1", "run_a must not be empty"),
        ("k,0,a,b,a,,1", "judge must not be empty"),
        ("k,0,a,b,a,ann,fast", "seconds must be a number, 0 or more, got 'fast'"),
        ("k,0,a,b,a,ann,nan", "seconds must be a number"),
        ("k,0,a,b,a,ann,inf", "seconds must be a number"),
        ('k,0,a,b,a,ann,"1', "unexpected end of data"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(tmp_path, line, why):
    path = tmp_path / "v.csv"
    path.write_text(f'{HEAD}\nk,0,a,b,a,ann,1\n"two\nlines",0,a,b,a,ann,1\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_votes(path)
    assert str(error.value).startswith(f"{path}, line 5: ") and why in str(error.value)


@pytest.mark.parametrize("head", ["", "key,image\n", HEAD.replace(",", ";") + "\n"])
def test_other_columns_are_refused(tmp_path, head):
    (tmp_path / "v.csv").write_text(head)
    with pytest.raises(ValueError, match="v.csv, line 1: the columns must be key,image,run_a"):
        read_votes(tmp_path / "v.csv")


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file of votes at .*nothing"):
        read_votes(str(tmp_path / "nothing*.csv"))
    (tmp_path / "v.csv").write_bytes(f"{HEAD}\nk\xe9,0,a,b,a,ann,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="v.csv: the file is not UTF-8"):
        read_votes(tmp_path / "v.csv")


# counting


def test_sides_do_not_matter_and_a_tie_is_half_a_win():
    votes = [vote("k", "a", "ab"), vote("k", "b", "ba", judge="bob"), vote("k", "tie", "ba", judge="eve")]
    assert [x.share for x in comparisons(votes)] == [1, 1, 0.5]
    shares = win_shares(comparisons(votes))
    assert shares["a"] == pytest.approx({Place("k", 0): 2.5 / 3})
    assert shares["b"] == pytest.approx({Place("k", 0): 0.5 / 3})


def test_a_question_asked_again_counts_once_with_the_mean_of_its_answers():
    votes = [vote("k", "a"), vote("k", "a", "ba"), vote("k", "b", judge="bob")]
    assert [x.share for x in comparisons(votes)] == [0.5, 0]
    assert win_shares(comparisons(votes))["b"] == {Place("k", 0): 0.75}


def test_the_order_of_votes_does_not_matter():
    votes, _ = study("abc")
    other = random.Random(1).sample(votes, len(votes))
    assert comparisons(votes) == comparisons(other) and win_shares(comparisons(votes)) == win_shares(comparisons(other))


# the metric


def images_of(*keys: str) -> tuple[list[torch.Tensor], list[Sample]]:
    sizes = [(3, 8 + i, 9) for i in range(len(keys))]
    return [torch.zeros(x, dtype=torch.uint8) for x in sizes], [Sample(key, layout=Layout.empty()) for key in keys]


@pytest.fixture
def voted(tmp_path) -> str:
    votes = [vote("k", "a"), vote("k", "tie", "ca"), vote("k", "b", image=1), vote("l", "a"), vote("l", "b", "ac")]
    saved(tmp_path / "votes-ann.csv", votes)
    saved(tmp_path / "votes-bob.csv", [vote("l", "a", judge="bob")])
    return str(tmp_path / "votes*.csv")


def test_an_image_gets_the_share_of_its_comparisons_that_it_won(voted):
    metric = HumanPreference(voted, "a")
    metric.update(*images_of("k", "k", "l"))
    assert [x.image["human_preference"] for x in metric.records] == pytest.approx([0.75, 0, 2 / 3])
    assert metric.compute() == pytest.approx({"human_preference": (0.75 + 0 + 2 / 3) / 3})
    assert metric.is_mean and metric.higher_is_better
    assert [x.image for x in unpack(pack(metric.records))] == [x.image for x in metric.records]
    metric.reset()
    assert metric.records == []


def test_an_image_without_votes_is_not_scored_and_says_so(voted):
    metric = HumanPreference([voted], "a")
    metric.update(*images_of("k", "k", "k", "nobody"))
    assert [x.scored for x in metric.records] == [1, 1, 0, 0] and {x.expected for x in metric.records} == {1}
    assert metric.records[2].problems == ["nobody voted on image 2 of this layout and run 'a'"]
    assert metric.compute() == pytest.approx({"human_preference": 0.375})


def test_what_an_image_gets_does_not_depend_on_the_batch(voted):
    together_, apart = HumanPreference(voted, "a"), HumanPreference(voted, "a")
    together_.update(*images_of("k", "k", "l"))
    apart.update(*images_of("l"))
    apart.update(*images_of("k", "k"))
    assert {x.key: x.image for x in together_.records} == {x.key: x.image for x in apart.records}
    together_.update([], [])
    assert len(together_.records) == 3


def test_a_run_that_nobody_judged_is_refused_with_those_that_were(voted):
    with pytest.raises(ValueError, match="no vote names the run 'z'; the runs in .* are: 'a', 'b', 'c'"):
        HumanPreference(voted, "z").update(*images_of("k"))


def test_the_votes_files_are_told_with_what_made_the_numbers(voted, tmp_path):
    names = [Path(x.name).name for x in HumanPreference(voted, "a").checkpoints]
    assert names == ["votes-ann.csv", "votes-bob.csv"] and all(
        x.is_local for x in checkpoints_of(HumanPreference(voted, "a"))
    )
    with pytest.raises(ValueError, match="no file of votes"):
        list(checkpoints_of(HumanPreference(str(tmp_path / "none.csv"), "a")))


def test_votes_are_read_on_first_use_only(tmp_path):
    metric = HumanPreference(str(tmp_path / "later.csv"), "a")
    saved(tmp_path / "later.csv", [vote("k", "a")])
    metric.update(*images_of("k"))
    assert metric.compute() == {"human_preference": 1}


# correlations


def values(found) -> dict[str, float]:
    return {name: x.value for name, x in found.numbers.items()}


def test_a_metric_that_equals_the_votes_has_tau_one_and_its_negative_minus_one():
    votes, _ = study("abc")
    shares = win_shares(comparisons(votes))
    scores = {run: {"same": x, "negative": {place: -value for place, value in x.items()}} for run, x in shares.items()}
    same, negative = correlations(votes, scores, rounds=20)
    for name in ("tau", "rho", "run_tau", "run_rho"):
        assert same.numbers[name].value == pytest.approx(1) and negative.numbers[name].value == pytest.approx(-1)
        assert same.numbers[name].low == pytest.approx(1) and negative.numbers[name].high == pytest.approx(-1)
    assert negative.numbers["agreement"].value == pytest.approx(1 - same.numbers["agreement"].value)
    (turned,) = correlations(votes, {run: {"negative": x["negative"]} for run, x in scores.items()},
                             lower_is_better=["negative"], rounds=0)  # fmt: skip
    assert values(turned) == pytest.approx(values(same))


def test_a_single_judges_votes_as_a_metric_agree_in_all_pairs():
    votes = [vote(f"layout {i}", "aab"[i % 3]) for i in range(9)]
    found = correlations(votes, {run: {"m": x} for run, x in win_shares(comparisons(votes)).items()}, rounds=50)[0]
    assert (found.compared, found.ties, found.equal, found.unscored, found.images) == (9, 0, 0, 0, 18)
    assert found.numbers["agreement"].value == found.numbers["agreement"].low == found.numbers["tau"].value == 1


def test_rank_correlations_are_scipys_of_the_images():
    votes, quality = study("ab")
    (found,) = correlations(votes, {run: {"m": x} for run, x in quality.items()}, rounds=0)
    shares, numbers = [], []
    for run in "ab":
        for place, value in quality[run].items():
            own = [x for x in votes if x.place == place]
            won = [{"a": 1, "tie": 0.5, "b": 0}[x.choice] if x.run_a == run else
                   {"a": 0, "tie": 0.5, "b": 1}[x.choice] for x in own]  # fmt: skip
            shares.append(np.mean(won))
            numbers.append(value)
    assert found.numbers["tau"].value == pytest.approx(stats.kendalltau(shares, numbers)[0])
    assert found.numbers["rho"].value == pytest.approx(stats.spearmanr(shares, numbers)[0])
    assert math.isnan(found.numbers["run_tau"].value) and math.isnan(found.numbers["tau"].low)


def test_a_case_counted_by_hand():
    votes = [
        *(vote("k", "a"), vote("k", "b", judge="bob")),  # the metric prefers a: one agrees
        *(vote("l", "a", "ba"), vote("l", "tie", judge="bob")),  # it prefers a: does not agree, and a tie
        *(vote("m", "b"), vote("m", "b", judge="bob")),  # equal
        *(vote("n", "a"), vote("o", "tie")),  # not scored, and a tie that is none of it
    ]
    a = {Place("k", 0): 3.0, Place("l", 0): 2.0, Place("m", 0): 1.0, Place("n", 0): math.nan, Place("o", 0): 0.0}
    b = {Place("k", 0): 2.0, Place("l", 0): 1.0, Place("m", 0): 1.0, Place("n", 0): 5.0}
    (found,) = correlations(votes, {"a": {"m": a}, "b": {"m": b}}, rounds=0)
    assert (found.compared, found.ties, found.equal, found.unscored, found.images) == (3, 2, 2, 1, 8)
    assert found.numbers["agreement"].value == pytest.approx(1 / 3)
    # shares and scores of a: k l m o, of b: k l m n; by hand: 12 pairs rise together, 6 fall, of 28
    shares = [0.5, 0.25, 0, 0.5, 0.5, 0.75, 1, 0]
    numbers = [3, 2, 1, 0, 2, 1, 1, 5]
    signs = [np.sign(s - t) * np.sign(x - y) for (s, x), (t, y) in combinations(zip(shares, numbers, strict=True), 2)]
    tied = [sum(x == y for x, y in combinations(some, 2)) for some in (shares, numbers)]
    assert tied == [4, 4]
    assert found.numbers["tau"].value == pytest.approx(sum(signs) / math.sqrt((28 - tied[0]) * (28 - tied[1])))


def test_runs_are_correlated_by_their_means_over_the_judged_images():
    votes, quality = study("abcd", layouts=40)
    extra = {Place("never judged", 0): 1e6}
    (found,) = correlations(votes, {run: {"m": x | extra} for run, x in quality.items()}, rounds=100)
    assert found.numbers["run_tau"].value == found.numbers["run_rho"].value == 1  # qualities differ by one each
    assert found.images == 160
    unrelated = {run: {"m": dict.fromkeys(x, float(-i))} for i, (run, x) in enumerate(quality.items())}
    (found,) = correlations(votes, unrelated, rounds=0)
    assert found.numbers["run_tau"].value == found.numbers["run_rho"].value == -1
    assert found.numbers["agreement"].value < 0.5


def test_intervals_hold_the_value_shrink_with_layouts_and_repeat():
    votes, quality = study("ab", layouts=80)
    scores = {run: {"m": x} for run, x in quality.items()}
    (many,) = correlations(votes, scores, rounds=200)
    (few,) = correlations([x for x in votes if int(x.place.key.split()[1]) < 10], scores, rounds=200)
    for name in ("agreement", "tau", "rho"):
        assert many.numbers[name].low < many.numbers[name].value < many.numbers[name].high
        width = many.numbers[name].high - many.numbers[name].low
        assert width < few.numbers[name].high - few.numbers[name].low
    again = correlations(votes, scores, rounds=200)[0].numbers
    assert all(again[x] == many.numbers[x] for x in ("agreement", "tau", "rho"))


def test_an_interval_of_agreement_is_that_of_independent_layouts():
    votes = [vote(f"layout {i}", "a" if i < 140 else "b") for i in range(200)]
    scores = {run: {"m": {x.place: value for x in votes}} for run, value in (("a", 1.0), ("b", 0.0))}
    number = correlations(votes, scores, rounds=1000)[0].numbers["agreement"]
    assert number.value == 0.7
    half = 1.96 * math.sqrt(0.7 * 0.3 / 200)
    assert (number.low, number.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.015)


def test_judges_of_one_layout_are_not_taken_for_independent():
    one = [vote(f"layout {i}", "a" if i < 14 else "b") for i in range(20)]
    nine = [vote(f"layout {i}", "a" if i < 14 else "b", judge=str(j)) for i in range(20) for j in range(9)]
    scores = {run: {"m": {x.place: value for x in one}} for run, value in (("a", 1.0), ("b", 0.0))}
    first, second = (correlations(x, scores, rounds=200)[0].numbers["agreement"] for x in (one, nine))
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_a_metric_that_says_nothing_has_no_numbers():
    votes, quality = study("abc", layouts=4)
    scores = {run: {"constant": dict.fromkeys(x, 1.0), "absent": {}} for run, x in quality.items()}
    constant, absent = correlations(votes, scores, rounds=10)
    clear = len([x for x in comparisons(votes) if x.preference])
    assert all(math.isnan(x) for found in (constant, absent) for x in values(found).values())
    assert (constant.equal, constant.compared, absent.unscored, absent.images) == (clear, 0, clear, 0)
    assert all(x.numbers.keys() == NUMBERS.keys() for x in (constant, absent))
    assert values(correlations([], scores, rounds=10)[0])["tau"] is not None


def test_a_metric_of_some_runs_only_counts_the_rest_as_unscored():
    votes, quality = study("ab", layouts=5)
    (found,) = correlations(votes, {"a": {"m": quality["a"]}, "b": {}}, rounds=0)
    assert found.compared == 0 and found.unscored == len([x for x in votes if x.choice != "tie"]) and found.images == 5


def test_unknown_runs_and_metrics_are_refused():
    votes, quality = study("ab", layouts=2)
    with pytest.raises(ValueError, match="the votes name the run 'b', which is none of 'a', 'c'"):
        correlations(votes, {"a": {}, "c": {}})
    with pytest.raises(ValueError, match="lower_is_better names 'lpips', which is none of the metrics m"):
        correlations(votes, {x: {"m": quality[x]} for x in "ab"}, lower_is_better=["lpips"])


# judges and tables


def test_a_judge_who_presses_the_same_side_always_is_seen():
    votes = [x for i in range(4) for x in (vote(f"{i}", "a", "ab"), vote(f"{i}", "a", "ba"))]
    careful = [x for i in range(4) for x in (vote(f"{i}", "a", "ab", "bob"), vote(f"{i}", "b", "ba", "bob"))]
    ann, bob = judges(votes + careful)
    assert (ann.name, ann.answers, ann.left, ann.repeated, ann.same) == ("ann", 8, 1, 4, 0)
    assert (bob.name, bob.left, bob.repeated, bob.same, bob.ties) == ("bob", 0.5, 4, 4, 0)


def test_agreement_between_judges_is_counted_over_pairs_of_them():
    votes = [
        *(vote("k", "a"), vote("k", "b", "ba", judge="bob"), vote("k", "b", judge="eve")),  # one of three pairs
        *(vote("l", "a"), vote("l", "tie", judge="bob")),
        vote("m", "a"),
    ]
    among = together(comparisons(votes))
    assert (among.agreement, among.compared, among.ties) == (pytest.approx(1 / 3), 3, 1)
    assert math.isnan(together(comparisons(votes[-1:])).agreement)


def test_the_table_has_every_metric_run_and_judge_and_its_csv_the_same_numbers(tmp_path):
    votes, quality = study("abc")
    scores = {
        run: {"bad|metric": {x: -v for x, v in own.items()}, "good": own, "none": {}} for run, own in quality.items()
    }
    found = correlations(votes, scores, rounds=20)
    text = write_table(votes, found, tmp_path / "deep" / "table.md")
    assert (tmp_path / "deep" / "table.md").read_text(encoding="utf-8") == text == as_markdown(votes, found)
    assert (tmp_path / "deep" / "table.csv").read_text(encoding="utf-8") == as_csv(found)
    rows = list(csv.DictReader((tmp_path / "deep" / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [x["metric"] for x in rows] == ["bad|metric", "good", "none"] and rows[2]["tau"] == ""
    assert float(rows[1]["tau"]) == found[1].numbers["tau"].value and int(rows[1]["compared"]) == found[1].compared
    assert "270 votes of 3 judges on 30 layouts; runs: a, b, c." in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [x.split(" ")[1] for x in lines] == [
        *("metric", "---", "good", "bad\\|metric", "none"),
        *("run", "---", "c", "b", "a"),
        *("judge", "---", "ann", "bob", "eve"),
    ]
    assert "two judges prefer the same image in " in text


def test_a_table_of_one_judge_and_two_runs_leaves_out_what_there_is_not():
    votes = [vote("k", "a"), vote("l", "a")]
    scores = {run: {"m": {x.place: value for x in votes}} for run, value in (("a", 1.0), ("b", 0.0))}
    text = as_markdown(votes, correlations(votes, scores, rounds=0))
    assert "τ-b of runs" not in text and "two judges" not in text and "| a | 1.000 [1.000, 1.000] | 2 |" in text
