import shutil
import tarfile

import pytest

from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import ShardWriter, stats, verify, write_shards
from scenewright.datasets.shards.ledger import Manifest, differences, hold

RUN = {"seed": 0, "source": {"shards": 3}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with ShardWriter(folder, RUN) as writer:
        write_shards(Shapes(length=11, height=32, width=32, difficulty="easy"), writer, iter, samples_per_shard=4)
    return folder


@pytest.fixture
def shards(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "shards")


def damage(folder, what):
    tar, sheet = folder / "00001.tar", folder / "00001.json"
    data = bytearray(tar.read_bytes())
    if what == "a flipped byte":
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    elif what == "a cut-off tar":
        tar.write_bytes(data[:-512])
    elif what == "a missing manifest":
        sheet.unlink()
    elif what == "a missing tar":
        tar.unlink()
    elif what == "both missing":
        tar.unlink()
        sheet.unlink()
    elif what == "a broken manifest":
        sheet.write_bytes(sheet.read_bytes()[:-10])
    elif what == "another shard's copy":
        shutil.copy(folder / "00000.tar", tar)
        sheet.write_text((folder / "00000.json").read_text().replace('"number": 0', '"number": 1'))
    elif what == "another number":
        shutil.copy(folder / "00000.json", sheet)
    elif what == "another run":
        sheet.write_text(sheet.read_text().replace('"seed": 0', '"seed": 5'))


def test_whole_shards_have_no_faults(shards):
    assert list(verify(shards)) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a flipped byte", "its bytes changed: sha256"),
        ("a cut-off tar", "bytes, its manifest says"),
        ("a missing manifest", "no manifest: the shard was never finished"),
        ("a missing tar", "no tar, only a manifest"),
        ("both missing", "missing: the run has not come to it yet"),
        ("a broken manifest", "no manifest: JSONDecodeError"),
        ("another shard's copy", "is in 00000.tar too"),
        ("another run", "made with other settings than run.json: seed: was 0, is 5"),
        ("another number", "it is the manifest of 00000.tar"),
    ],
)
def test_every_damage_is_found_and_named(what, words, shards):
    damage(shards, what)
    faults = list(verify(shards))
    assert faults and {f.number for f in faults} == {1} and words in str(faults[0]), [str(f) for f in faults]


def test_a_duplicate_key_inside_a_tar_is_found(shards):
    import hashlib
    import json

    path = shards / "00001.tar"
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for info, data in [*members, *members[:2]]:
            import io

            tar.addfile(info, io.BytesIO(data))
    sheet = json.loads((shards / "00001.json").read_text())
    sheet |= {"length": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (shards / "00001.json").write_text(json.dumps(sheet))
    (fault,) = verify(shards)
    assert "its keys are not its manifest's" in str(fault)


def test_scraps_of_a_killed_process_are_named(shards):
    (shards / ".00002.tar.1.tmp").touch()
    with open(shards / ".00002.tar.2.tmp", "wb") as held:
        hold(held)
        (fault,) = verify(shards)
    assert fault.number == -1 and str(fault) == ".00002.tar.1.tmp: left by a process that was killed"


def test_a_missing_record_of_the_run_is_named_and_missing_shards_are_still_known(shards):
    for name in ("run.json", "00002.json", "00002.tar"):
        (shards / name).unlink()
    assert [(f.number, f.file) for f in verify(shards)] == [(-1, "run.json"), (2, "00002.tar")]


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_folder_without_shards_is_named(what, tmp_path):
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match="no folder|no shards"):
        list(verify(folder))


def test_stats_add_up(shards):
    found = stats(shards)
    assert found["shards"] == 3 and found["images"] == found["ok"] == 11
    assert found["bytes"] == sum(p.stat().st_size for p in shards.glob("*.tar"))


def test_a_manifest_round_trips():
    manifest = Manifest(7, 10, "ab", {'odd "key"\n': "ok", "b": "error: ü"}, {"b": 2}, {"seed": 0})
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("ours", "theirs", "lines"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, ["a.b: was 3, is 1"]),
        ({"a": 1}, {}, ["a: was null, is 1"]),
    ],
)
def test_differences_name_the_field(ours, theirs, lines):
    assert differences(ours, theirs) == lines
