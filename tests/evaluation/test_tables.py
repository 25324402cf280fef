"""The tables of a run: one row per image, one per region."""

import io
import math

import pyarrow.parquet
import pytest
import torch

from scenewright.evaluation.scoring import Record
from scenewright.evaluation.tables import full_name, image_row, object_rows, overlaps, parquet
from scenewright.layout import Layout, Sample

LAYOUT = Layout(
    torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 1.0], [0.9, 0.9, 1.0, 1.0]]),
    ["dog", "cat", "cat"],
    ["a small brown dog", "", "a cat"],
)
SAMPLE = Sample("park", caption="A park", layout=LAYOUT)
RECORDS = {"crop_clip": Record("park", {"crop_clip": [20.0, math.nan, 30.0]}), "fid": Record("park", image={"d": 1.5})}


def test_an_image_has_the_mean_of_its_regions_and_its_own_numbers():
    row = image_row(SAMPLE, 1, RECORDS)
    assert row == {
        **{"key": "park", "image": 1, "caption": "A park", "regions": 3},
        **{"crop_clip": 25.0, "fid/d": 1.5},
    }


def test_a_region_has_its_size_its_crowd_and_its_scores():
    first, second, third = object_rows(SAMPLE, 0, RECORDS)
    assert first["area"] == 0.5 and first["overlap"] == 0.5 and first["count"] == 3 and first["words"] == 4
    assert (first["crop_clip"], second["crop_clip"], third["crop_clip"]) == (20.0, None, 30.0)
    assert second["words"] == 1 and third["object"] == 2 and third["overlap"] == 0
    assert "fid/d" not in first


def test_overlap_is_what_one_other_box_covers_at_most():
    assert overlaps(LAYOUT) == [0.5, 0.5, 0.0]
    assert overlaps(Layout.empty()) == [] and overlaps(Layout.whole()) == [0.0]
    twice = Layout(torch.tensor([[0.1, 0.1, 0.2, 0.2]] * 2), ["a", "a"])
    assert overlaps(twice) == pytest.approx([1.0, 1.0])
    point = Layout(torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0]]), ["a", "b"])
    assert overlaps(point) == [0.0, 0.0]


def test_parquet_has_a_null_where_there_is_no_score_and_any_name():
    rows = [*object_rows(SAMPLE, 0, RECORDS), {"key": "broken \udcff name", "object": 0, "other": None}]
    table = pyarrow.parquet.read_table(io.BytesIO(parquet(rows)))
    assert table.num_rows == 4 and table["crop_clip"].to_pylist() == [20.0, None, 30.0, None]
    assert table["key"].to_pylist()[3].startswith("broken ") and table["other"].null_count == 4
    assert pyarrow.parquet.read_table(io.BytesIO(parquet([]))).num_rows == 0


def test_a_number_is_named_after_its_metric():
    assert full_name("detector_ap", "AP50") == "detector_ap/AP50" and full_name("fid", "fid") == "fid"
