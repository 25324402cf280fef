"""The reference systems' data recipes, from photographs to their files, with tiny random weights."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image as PILImage

from scenewright.annotators.recognition.tags import ram_tags
from scenewright.datasets.shards import Shards
from scenewright.entrypoints.annotating import Annotating

ROOT = Path(__file__).parents[2]
PROFILES = ["modern", "legacy"]
#: Overrides that make random weights find something, in a moment.
TAGGER = ["annotator.tagger.thresholds={thresholds}", "annotator.tagger.checkpoint={weights}/ram.pth"]
DETECTOR = ["annotator.detector.checkpoint={weights}/detector", "annotator.detector.box_threshold=0.0"]
DETECTOR += ["annotator.detector.max_boxes=4", "annotator.detector.nms_threshold=0.9"]
SEGMENTER = ["annotator.segmenter.checkpoint={weights}/segmenter"]
BLIP2 = ["annotator.captioner.checkpoint={weights}/captioner", "annotator.captioner.max_new_tokens=5"]
QWEN = ["annotator.captioner.checkpoint={weights}/qwen", "annotator.captioner.max_new_tokens=5"]
QWEN += ["annotator.captioner.max_pixels=4096", "annotator.captioner.min_pixels=1024"]
FOLDER = ["dataset.directory={photographs}"]
COCO = ["dataset.instances={photographs}/instances.json", "dataset.stuff={photographs}/stuff.json"]
COCO += ["dataset.captions={photographs}/captions.json", "dataset.images={photographs}"]
RECIPES = {
    "instancediffusion_data": [*FOLDER, *TAGGER, *DETECTOR, *SEGMENTER, *BLIP2],
    "rich_context_data": [*FOLDER, *TAGGER, *DETECTOR, *SEGMENTER, *QWEN],
    "blip2_data": [*FOLDER, *TAGGER, *DETECTOR, *BLIP2],
    "rccoco_data": [*COCO, *QWEN],
}


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    random_checkpoints = module("benchmarks/materials/random_checkpoints.py")
    random_checkpoints.write(folder, random_checkpoints.TINY)
    qwen = module("tests/annotators/test_qwen_vl.py")
    qwen.network("qwen3_vl").save_pretrained(folder / "qwen")
    qwen.processor("qwen3_vl").save_pretrained(folder / "qwen")
    # a tag is always there, or never: random weights are sure of nothing
    sure = {"dog", "person", "car"}
    tags = list(ram_tags())
    (folder / "thresholds.txt").write_text("".join(f"{0 if x in sure else 1}\n" for x in tags))
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Three photographs, and the tables of a small COCO."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    pictures = {"astronaut": data.astronaut(), "coffee": data.coffee(), "rocket": data.rocket()}
    images, things, stuff, captions = [], [], [], []
    for i, (name, array) in enumerate(pictures.items()):
        picture = PILImage.fromarray(array)
        picture.thumbnail((240, 240))
        picture.save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(f"a photograph: {name}")
        width, height = picture.size
        images.append({"id": i, "file_name": f"{name}.jpg", "width": width, "height": height})
        things.append({"image_id": i, "category_id": 1, "bbox": [20.5, 10, 90.2, 100], "iscrowd": 0})
        things.append({"image_id": i, "category_id": 1, "bbox": [3, 3, 12, 12], "iscrowd": 0})
        stuff.append({"image_id": i, "category_id": 92, "bbox": [0, height // 2, width, height // 2]})
        stuff.append({"image_id": i, "category_id": 183, "bbox": [0, 0, width, 60]})
        captions.append({"image_id": i, "caption": f"a photograph: {name}"})
    kinds = {"things": [{"id": 1, "name": "thing"}], "stuff": [{"id": 92, "name": "wall-other"}]}
    kinds["stuff"].append({"id": 183, "name": "other"})
    tables = {
        "instances": {"images": images, "annotations": things, "categories": kinds["things"]},
        "stuff": {"images": images, "annotations": stuff, "categories": kinds["stuff"]},
        "captions": {"images": images, "annotations": captions},
    }
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def made(config, monkeypatch, tmp_path, weights, photographs) -> Callable[[str, str], tuple[Path, list[dict]]]:
    """``made(recipe, profile)``: the shards, and the recipe's own files."""
    from hydra.utils import instantiate

    from scenewright.datasets.formats.export import export

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(recipe: str, profile: str) -> tuple[Path, list[dict]]:
        places = {"weights": weights, "photographs": photographs, "thresholds": weights / "thresholds.txt"}
        overrides = [x.format(**places) for x in RECIPES[recipe]]
        if (recipe, profile) == ("blip2_data", "legacy"):
            overrides.append("annotator.captioner.quantization=null")  # needs a GPU
        shards = tmp_path / f"shards-{profile}"
        cfg = config("annotate", f"experiment={recipe}", f"profile={profile}", f"output_dir={shards}", *overrides)
        run = Annotating(cfg)
        run.write()
        run.conclude()
        kind = config("export", f"format={recipe.removesuffix('_data')}", "shards=x", "output=y").format
        if "embedder" in kind:
            kind.embedder = None
        export(Shards(shards), instantiate(kind, _convert_="all"), tmp_path / profile)
        return shards, [json.loads(x.read_text()) for x in sorted((tmp_path / profile).rglob("label_*.json"))]

    return run


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_from_photographs_to_its_files(recipe, profile, made):
    shards, records = made(recipe, profile)
    samples = list(Shards(shards))
    assert [s.status for s in samples] == ["ok"] * 3 and len(records) == 3
    for sample, record in zip(samples, records, strict=True):
        assert record["caption"] == sample.caption == f"a photograph: {Path(sample.source.name).stem}"
        assert len(record["annos"]) == len(sample.layout) > 0
        assert [a["category_name"] for a in record["annos"]] == sample.layout.labels
        assert all((a["mask"] is None) == (recipe in ("blip2_data", "rccoco_data")) for a in record["annos"])


def test_labels_are_merged_in_the_legacy_profile_only(made):
    _, modern = made("blip2_data", "modern")
    _, legacy = made("blip2_data", "legacy")
    assert {a["category_name"] for r in modern for a in r["annos"]} <= {"dog", "person", "car"}
    assert any(len(a["category_name"].split()) > 1 for r in legacy for a in r["annos"])


def test_only_the_legacy_profile_lets_boxes_reach_outside(config):
    clipped = {
        p: config("annotate", "experiment=blip2_data", f"profile={p}", "output_dir=x").clip_boxes for p in PROFILES
    }
    assert clipped == {"modern": True, "legacy": False}


def test_coco_recipes_drop_small_regions_with_a_reason_and_leave_other_out(made):
    shards, records = made("rccoco_data", "modern")
    for sample, record in zip(Shards(shards), records, strict=True):
        assert sample.layout.labels == ["thing", "wall-other"] and sample.dropped.labels == ["thing"]
        assert "area" in sample.reasons[0] and "0.02" in sample.reasons[0]
        assert record["dataset_name"] == "rich-context-coco" and {a["pred_score"] for a in record["annos"]} == {1.0}


def test_legacy_coco_images_stand_on_a_square(made):
    shards, _ = made("rccoco_data", "legacy")
    assert {s.image.shape for s in Shards(shards)} == {(3, 768, 768)}
