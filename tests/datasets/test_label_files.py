"""Training files of InstanceDiffusion and Rich-Context, as our exports and the published generators write them."""

import base64
import io
import json

import pytest
import torch
from PIL import Image as PILImage

from scenewright.datasets.formats.label_files import LabelFiles as Writer
from scenewright.datasets.label_files import LabelFiles
from scenewright.datasets.shapes import Shapes
from scenewright.layout import RunLengths
from scenewright.protocols import RangedDataset

SCENES = Shapes(6, 64, 96, difficulty="middle")


def jpeg(height: int = 40, width: int = 60) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (width, height), "#406080").save(file, "JPEG")
    return file.getvalue()


def anno(**known) -> dict:
    """An annotation as the generators write it, without a mask."""
    fixed = {"id": 0, "isfake": 0, "category_id": 0, "mask_value": 1, "is_stuff": 0, "is_thing": 1, "area": 100}
    texts = {"category_name": "dog", "caption": "a dog", "text_embedding_before": "", "blip_clip_embeddings": ""}
    return {**fixed, **texts, "bbox": [10, 20, 30, 10], "mask": None, "pred_score": 0.43, **known}


def written(tmp_path, *annos, image: bytes | None = None, **known):
    record = {"caption": "a park", "file_name": "a.jpg", "is_det": 0, "annos": list(annos), **known}
    if image is not None:
        record["image"] = base64.b64encode(image).decode()
    (tmp_path / "label_a.json").write_text(json.dumps(record))
    (sample,) = LabelFiles(str(tmp_path), images=str(tmp_path))
    return sample


@pytest.mark.parametrize("inside", [True, False])
def test_what_the_export_writes_is_read_back(inside, tmp_path):
    scenes = [x for x in SCENES if len(x.layout)]
    for scene in scenes:
        (tmp_path / f"{scene.key}.png").write_bytes(scene.source.data)
    writer = Writer(embed_image=inside, name="key", image_root="", small_caption="keep", scores="full")
    writer.write(scenes, tmp_path)
    if not inside:  # our samples' names have no extension
        for file in tmp_path.rglob("label_*.json"):
            record = json.loads(file.read_text())
            file.write_text(json.dumps(record | {"file_name": f"{record['file_name']}.png"}))
    dataset = LabelFiles(str(tmp_path / "train.txt"), images=str(tmp_path))
    assert isinstance(dataset, RangedDataset) and len(dataset) == len(scenes)
    for scene, found in zip(scenes, dataset, strict=True):
        assert (found.key, found.caption, found.error, found.warnings) == (scene.key, scene.caption, "", [])
        assert found.layout.labels == scene.layout.labels and found.layout.captions == scene.layout.captions
        assert found.layout.masks == scene.layout.masks and found.layout.scores.tolist() == [1.0] * len(scene.layout)
        assert (found.layout.boxes - scene.layout.boxes).abs().max() <= 1 / 64
        assert (found.image.float() - scene.image.float()).abs().mean() < (12 if inside else 1e-6)
    assert [x.key for x in dataset.read(1, 3)] == [x.key for x in scenes[1:3]]


def test_a_file_of_the_published_generators_is_read(tmp_path):
    sample = written(tmp_path, anno(), anno(caption="", category_name="cat", bbox=[0, 0, 60, 40]), image=jpeg())
    assert sample.image.shape == (3, 40, 60) and sample.metadata == {"is_det": 0}
    assert sample.layout.labels == ["dog", "cat"] and sample.layout.captions == ["a dog", "cat"]
    assert torch.allclose(sample.layout.boxes, torch.tensor([[10 / 60, 0.5, 40 / 60, 0.75], [0, 0, 1, 1]]))
    assert sample.layout.scores.tolist() == pytest.approx([0.43, 0.43]) and sample.layout.masks is None


def test_a_mask_says_the_size_and_the_image_is_not_opened(tmp_path):
    (mask,) = RunLengths.encode(torch.ones(1, 40, 60, dtype=torch.bool))
    sample = written(tmp_path, anno(mask={"size": [40, 60], "counts": mask.counts.decode()}), anno())
    assert sample.layout.masks[0] == mask and sample.layout.masks[1].area == 0  # and there is no a.jpg
    assert sample.layout.boxes[0].tolist() == pytest.approx([10 / 60, 0.5, 40 / 60, 0.75])


def test_boxes_outside_of_the_image_or_without_area_are_mended_and_counted(tmp_path):
    given = [anno(bbox=[-6, -4, 36, 24]), anno(bbox=[5, 5, 0, 9]), anno(bbox=[70, 0, 5, 5]), anno(bbox=[0, 0, 60, 40])]
    sample = written(tmp_path, *given, image=jpeg())
    assert torch.allclose(sample.layout.boxes, torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 1, 1]]))
    assert len(sample.warnings) == 3 and sample.warnings[0] == "1 boxes have no area and were dropped"


def test_boxes_of_another_scale_are_brought_to_the_images(tmp_path):
    written(tmp_path, anno(bbox=[0, 0, 384, 256]), image=jpeg())
    (sample,) = LabelFiles(str(tmp_path), longest_side=768)
    assert torch.allclose(sample.layout.boxes, torch.tensor([[0, 0, 0.5, 0.5]]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "JSONDecodeError"),
        ("[]", 'it must be a {"caption": text, "annos"'),
        ('{"annos": [], "image": "§"}', "image must be base64"),
        ('{"annos": []}', "neither image nor file_name"),
        ('{"annos": [{"bbox": [1, 2, "3", 4]}], "file_name": "x.jpg", "height": 9, "width": 9}', "TypeError"),
        ('{"annos": [], "file_name": "nowhere.jpg"}', "nowhere.jpg"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sample_with_an_error(content, said, tmp_path):
    (tmp_path / "label_bad.json").write_text(content)
    (sample,) = LabelFiles(str(tmp_path))
    assert sample.key == "bad" and "label_bad.json cannot be read" in sample.error and said in sample.error


def test_nothing_to_read_is_said(tmp_path):
    (tmp_path / "train.txt").write_text("\n")
    for path in (tmp_path, tmp_path / "train.txt"):
        with pytest.raises(ValueError, match="names no label files"):
            len(LabelFiles(str(path)))
