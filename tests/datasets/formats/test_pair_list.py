"""Pairs of an image and its captions: what is written is read back."""

import json
from dataclasses import replace

import pytest
import torch

from scenewright.datasets.formats.export import export
from scenewright.datasets.formats.pair_list import PairList
from scenewright.datasets.pair_list import PairList as PairListDataset


def test_what_is_written_is_read_back(samples, tmp_path):
    some = [
        replace(x, caption=f"caption {i}", metadata={"captions": ["the first", f"caption {i}", "café"]})
        for i, x in enumerate(samples)
    ]
    some[0] = replace(some[0], caption="", metadata={}, text_feature=torch.tensor([0.25, -1.5, 3e-7]))
    counts = export(some, PairList(), tmp_path / "out")
    read = list(PairListDataset(str(tmp_path / "out" / "pairs.json")))
    assert len(read) == counts["images"] == len(some) and counts["text features"] == 1
    for before, after in zip(some, read, strict=True):
        assert after.caption == before.caption and torch.equal(after.image, before.image) and not after.warnings
        assert after.key == f"images__{before.key}"
    assert torch.equal(read[0].text_feature, some[0].text_feature) and read[0].metadata == {}
    assert read[1].metadata["captions"] == ["caption 1", "the first", "café"]
    assert counts["captions"] == 3 * (len(some) - 1)


def test_no_samples_are_an_empty_list(tmp_path):
    PairList().write([], tmp_path)
    assert json.loads((tmp_path / "pairs.json").read_text()) == []


def test_images_may_stay_where_they_are(samples, tmp_path):
    assert PairList(images="none").write(samples[:2], tmp_path)["pictures made anew"] == 0
    assert not (tmp_path / "images").exists() and len(json.loads((tmp_path / "pairs.json").read_text())) == 2
    with pytest.raises(ValueError, match="copy, link or none"):
        PairList(images="path")
