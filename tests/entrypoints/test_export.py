"""Exporting and importing from the command line, over real shards."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object, instantiate

from scenewright.datasets.formats.coco import COCO
from scenewright.datasets.formats.export import Correctable, Format, export, lay_over
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, verify, write_shards

ROOT = Path(__file__).parents[2]
FORMATS = sorted(path.stem for path in (ROOT / "conf" / "format").glob("*.yaml"))


@pytest.fixture
def shards(tmp_path) -> Path:
    with ShardWriter(tmp_path / "shards") as writer:
        write_shards(Shapes(length=7, height=64, width=80), writer, iter, samples_per_shard=3)
    return tmp_path / "shards"


def kind_of(config, name: str, *overrides: str):
    return instantiate(config("export", f"format={name}", "shards=x", "output=y", *overrides).format, _convert_="all")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_one_and_writes_shards(name, config, shards, tmp_path):
    without = [f"format.{x}=null" for x in ("embedder",) if name in ("gligen", "instancediffusion")]
    kind = kind_of(config, name, *without)
    assert isinstance(kind, Format) and get_object(f"{type(kind).__module__}.{type(kind).__name__}") is type(kind)
    samples = list(Shards(shards))
    counts = export(samples, kind, tmp_path / "out", about={"format": name})
    assert counts["images"] == 7 and counts["regions"] == sum(len(x.layout) for x in samples)
    noted = json.loads((tmp_path / "out" / ".export.json").read_text())
    assert noted["format"] == name and noted["counts"]["images"] == 7


def test_the_same_export_twice_is_the_same_bytes(config, shards, tmp_path):
    for name in ("coco", "yolo", "voc", "label_studio", "fiftyone", "rich_context"):
        for i in "ab":
            export(Shards(shards), kind_of(config, name), tmp_path / i / name)
        first = {x.relative_to(tmp_path / "a"): x.read_bytes() for x in (tmp_path / "a").rglob("*") if x.is_file()}
        assert first == {
            x.relative_to(tmp_path / "b"): x.read_bytes() for x in (tmp_path / "b").rglob("*") if x.is_file()
        }


def test_what_filters_dropped_and_what_failed_is_left_out(shards, tmp_path):
    from dataclasses import replace

    first, second, *_ = Shards(shards)
    some = [replace(first, rejected="too small"), replace(second, error="torn"), replace(first, key="third")]
    assert export(some, COCO(images="none"), tmp_path / "a")["images"] == 1


def test_an_export_that_fails_leaves_nothing(shards, tmp_path):
    with pytest.raises(ValueError, match="is none of the 1 given"):
        export(Shards(shards), COCO(labels=["cat"]), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("name", ["coco", "yolo", "label_studio"])
def test_an_overlay_is_shards_that_read_with_the_others_images(name, config, shards, tmp_path):
    kind = kind_of(config, name, *(["format.state=annotations"] if name == "label_studio" else []))
    assert isinstance(kind, Correctable)
    export(Shards(shards), kind, tmp_path / "out")
    source = tmp_path / "out" / ("tasks-00000.json" if name == "label_studio" else "")
    before = {x.name: x.read_bytes() for x in shards.iterdir()}
    tally = lay_over(Shards(shards), kind, str(source), tmp_path / "over", samples_per_shard=2)
    assert (tally.corrected, tally.kept) == (7, 0) and list(verify(tmp_path / "over")) == []
    assert {x.name: x.read_bytes() for x in shards.iterdir()} == before
    joined = Shards(tmp_path / "over", images=Shards(shards))
    for was, now in zip(Shards(shards), joined, strict=True):
        assert (now.key, now.caption, now.tags, now.metadata) == (was.key, was.caption, was.tags, was.metadata)
        assert now.source.data == was.source.data
        torch.testing.assert_close(now.layout.boxes, was.layout.boxes, atol=1e-6, rtol=0)
        assert (now.layout.labels, now.layout.captions) == (was.layout.labels, was.layout.captions)
        assert now.layout.masks == was.layout.masks
    # and the same again is already there
    assert lay_over(Shards(shards), kind, str(source), tmp_path / "over", samples_per_shard=2).corrected == 0


def test_an_overlay_can_be_corrected_again(shards, tmp_path):
    export(Shards(shards), COCO(images="none"), tmp_path / "out")
    path = tmp_path / "out" / "instances.json"
    lay_over(Shards(shards), COCO(), str(path), tmp_path / "over")
    data = json.loads(path.read_text())
    data["annotations"] = []
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="begun with other settings"):
        lay_over(Shards(shards), COCO(), str(path), tmp_path / "over")
    lay_over(Shards(tmp_path / "over", images=Shards(shards)), COCO(), str(path), tmp_path / "again")
    assert all(len(x.layout) == 0 for x in Shards(tmp_path / "again"))


def test_keys_that_the_shards_do_not_have_are_listed(shards, tmp_path):
    images = [{"id": i, "file_name": f"x{i}.jpg"} for i in range(9)]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(ValueError, match="9 of 9 images in .*x.json are not in .*: 'x0', 'x1', 'x2', 'x3', 'x4', …"):
        lay_over(Shards(shards), COCO(), str(tmp_path / "x.json"), tmp_path / "over")
    assert not (tmp_path / "over").exists()


@pytest.mark.parametrize(("settings", "message"), [({"missing": "drop"}, "missing must be"), ({}, "another folder")])
def test_wrong_settings_are_refused(settings, message, shards, tmp_path):
    with pytest.raises(ValueError, match=message):
        lay_over(Shards(shards), COCO(), "x.json", shards if not settings else tmp_path / "over", **settings)


def test_the_commands_work_as_documented(command, shards, tmp_path):
    done = command("export", "format=coco", f"shards={shards}", f"output={tmp_path / 'coco'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 images, ") and done.stdout.rstrip().endswith(f"regions in {tmp_path / 'coco'}")
    arguments = ["format=coco", f"source={tmp_path / 'coco'}", f"shards={shards}", f"output={tmp_path / 'over'}"]
    done = command("import_annotations", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"7 images corrected, 0 left as they were, in {tmp_path / 'over'}\n"


def test_an_error_has_a_line_of_its_own(command, shards, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    done = command("export", "format=coco", f"shards={shards}", f"output={tmp_path / 'mine'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'mine'} is not empty; choose another output"


def test_shards_without_images_name_them(config, shards, tmp_path):
    export(Shards(shards), COCO(), tmp_path / "coco")
    lay_over(Shards(shards), COCO(), str(tmp_path / "coco"), tmp_path / "over")
    with pytest.raises(ValueError, match=r"\+dataset@images="):
        export(Shards(tmp_path / "over"), kind_of(config, "yolo"), tmp_path / "yolo")
    cfg = config("export", "shards=x", "output=y", "+dataset@images=shards", f"images.directory={shards}")
    samples = Shards(tmp_path / "over", instantiate(cfg.images, _convert_="all"))
    export(samples, kind_of(config, "yolo"), tmp_path / "yolo")
    assert len(list((tmp_path / "yolo/images/train").iterdir())) == 7


def test_import_composes_with_every_format_that_reads(config):
    for name in ("coco", "yolo", "label_studio"):
        cfg = config("import_annotations", f"format={name}", "source=a", "shards=b", "output=c")
        assert isinstance(instantiate(cfg.format, _convert_="all"), Correctable)
