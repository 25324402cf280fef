import json
import math
import pickle
import tarfile
from dataclasses import replace

import fsspec
import pytest
import torch
import webdataset

from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, shard_numbers, stats, verify, write_shards
from scenewright.datasets.shards.record import decode, encode
from scenewright.layout import EncodedImage, Layout, RunLengths, Sample
from scenewright.protocols import RangedDataset


def same(samples):
    return iter(samples)


def written(folder, dataset, samples_per_shard=4, annotate=same, **options):
    with ShardWriter(folder, **options) as writer:
        write_shards(dataset, writer, annotate, samples_per_shard=samples_per_shard)
    return folder


def full_sample(key="a"):
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.7], [0.0, 1 / 3, 1.0, 1.0]])
    masks = RunLengths.encode(torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(0)) > 0.5)
    layout = Layout(boxes, ["dog", "chien «x»"], ["a big dog", "un chien"], torch.tensor([0.9, 1 / 3]), masks)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    known = dict(
        caption="two dogs\nin a row", tags=["dog"], layout=layout, metadata={"url": "http://x", "n": [1, 2.5, None]}
    )
    return Sample.from_image(key, image, **known, warnings=["mended"])


def assert_equal(a: Sample, b: Sample) -> None:
    assert (a.key, a.caption, a.tags, a.metadata, a.warnings) == (b.key, b.caption, b.tags, b.metadata, b.warnings)
    assert torch.equal(a.image, b.image) and torch.equal(a.layout.boxes, b.layout.boxes)
    assert a.layout.labels == b.layout.labels and a.layout.captions == b.layout.captions
    assert a.layout.masks == b.layout.masks and (a.layout.scores is None) == (b.layout.scores is None)
    assert a.layout.scores is None or torch.equal(a.layout.scores, b.layout.scores)


@pytest.mark.parametrize("kind", ["empty", "boxes only", "full"])
def test_a_record_round_trips_to_the_bit(kind):
    sample = full_sample()
    layout = {"empty": Layout.empty(), "boxes only": Layout(sample.layout.boxes, ["a", "b"]), "full": sample.layout}[
        kind
    ]
    sample = replace(sample, layout=layout)
    assert_equal(decode("a", encode(sample)), sample)


def test_dropped_regions_stay_in_the_record_with_their_reasons():
    whole = full_sample()
    sample = replace(
        whole,
        layout=whole.layout.keep(torch.tensor([1])),
        dropped=whole.layout.keep(torch.tensor([0])),
        reasons=["small"],
    )
    members = encode(sample)
    kept, gone = json.loads(members["json"])["instances"]
    assert "kept" not in kept and gone["kept"] is False and gone["reason"] == "small" and gone["label"] == "dog"
    back = decode("a", members)
    assert_equal(back, sample)
    assert_equal(replace(back, layout=back.dropped), replace(sample, layout=sample.dropped))
    assert back.reasons == ["small"]


def test_a_region_that_took_its_label_for_a_caption_says_so():
    sample = full_sample()
    sample = replace(sample, layout=replace(sample.layout, captions=["dog", "a cat"]))
    assert [x["caption_status"] for x in json.loads(encode(sample)["json"])["instances"]] == ["label", "ok"]


def test_a_rejected_image_is_in_the_manifest_only(tmp_path):
    samples = [full_sample("a"), replace(full_sample("b"), rejected="it is blurred")]
    with ShardWriter(tmp_path) as writer:
        writer.write(0, samples)
    manifest = json.loads((tmp_path / "00000.json").read_text())
    assert manifest["samples"] == {"a": "ok", "b": "dropped: it is blurred"} and manifest["counts"]["dropped"] == 1
    assert [s.key for s in Shards(tmp_path)] == ["a"] and list(verify(tmp_path)) == []
    assert stats(tmp_path)["reasons"] == {"dropped: it is blurred": 1}


def test_a_record_is_readable_by_eye_and_by_pycocotools():
    from pycocotools import mask

    record = json.loads(encode(full_sample())["json"])
    assert record["width"] == 12 and record["instances"][0]["box"] == [0.1, 0.2, 0.3, 0.7]
    assert mask.decode(record["instances"][0]["mask"]).shape == (8, 12)


def test_a_record_of_a_later_version_is_refused():
    members = encode(full_sample())
    members["json"] = members["json"].replace(b'"version": 2', b'"version": 99')
    with pytest.raises(ValueError, match="its version is 99, this release reads up to 2"):
        decode("a", members)


def test_a_record_that_is_none_is_named():
    with pytest.raises(ValueError, match="x.tar/a: the record cannot be read: there is no 'json'"):
        decode("a", {"jpg": b""}, name="x.tar/a")


def test_shards_give_back_what_was_written(tmp_path):
    dataset = Shapes(length=10, height=32, width=40, difficulty="easy")
    shards = Shards(written(tmp_path, dataset))
    assert isinstance(shards, RangedDataset) and len(shards) == 10
    for before, after in zip(dataset, shards, strict=True):
        assert_equal(after, before)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 10), (3, 5), (4, 8), (9, 10)])
def test_reading_from_the_middle_gives_what_iterating_gives(start, stop, tmp_path):
    shards = Shards(written(tmp_path, Shapes(length=10, height=32, width=32, difficulty="easy")))
    assert [s.key for s in shards.read(start, stop)] == [s.key for s in shards][start:stop]


def test_the_images_own_bytes_metadata_and_border_are_kept(tmp_path, picture):
    data = picture("JPEG", quality=31)
    file = EncodedImage(data, "jpg", "x/a.jpg", border=(1, 2, 3, 4))
    metadata = {"url": "http://x", "exif": {"a": [1, None]}, "ünï": 0.1}
    written(tmp_path, [Sample("a", file, caption="c", metadata=metadata)])
    (sample,) = Shards(tmp_path)
    assert sample.source.data == data and sample.metadata == metadata and sample.source.name == "x/a.jpg"
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == ["a.jpg", "a.json", "a.txt", "a.source.json"]


def test_samples_with_an_error_are_in_the_manifest_only(tmp_path):
    samples = [full_sample("a"), Sample("b", error="why"), replace(full_sample("c"), layout=Layout.empty())]
    written(tmp_path, samples)
    manifest = json.loads((tmp_path / "00000.json").read_text())
    assert manifest["samples"] == {"a": "ok", "b": "error: why", "c": "empty"}
    assert manifest["counts"] == {"ok": 1, "empty": 1, "error": 1, "dropped": 0} and manifest["warnings"] == {
        "a": 1,
        "c": 1,
    }
    assert [s.key for s in Shards(tmp_path)] == ["a", "c"]


def test_shards_of_which_every_sample_failed_read_as_none(tmp_path):
    written(tmp_path, [Sample("a", error="why")])
    assert len(Shards(tmp_path)) == 0 and list(Shards(tmp_path)) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files to the collector
def test_plain_webdataset_reads_them_safely(tmp_path, monkeypatch):
    written(tmp_path, Shapes(length=6, height=32, width=32, difficulty="easy"))
    monkeypatch.setenv("WDS_SECURE", "1")
    urls = str(tmp_path / "{00000..00001}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("torchrgb8"))
    assert [s["__key__"] for s in samples] == [s.key for s in Shards(tmp_path)]
    for mine, theirs in zip(Shards(tmp_path), samples, strict=True):
        assert theirs["txt"] == mine.caption and theirs["source.json"] == mine.metadata
        assert [x["label"] for x in theirs["json"]["instances"]] == mine.layout.labels
        assert torch.equal(theirs["png"], mine.image)


def test_huggingface_datasets_reads_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    written(tmp_path / "shards", Shapes(length=6, height=32, width=32, difficulty="easy"))
    rows = datasets.load_dataset(
        "webdataset", data_files=str(tmp_path / "shards" / "*.tar"), split="train", cache_dir=str(tmp_path / "cache")
    )
    mine = list(Shards(tmp_path / "shards"))
    assert [r["__key__"] for r in rows] == [s.key for s in mine]
    assert [r["json"]["caption"] for r in rows] == [s.caption for s in mine] and rows[0]["png"].size == (32, 32)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    written(tmp_path, Shapes(length=3, height=32, width=32, difficulty="easy"))

    def refuse(*_, **__):
        raise AssertionError("something is unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert len([s.image for s in Shards(tmp_path)]) == 3


def test_annotations_alone_are_joined_with_their_images_by_key(tmp_path, picture):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(9):
        (photos / f"{i}.jpg").write_bytes(picture(seed=i, size=(80, 60)) if i != 4 else b"")
    from scenewright.annotators.pipeline import annotate

    folder = ImageFolder(str(photos))
    written(tmp_path / "full", folder, annotate=annotate)
    written(tmp_path / "bare", folder, annotate=annotate, images="none")
    for full, bare in zip(Shards(tmp_path / "full"), Shards(tmp_path / "bare", images=folder), strict=True):
        assert_equal(full, bare)
    joined = Shards(tmp_path / "bare", images=folder)
    assert [s.key for s in joined.read(3, 6)] == ["3", "5", "6"]
    with pytest.raises(ValueError, match="'0' holds annotations only"):
        next(iter(Shards(tmp_path / "bare"))).image  # noqa: B018
    (photos / "0.jpg").unlink()
    with pytest.raises(ValueError, match="it is not the dataset these shards were made from"):
        list(Shards(tmp_path / "bare", images=ImageFolder(str(photos))))


def test_annotations_alone_are_a_fraction_of_the_bytes(tmp_path, picture):
    files = [Sample(str(i), EncodedImage(picture("BMP", size=(400, 300), seed=i), "bmp")) for i in range(3)]
    sizes = [
        (written(tmp_path / images, files, images=images) / "00000.tar").stat().st_size for images in ("copy", "none")
    ]
    assert sizes[1] < sizes[0] / 50


def test_shards_behind_a_url_are_read_too(tmp_path):
    written(tmp_path, Shapes(length=5, height=32, width=32, difficulty="easy"))
    files = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        files.pipe(f"/shards/{path.name}", path.read_bytes())
    assert [s.key for s in Shards("memory://shards")] == [s.key for s in Shards(tmp_path)]


def test_a_folder_without_whole_shards_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no whole shards in"):
            len(Shards(folder))


def test_a_shard_without_a_manifest_is_not_read(tmp_path):
    written(tmp_path, Shapes(length=8, height=32, width=32, difficulty="easy"))
    (tmp_path / "00001.json").unlink()
    assert len(Shards(tmp_path)) == 4


def test_a_tar_that_was_cut_off_is_named_before_it_is_read(tmp_path):
    written(tmp_path, Shapes(length=4, height=32, width=32, difficulty="easy"))
    data = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"00000.tar has \d+ bytes, its manifest says \d+; .* repair redoes it"):
        list(Shards(tmp_path))


@pytest.mark.parametrize("length", range(0, 51, 5))
@pytest.mark.parametrize("world_size", [1, 2, 3, 10])
def test_the_processes_shards_are_all_shards_and_disjoint(length, world_size):
    shares = [list(shard_numbers(length, 4, rank, world_size)) for rank in range(world_size)]
    assert sorted(n for share in shares for n in share) == list(range(-(-length // 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((5, 0), "samples_per_shard must be"), ((5, 1, 2, 2), r"rank must be in \[0, 2\), got 2"), ((5, 1, 0, 0), "rank")],
)
def test_shard_numbers_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        shard_numbers(*arguments)


def test_points_and_scribbles_round_trip_to_the_bit_and_are_null_and_empty_where_there_is_none():
    points = torch.tensor([[0.1, 1 / 3], [math.nan, math.nan]])
    scribbles = [torch.zeros(0, 2), torch.rand(5, 2)]
    layout = Layout(torch.rand(2, 4), ["a", "b"], points=points, scribbles=scribbles)
    sample = replace(full_sample(), layout=layout)
    members = encode(sample)
    assert json.loads(members["json"])["instances"][1]["point"] is None
    again = decode("a", members).layout
    assert torch.equal(again.points[0], points[0]) and again.points[1].isnan().all()
    assert all(torch.equal(x, y) for x, y in zip(again.scribbles, scribbles, strict=True))


def test_a_record_without_points_says_nothing_of_them():
    record = json.loads(encode(full_sample())["json"])
    assert all(not {"point", "scribble"} & x.keys() for x in record["instances"])
    layout = decode("a", encode(full_sample())).layout
    assert layout.points is None and layout.scribbles is None


def test_a_text_feature_round_trips_to_the_bit_and_is_not_there_where_there_is_none(tmp_path):
    feature = torch.randn(512, generator=torch.Generator().manual_seed(0))
    samples = [replace(full_sample("a"), text_feature=feature), full_sample("b")]
    assert ["text_feature" in json.loads(encode(x)["json"]) for x in samples] == [True, False]
    found = list(Shards(written(tmp_path, samples)))
    assert found[0].text_feature.dtype == torch.float32 and torch.equal(found[0].text_feature, feature)
    assert found[1].text_feature is None
