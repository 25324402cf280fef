import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from scenewright.annotators.pipeline import annotate
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, verify, write_shards
from scenewright.layout import Layout, Sample
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
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    names = {f".00000.tar.{host}-{dead.pid}.tmp": True, f".00000.tar.{host}-{os.getppid()}.tmp": False}
    names[".00000.tar.elsewhere-1.tmp"] = False
    for name in names:
        (tmp_path / name).touch()
    ShardWriter(tmp_path).close()
    assert {name: not (tmp_path / name).exists() for name in names} == names


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
    assert manifest["counts"] == {"ok": 1, "empty": 0, "error": 1} and manifest["warnings"] == {"a": 2}
