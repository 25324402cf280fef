import json
import subprocess
import sys
from datetime import date
from itertools import islice
from pathlib import Path

import pytest
import torch

from scenewright.annotators.pipeline import annotate
from scenewright.datasets.files import extension
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, verify, write_shards
from scenewright.datasets.shards import writer as writer_module
from scenewright.layout import EncodedImage, Layout, Sample
from scenewright.protocols import RangedDataset

DATASET = Shapes(length=22, height=32, width=32, difficulty="easy")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(folder, dataset=DATASET, *, rank=0, world_size=1, batch_size=4, run=None, **options):
    with ShardWriter(folder, run, **options) as writer:
        write_shards(
            dataset,
            writer,
            lambda samples: annotate(samples, batch_size=batch_size),
            samples_per_shard=5,
            rank=rank,
            world_size=world_size,
        )
    return folder


def test_shards_are_numbered_and_whole(tmp_path):
    write(tmp_path)
    names = [f"{n:05d}.{x}" for n in range(5) for x in ("json", "tar")] + ["run.json"]
    assert list(files(tmp_path)) == names and list(verify(tmp_path)) == []


def test_one_process_two_and_three_write_the_same_bytes(tmp_path):
    whole = files(write(tmp_path / "one"))
    for world_size in (2, 3):
        for rank in reversed(range(world_size)):
            write(tmp_path / str(world_size), rank=rank, world_size=world_size)
        assert files(tmp_path / str(world_size)) == whole


def test_batches_of_one_and_of_seven_write_the_same_bytes(tmp_path):
    assert files(write(tmp_path / "one", batch_size=1)) == files(write(tmp_path / "seven", batch_size=7))


def test_a_dataset_that_can_only_be_walked_through_gives_the_same_bytes(tmp_path):
    class Walked:
        def __iter__(self):
            return iter(DATASET)

    assert not isinstance(Walked(), RangedDataset)
    for rank in (0, 1):
        write(tmp_path / "walked", Walked(), rank=rank, world_size=2)
    assert files(tmp_path / "walked") == files(write(tmp_path / "ranged"))


def test_what_is_whole_is_never_redone(tmp_path):
    write(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("0*")}

    class Untouchable(Shapes):
        def read(self, start, stop):
            raise AssertionError("a whole shard was read again") if start < stop else None

    (tmp_path / "00003.json").unlink()
    with pytest.raises(AssertionError, match="read again"):
        write(tmp_path, Untouchable(length=22, height=32, width=32, difficulty="easy"))
    write(tmp_path)
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("0*")}
    assert {name for name in before if before[name] != after[name]} == {"00003.tar", "00003.json"}


def test_other_settings_are_refused_with_what_differs(tmp_path):
    run = {"config": {"annotator": {"detector": {"threshold": 0.25}}, "seed": 0}, "packages": {"torch": "1"}}
    write(tmp_path, run=run)
    write(tmp_path, run=run | {"packages": {"torch": "2"}})
    other = {"config": {"annotator": {"detector": {"threshold": 0.5}}, "seed": 0}}
    with pytest.raises(ValueError, match=r"config.annotator.detector.threshold: was 0.25, is 0.5\n.*allow_mixed=true"):
        write(tmp_path, run=other)
    write(tmp_path, run=other, allow_mixed=True)


def test_settings_may_change_as_long_as_nothing_is_done(tmp_path):
    ShardWriter(tmp_path, {"seed": 0}).close()
    ShardWriter(tmp_path, {"seed": 1}).close()
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}


def test_a_key_that_comes_twice_stops_the_program(tmp_path):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the key 'a' twice"):
        write(tmp_path, [Sample.from_image("a", image), Sample.from_image("a", image)])
    assert not list(tmp_path.glob("0*")) and not list(tmp_path.glob(".*"))


def test_a_failing_source_leaves_the_whole_shards_and_no_scraps(tmp_path):
    class Breaking(Shapes):
        def read(self, start, stop):
            for number, sample in enumerate(super().read(start, stop), start):
                if number == 12:
                    raise OSError("the disk is gone")
                yield sample

    with pytest.raises(OSError, match="the disk is gone"):
        write(tmp_path, Breaking(length=22, height=32, width=32, difficulty="easy"))
    assert {p.name for p in tmp_path.iterdir()} <= {
        "run.json",
        *(f"0000{n}.{x}" for n in (0, 1) for x in ("tar", "json")),
    }
    write(tmp_path)
    assert files(tmp_path) == files(write(tmp_path.parent / "whole"))


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    left, living = tmp_path / ".00000.tar.1.tmp", tmp_path / ".00000.tar.2.tmp"
    left.touch()
    hold = "import sys, fcntl; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, living], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        ShardWriter(tmp_path).close()
        assert not left.exists() and living.exists()
        process.communicate("\n")
    ShardWriter(tmp_path).close()
    assert not living.exists()


def test_two_writers_of_one_process_do_not_disturb_each_other(tmp_path):
    def between(samples):
        for sample in samples:
            ShardWriter(tmp_path).close()
            yield sample

    with ShardWriter(tmp_path) as writer:
        write_shards(DATASET, writer, between, samples_per_shard=5)
    assert list(verify(tmp_path)) == []


def test_a_sample_that_cannot_be_written_is_an_error_and_the_others_stay(tmp_path, monkeypatch):
    encode = writer_module.encode

    def refusing(sample, with_image):
        if sample.key == "b":
            raise RuntimeError("no words")
        return encode(sample, with_image)

    monkeypatch.setattr(writer_module, "encode", refusing)
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with ShardWriter(tmp_path) as writer:
        writer.write(0, [Sample.from_image("a", image), Sample.from_image("b", image)])
    manifest = json.loads((tmp_path / "00000.json").read_text())
    assert manifest["samples"] == {"a": "empty", "b": "error: it cannot be written: RuntimeError: no words"}
    assert [s.key for s in Shards(tmp_path)] == ["a"]


def test_a_shard_that_misses_a_sample_is_never_called_whole(tmp_path, monkeypatch):
    add, calls = writer_module._OpenShard.add, iter(range(100))

    def failing(self, *arguments):
        if next(calls) == 2:
            raise OSError("the disk stumbles")
        add(self, *arguments)

    monkeypatch.setattr(writer_module._OpenShard, "add", failing)
    with pytest.raises(OSError, match="stumbles"):
        write(tmp_path)
    assert not list(tmp_path.glob("0*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("key", ["", "a.b", "../up", "a b", "a\nb"])
def test_a_key_that_would_not_survive_a_tar_stops_the_program(key, tmp_path):
    with pytest.raises(ValueError, match="a key must have no dots, slashes or spaces"):
        write(tmp_path, [Sample.from_image(key, torch.zeros(3, 4, 4, dtype=torch.uint8))])


def test_a_dataset_that_gives_fewer_than_it_promised_stops_the_program(tmp_path):
    class Short(Shapes):
        def read(self, start, stop):
            return islice(super().read(start, stop), max(0, stop - start - 1))

    with pytest.raises(ValueError, match=r"Short.read\(0, 5\) must give 5 samples, it gave 4"):
        write(tmp_path, Short(length=22, height=32, width=32, difficulty="easy"))


def test_a_lost_record_of_the_run_is_taken_from_the_manifests(tmp_path):
    write(tmp_path, run={"seed": 0})
    whole = files(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="seed: was 0, is 1"):
        write(tmp_path, run={"seed": 1})
    assert files(tmp_path) == whole


def test_text_that_utf8_cannot_hold_is_written_all_the_same(tmp_path):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    write(tmp_path, [Sample.from_image("a", image, caption="cut \ud83d", metadata={"when": date(2026, 1, 2)})])
    (sample,) = Shards(tmp_path)
    assert sample.caption == "cut \ud83d" and sample.metadata == {"when": "2026-01-02"}


@pytest.mark.parametrize(
    ("name", "kind"), [("d.jfif", "JPEG"), ("abc", "PNG"), ("x.png?size=2", "PNG"), ("e.jp2", "JPEG2000")]
)
def test_images_with_other_extensions_come_back(name, kind, tmp_path, picture):
    data = picture(kind)
    write(tmp_path, [Sample("a", EncodedImage(data, extension(name), name))])
    (sample,) = Shards(tmp_path)
    assert sample.source.data == data and sample.image.shape == (3, 30, 40) and list(verify(tmp_path)) == []


def test_images_is_copy_or_none(tmp_path):
    with pytest.raises(ValueError, match="images must be 'copy' or 'none', got 'all'"):
        ShardWriter(tmp_path, images="all")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_and_keeps_what_was_whole(small_disk, tmp_path):
    large = Shapes(length=40, height=256, width=256)
    with pytest.raises(OSError, match="no space left on device; whole shards stay"):
        write(small_disk, large)
    done = sorted(p.name for p in small_disk.glob("*.json") if p.name != "run.json")
    assert done and not list(small_disk.glob(".*.tmp"))
    assert [f.what.split(":")[0] for f in verify(small_disk) if f.number < len(done)] == []
    assert len(Shards(small_disk)) == 5 * len(done)


def test_the_samples_pass_by_in_order(tmp_path):
    seen = []
    with ShardWriter(tmp_path) as writer:
        write_shards(DATASET, writer, annotate, samples_per_shard=5, on_sample=lambda s: seen.append(s.key))
    assert seen == [s.key for s in DATASET]


def test_warnings_and_statuses_add_up(tmp_path):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    box = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["a"])
    samples = [Sample.from_image("a", image, layout=box, warnings=["x", "y"]), Sample("b", error="z")]
    write(tmp_path, samples)
    manifest = json.loads((tmp_path / "00000.json").read_text())
    assert manifest["counts"] == {"ok": 1, "empty": 0, "error": 1, "dropped": 0} and manifest["warnings"] == {"a": 2}
