"""Parquet for Hugging Face datasets."""

import sys

import datasets
import pytest
import torch
from pyarrow.parquet import read_table

from scenewright.datasets.formats.huggingface import HuggingFace
from scenewright.layout import RunLengths


def load(folder, tmp_path):
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")


def test_datasets_loads_the_folder_without_network(samples, tmp_path):
    """Boxes to 1e-6 of the image; all else exactly, images byte by byte."""
    told = HuggingFace(rows_per_file=3, rows_per_group=2).write(samples, tmp_path)
    assert told["files"] == 3 == len(list((tmp_path / "data").glob("train-0000*.parquet")))
    rows = load(tmp_path, tmp_path)
    raw = rows.cast_column("image", datasets.Image(decode=False))
    assert len(rows) == len(samples)
    for sample, row, stored in zip(samples, rows, raw, strict=True):
        layout, (height, width) = sample.layout, sample.image.shape[1:]
        assert (row["key"], row["caption"], row["tags"]) == (sample.key, sample.caption, sample.tags)
        assert row["image"].size == (width, height) == (row["width"], row["height"])
        assert stored["image"]["bytes"] == sample.source.data
        assert [x["label"] for x in row["objects"]] == layout.labels
        boxes = torch.tensor([x["bbox"] for x in row["objects"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(boxes, layout.pixel_boxes(height, width), atol=1e-4, rtol=0)
        assert [x["caption"] for x in row["objects"]] == (layout.captions or [None] * len(layout))
        assert [x["score"] for x in row["objects"]] == (
            [None] * len(layout) if layout.scores is None else layout.scores.tolist()
        )
        masks = [x["segmentation"] for x in row["objects"]]
        if layout.masks:
            assert [RunLengths(tuple(x["size"]), x["counts"].encode()) for x in masks] == layout.masks
        else:
            assert all(x is None or x["counts"] is None for x in masks)


def test_without_images_there_is_no_column(samples, tmp_path):
    HuggingFace(images="none").write(samples, tmp_path)
    assert "image" not in load(tmp_path, tmp_path).column_names


def test_no_samples_are_a_file_without_rows(tmp_path):
    assert HuggingFace().write([], tmp_path)["files"] == 0
    table = read_table(tmp_path / "data/train-00000.parquet")
    assert table.num_rows == 0 and "objects" in table.column_names


def test_what_is_missing_is_said(sample, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="this format needs datasets; pip install datasets"):
        HuggingFace().write([sample("a")], tmp_path)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="images must be copy or none"):
        HuggingFace(images="link")
