"""The published generators' files."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image as PILImage

from scenewright.datasets.formats.embeddings import from_base64
from scenewright.datasets.formats.label_files import LabelFiles, truncated_score
from scenewright.datasets.formats.pixels import truncated
from scenewright.layout import EncodedImage, Layout, RunLengths, Sample


class Constants:
    """Gives each text the vector that begins with what the fixture shows of it."""

    def __init__(self, beginnings: dict[str, str]) -> None:
        self.beginnings, self.asked = beginnings, []

    def embed(self, texts):
        self.asked += texts
        vectors = torch.zeros(len(texts), 768)
        for vector, text in zip(vectors, texts, strict=True):
            vector[:3] = from_base64(self.beginnings[text])
        return vectors


def shortened(record):
    for region in record["annos"]:
        for name in ("text_embedding_before", "blip_clip_embeddings"):
            if region[name]:
                region[name] = f"{region[name][:16]}...({len(region[name])})"
    return record


@pytest.mark.golden
def test_a_file_is_the_published_generators(golden, tmp_path):
    about, tensors = golden("codecs/legacy_record")
    expected = about["record"]
    masks = RunLengths.encode(torch.stack([tensors[f"mask_{i}"].bool() for i in range(len(about["labels"]))]))
    height, width = masks[0].size
    names = [label.rsplit("(", 1)[0] for label in about["labels"]]
    described = about["instance_caption"]
    layout = Layout(
        boxes=tensors["boxes"] / torch.tensor([width, height, width, height]),
        labels=names,
        captions=[described] * len(names),
        scores=torch.tensor([float(label.rsplit("(", 1)[1][:-1]) for label in about["labels"]]),
        masks=masks,
    )
    beginnings = {}
    for region in expected["annos"]:
        beginnings[region["category_name"]] = region["text_embedding_before"][:16]
        if region["caption"]:
            beginnings[region["caption"]] = region["blip_clip_embeddings"][:16]
    embedder = Constants(beginnings)
    image = EncodedImage.from_image(torch.zeros(3, height, width, dtype=torch.uint8), expected["file_name"])
    LabelFiles(embedder).write([Sample("k", image, expected["caption"], layout=layout)], tmp_path)
    name = f"label_{Path(expected['file_name']).name.partition('.')[0]}.json"
    path = tmp_path / "train-data" / name
    record = shortened(json.loads(path.read_text()))
    assert record == expected and sorted(embedder.asked) == sorted(about["texts_that_were_embedded"])
    assert [list(record), list(record["annos"][0])] == about["key_order"]
    assert (tmp_path / "train.txt").read_text() == f"train-data/{name}\n"
    assert path.read_text().startswith('{"caption": "')


@pytest.mark.golden
def test_boxes_are_truncated_as_published(golden):
    _, tensors = golden("codecs/boxes")
    found = truncated(tensors["xyxy"].double().numpy())
    assert found.tolist() == tensors["xywh"].tolist()
    assert (found[:, 2] * found[:, 3]).tolist() == tensors["area"].tolist()


@pytest.mark.golden
def test_scores_are_truncated_as_published(golden):
    about, tensors = golden("codecs/detector_text")
    assert [truncated_score(x) for x in tensors["scores"].double().tolist()] == about["stored_scores"]


@pytest.mark.parametrize(("score", "expected"), [(0.4379, 0.43), (0.3, 0.3), (1.0, 1.0), (1e-7, 0.0), (0.0, 0.0)])
def test_a_score_keeps_two_decimals(score, expected):
    assert truncated_score(score) == expected


def sample_of(boxes, size=(100, 200), **fields) -> Sample:
    height, width = size
    layout = Layout(
        torch.tensor(boxes).reshape(-1, 4) / torch.tensor([width, height, width, height]),
        [f"label {i}" for i in range(len(boxes))],
        **fields,
    )
    source = EncodedImage.from_image(torch.zeros(3, *size, dtype=torch.uint8), "photos/x.y.png")
    return Sample("k", source, "all", layout=layout)


@pytest.mark.parametrize("size", [(100, 200), (427, 640), (1080, 1920), (768, 1023)])
def test_boxes_that_stand_for_whole_pixels_are_these_pixels(size):
    boxes = [
        [float(i % (size[1] - 1)), float(i % (size[0] - 1)), float(size[1]), float(size[0])] for i in range(0, 2000, 7)
    ]
    for box, region in zip(boxes, LabelFiles().record(sample_of(boxes, size))["annos"], strict=True):
        assert region["bbox"] == [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])]


def test_a_caption_needs_1024_square_pixels():
    one = sample_of([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 31.9, 33.9]], captions=["a", "b"])
    assert [x["caption"] for x in LabelFiles().record(one)["annos"]] == ["a", ""]
    assert [x["caption"] for x in LabelFiles(small_caption="label").record(one)["annos"]] == ["a", "label 1"]
    assert [x["caption"] for x in LabelFiles(small_caption="keep").record(one)["annos"]] == ["a", "b"]


@pytest.mark.parametrize("number", [0, 1, 35])
def test_any_number_of_regions_is_written(number, sample, tmp_path):
    LabelFiles(write_empty=True).write([sample("a", ["blob"] * number)], tmp_path)
    record = json.loads((tmp_path / "train-data/label_a.json").read_text())
    assert [x["mask_value"] for x in record["annos"]] == list(range(1, number + 1))


@pytest.mark.parametrize(
    ("name", "files", "indented"),
    [
        ("instancediffusion", ["train-data/label_a.json"], False),
        ("rich_context", ["batch_0/label_a.json"], True),
        ("blip2", ["batch_0/label_a.json", "batch_0/label_none.json"], True),
        ("rccoco", ["labels/label_a.json", "labels/label_none.json"], True),
    ],
)
def test_each_recipe_has_its_form(name, files, indented, sample, config, tmp_path):
    overrides = ["format.embedder=null"] if name == "instancediffusion" else []
    kind = instantiate(config("export", f"format={name}", "shards=x", "output=y", *overrides).format, _convert_="all")
    kind.write([sample("a", ["pixel", "full"], (60, 80)), sample("none", [])], tmp_path)
    assert (tmp_path / "train.txt").read_text().split() == files
    text = (tmp_path / files[0]).read_text()
    record = json.loads(text)
    assert text.startswith('{\n    "caption"') == indented and ("image" in record) == (name == "instancediffusion")
    assert record["dataset_name"] == ("rich-context-coco" if name == "rccoco" else "ss-sim-0.3-aesthetic-5")
    pixel, full = record["annos"]
    assert (full["mask"] is None) == (name in ("blip2", "rccoco"))
    assert full["bbox"] == ([0, 0, 768, 576] if name == "rccoco" else [0, 0, 80, 60])
    assert (full["pred_score"] == 1.0) == (name == "rccoco")
    assert pixel["caption"] == ("" if name == "instancediffusion" else pixel["category_name"])
    assert full["text_embedding_before"] == full["blip_clip_embeddings"] == ""


def test_an_image_inside_is_a_jpeg_of_the_picture(sample, tmp_path):
    record = LabelFiles(embed_image=True).record(sample("a", ["full"], kind="PNG"))
    with PILImage.open(io.BytesIO(base64.b64decode(record["image"]))) as image:
        assert (image.format, image.size) == ("JPEG", (56, 40))
        assert image.layer[0][1:3] == (2, 2)  # 4:2:0
    assert list(record).index("image") == 3


def test_a_border_is_counted_when_asked():
    padded = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    padded[:, 10:30] = 0
    source = EncodedImage(EncodedImage.from_image(padded).data, "png", "x.png", (0, 10, 0, 10))
    mask = torch.zeros(1, 20, 40, dtype=torch.bool)
    mask[0, 5:10, 4:8] = True
    layout = Layout(torch.tensor([[0.1, 0.25, 0.2, 0.5]]), ["dog"], masks=RunLengths.encode(mask))
    one = Sample("k", source, layout=layout)
    (cut,), (whole,) = (LabelFiles(restore_border=x).record(one)["annos"] for x in (False, True))
    assert (cut["bbox"], whole["bbox"]) == ([4, 5, 4, 5], [4, 15, 4, 5])
    restored = RunLengths((40, 40), whole["mask"]["counts"].encode())
    assert whole["mask"]["size"] == [40, 40] and torch.equal(restored.decode()[10:30], mask[0]) and restored.area == 20


def test_two_images_of_one_stem_need_their_keys(sample, tmp_path):
    some = [
        replace(sample(x, ["full"]), source=EncodedImage(sample(x).source.data, "jpg", f"{x}/same.jpg")) for x in "ab"
    ]
    with pytest.raises(ValueError, match="two images would both be label_same.json; say format.name=key"):
        LabelFiles().write(some, tmp_path)
    LabelFiles(name="key", folder="other").write(some, tmp_path)
    assert sorted(x.name for x in (tmp_path / "other").iterdir()) == ["label_a.json", "label_b.json"]


def test_folders_hold_so_many_files(sample, tmp_path):
    some = (sample(f"k{i}", ["full"], (4, 4)) for i in range(5))
    LabelFiles(folder="batch_{batch}", files_per_folder=2).write(some, tmp_path)
    assert [len(list((tmp_path / f"batch_{i}").iterdir())) for i in range(3)] == [2, 2, 1]


@pytest.mark.parametrize("settings", [{"name": "id"}, {"scores": "rounded"}, {"small_caption": "none"}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be one of"):
        LabelFiles(**settings)
