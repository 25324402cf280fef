"""Filters of composed scenes: what a detector finds again, and what people ranked."""

import pytest
import torch

from scenewright.annotators.filters.ranks import Ranks
from scenewright.annotators.filters.redetection import Redetection
from scenewright.layout import Layout, Sample
from scenewright.protocols import Filter

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


class Finds:
    """A detector that finds the same in every image."""

    def __init__(self, *found):
        self.found, self.asked = found, []

    def detect(self, images, tags):
        self.asked += tags
        boxes = torch.tensor([box for box, _ in self.found]).reshape(-1, 4)
        return [Layout(boxes, [label for _, label in self.found])] * len(images)


def sample(*regions, key="a"):
    boxes = torch.tensor([box for box, _ in regions]).reshape(-1, 4)
    layout = Layout(boxes, [label for _, label in regions])
    return Sample.from_image(key, torch.zeros(3, 8, 8, dtype=torch.uint8), layout=layout)


def reason(detector, *regions, **settings):
    (verdict,) = Redetection(detector, **settings).judge([sample(*regions)])
    return verdict.image


def test_an_image_is_kept_where_all_is_found_again_and_asked_for_once():
    detector = Finds((RIGHT, "Dog"), (LEFT, "dog"))
    assert reason(detector, (LEFT, "dog"), (RIGHT, "dog")) == "" and detector.asked == [["dog"]]


def test_what_is_not_found_is_named_with_the_best_overlap_there_was():
    there = (0.0, 0.0, 0.5, 0.4)
    assert reason(Finds((there, "cat")), (LEFT, "cat")) == "not found again with an IoU of 0.5: cat (0.40)"
    assert reason(Finds(), (LEFT, "cat"), (RIGHT, "dog")).endswith("cat (0.00), dog (0.00)")


def test_one_box_finds_one_region():
    assert reason(Finds((LEFT, "dog")), (LEFT, "dog"), (LEFT, "dog")).count("dog") == 1


def test_a_box_of_another_name_counts_only_if_asked_for():
    assert reason(Finds((LEFT, "wolf")), (LEFT, "dog")) and not reason(
        Finds((LEFT, "wolf")), (LEFT, "dog"), any_label=True
    )


def test_so_many_may_be_missing():
    regions = (LEFT, "cat"), (RIGHT, "dog")
    assert reason(Finds((LEFT, "cat")), *regions) and not reason(Finds((LEFT, "cat")), *regions, missing=1)


def test_an_image_without_regions_is_kept_and_nothing_is_asked():
    detector = Finds()
    verdicts = Redetection(detector).judge([sample(), sample()])
    assert [x.image for x in verdicts] == ["", ""] and not detector.asked


def test_the_mean_of_the_ranks_decides(tmp_path):
    (tmp_path / "ranks.csv").write_text("key,rank,who\na,5,x\na,4,y\nb,5,x\nb,2,y\n", encoding="utf-8-sig")
    samples = [sample(key=x) for x in "abc"]
    judge = Ranks(str(tmp_path / "ranks.csv"))
    assert isinstance(judge, Filter)
    assert [x.image for x in judge.judge(samples)] == ["", "rank 3.5 is below 4", "it has no rank"]
    kept = Ranks(str(tmp_path / "ranks.csv"), minimum=3.0, unranked="keep").judge(samples)
    assert [x.image for x in kept] == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "said"),
    [("name,rank\n", "must have the columns key and rank"), ("key,rank\na,good\n", "line 2 .* must be a number.*good")],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, text, said):
    (tmp_path / "ranks.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        Ranks(str(tmp_path / "ranks.csv")).judge([sample()])


@pytest.mark.parametrize(("kind", "settings"), [(Redetection, {"minimum": 0.0}), (Redetection, {"missing": -1})])
def test_settings_out_of_range_are_refused(kind, settings):
    with pytest.raises(ValueError, match="redetection: "):
        kind(Finds(), **settings)
