"""GLIGEN's table, read as its loader does."""

import base64
import json

import numpy as np
import pytest
import torch

from scenewright.datasets.formats.gligen import GLIGEN


class Lengths:
    """A vector that tells its text's length."""

    def embed(self, texts):
        return torch.stack([torch.full((768,), float(len(text))) for text in texts])


def rows(folder):
    """Lines by their offsets, counted in characters."""
    offsets = [int(x) for x in (folder / "train.lineidx").read_text().split()]
    with open(folder / "train.tsv") as file:
        for offset in offsets:
            file.seek(offset)
            number, record = (x.strip() for x in file.readline().split("\t"))
            yield int(number), json.loads(record)


@pytest.mark.parametrize("text", ["label", "caption"])
def test_a_line_has_what_the_loader_asks_for(text, samples, tmp_path):
    told = GLIGEN(Lengths(), text).write(samples, tmp_path)
    found, expected = list(rows(tmp_path)), [x for x in samples if len(x.layout)]
    assert told["lines"] == len(found) == len(expected)
    for i, ((number, record), sample) in enumerate(zip(found, expected, strict=True)):
        assert number == record["data_id"] == i and record["caption"] == sample.caption and record["is_det"] == 0
        assert base64.b64decode(record["image"]) == sample.source.data
        texts = sample.layout.captions if text == "caption" and sample.layout.captions else sample.layout.labels
        for region, words in zip(record["annos"], texts, strict=True):
            before = np.frombuffer(base64.b64decode(region["text_embedding_before"]), dtype="float32")
            assert before.shape == (768,) and (before == len(words)).all()
            for name in ("image_embedding_before", "image_embedding_after"):
                assert np.frombuffer(base64.b64decode(region[name]), dtype="float32").shape == (768,)
        height, width = sample.image.shape[1:]
        boxes = torch.tensor([x["bbox"] for x in record["annos"]])
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(boxes, sample.layout.pixel_boxes(height, width), atol=1e-4, rtol=0)


def test_without_a_caption_the_loader_makes_one_of_the_labels(sample, tmp_path):
    from dataclasses import replace

    GLIGEN().write([replace(sample("a", ["full"]), caption="")], tmp_path)
    ((_, record),) = rows(tmp_path)
    assert record["is_det"] == 1 and record["annos"][0]["category_name"] == "dog"
    assert record["annos"][0]["text_embedding_before"] == ""


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="text must be label or caption"):
        GLIGEN(text="tags")
