import io
import json
import tarfile

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.pipeline import annotate
from scenewright.datasets.img2dataset import Img2dataset, border_of
from scenewright.datasets.tars import index_tar


def tar_of(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = b"" if isinstance(data, tarfile.TarInfo) else data
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def downloaded(tmp_path, picture):
    """Two tars as img2dataset leaves them, with a gap in the keys."""
    for shard, indices in ((0, (0, 1, 3)), (1, (0, 2))):
        members = {}
        for i in indices:
            key = f"{shard:05d}{i:04d}"
            members |= {f"{key}.jpg": picture(seed=i), f"{key}.txt": f"caption {i}".encode()}
            members[f"{key}.json"] = json.dumps(
                {"url": f"http://x/{i}", "key": key, "width": 40, "height": 30}
            ).encode()
        (tmp_path / f"{shard:05d}.tar").write_bytes(tar_of(members))
    return tmp_path


def test_samples_come_straight_from_the_tars(downloaded):
    samples = list(Img2dataset(f"{downloaded}/{{00000..00001}}.tar"))
    assert [s.key for s in samples] == ["000000000", "000000001", "000000003", "000010000", "000010002"]
    assert samples[3].caption == "caption 0" and samples[3].metadata["url"] == "http://x/0"
    assert all(s.image.shape == (3, 30, 40) for s in samples)
    assert sorted(x.name for x in downloaded.iterdir()) == ["00000.tar", "00001.tar"], "something was unpacked"


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 5), (1, 2), (2, 4), (4, 5)])
def test_reading_from_the_middle_gives_what_iterating_gives(start, stop, downloaded):
    dataset = Img2dataset(f"{downloaded}/*.tar")
    assert len(dataset) == 5
    assert [s.key for s in dataset.read(start, stop)] == [s.key for s in dataset][start:stop]


def test_a_stats_file_spares_counting_and_what_it_promises_is_counted(downloaded):
    (downloaded / "00000_stats.json").write_text(json.dumps({"successes": 5}))
    samples = list(Img2dataset(f"{downloaded}/*.tar"))
    assert len(samples) == 7 and [bool(s.error) for s in samples] == [False] * 3 + [True] * 2 + [False] * 2
    assert samples[3].error == "the tar holds 3 samples, its stats file says 5"
    (downloaded / "00000_stats.json").write_text(json.dumps({"successes": 1}))
    with pytest.raises(ValueError, match="holds 3 samples, its stats file says 1"):
        list(Img2dataset(f"{downloaded}/*.tar"))


def test_equal_keys_of_other_tars_are_told_apart(tmp_path, picture):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of({"cat.jpg": picture(), "dog.jpg": picture()}))
    assert [s.key for s in Img2dataset(f"{tmp_path}/*.tar")] == ["a_cat", "a_dog", "b_cat", "b_dog"]
    for folder in ("x", "y", "x/same", "y/same"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00000.tar").write_bytes(tar_of({"000000000.jpg": picture()}))
    assert [s.key for s in Img2dataset(f"{tmp_path}/?/*.tar")] == ["x_00000_000000000", "y_00000_000000000"]
    assert len({s.key for s in Img2dataset(f"{tmp_path}/?/same/*.tar")}) == 2


def test_equal_keys_in_one_tar_are_told_apart_too(tmp_path, picture):
    names = ["a b.jpg", "a_b.jpg", "../x.jpg", "../x.jpg"]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(picture())
            tar.addfile(info, io.BytesIO(picture()))
    (tmp_path / "0.tar").write_bytes(file.getvalue())
    samples = list(Img2dataset(f"{tmp_path}/0.tar"))
    assert len({s.key for s in samples}) == 4 and [bool(s.error) for s in samples] == [False, False, True, True]


def test_a_tar_without_its_end_agrees_with_its_stats_when_no_sample_is_missing(downloaded):
    data = (downloaded / "00000.tar").read_bytes()
    (downloaded / "00000.tar").write_bytes(data.rstrip(b"\0") + b"\0" * (-len(data.rstrip(b"\0")) % 512))
    (downloaded / "00000_stats.json").write_text(json.dumps({"successes": 3}))
    assert [s.error for s in Img2dataset(f"{downloaded}/00000.tar")] == [""] * 3


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.9])
def test_a_truncated_tar_gives_what_is_whole_and_says_where_it_breaks_off(cut, downloaded):
    path = downloaded / "00001.tar"
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes().rstrip(b"\0")) * cut)])
    out = list(annotate(Img2dataset(f"{downloaded}/*.tar")))
    assert [s.error for s in out[:3]] == ["", "", ""]
    assert "breaks off" in out[-1].error


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_a_file_that_is_no_tar_is_one_error(data, downloaded):
    (downloaded / "00001.tar").write_bytes(data)
    samples = list(Img2dataset(f"{downloaded}/*.tar"))
    assert len(samples) == 4 and "breaks off" in samples[3].error


def test_a_tar_that_is_not_there_is_one_error_unless_none_is(downloaded):
    samples = list(Img2dataset(f"{downloaded}/{{00000..00002}}.tar"))
    assert samples[5].error == "the tar cannot be read: No such file or directory"
    with pytest.raises(FileNotFoundError, match="cannot read"):
        len(Img2dataset(f"{downloaded}/{{00007..00009}}.tar"))


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg"])
def test_a_member_that_would_leave_its_folder_is_refused(name, tmp_path, picture):
    (tmp_path / "0.tar").write_bytes(tar_of({"a.jpg": picture(), name: picture(), "b.jpg": picture()}))
    samples = list(Img2dataset(f"{tmp_path}/0.tar"))
    assert [bool(s.error) for s in samples] == [False, True, False]
    assert "leaves its folder" in samples[1].error and not set(samples[1].key) & set("./")


def test_a_link_is_refused(tmp_path, picture):
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    (tmp_path / "0.tar").write_bytes(tar_of({"a.jpg": picture(), "link.jpg": link}))
    assert [s.error for s in Img2dataset(f"{tmp_path}/0.tar")] == ["", "the member 'link.jpg' is no file"]


def test_a_key_that_occurs_twice_in_a_tar_is_an_error_of_the_second(tmp_path, picture):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(picture())
            tar.addfile(info, io.BytesIO(picture()))
    (tmp_path / "0.tar").write_bytes(file.getvalue())
    samples = list(Img2dataset(f"{tmp_path}/0.tar"))
    assert [bool(s.error) for s in samples] == [False, False, True] and len({s.key for s in samples}) == 3


def test_a_sample_without_an_image_and_bad_texts_are_said(tmp_path, picture):
    members = {"a.txt": b"x", "b.jpg": picture(), "b.txt": b"caf\xe9", "b.json": b"[" * 200_000}
    (tmp_path / "0.tar").write_bytes(tar_of(members))
    none, mended = Img2dataset(f"{tmp_path}/0.tar")
    assert none.error == "no image among its members (txt)"
    assert mended.caption == "caf\ufffd" and len(mended.warnings) == 2 and not mended.error


@pytest.mark.parametrize(
    ("metadata", "border"),
    [
        ({}, (0, 0, 0, 0)),
        ({"width": 512, "height": 512, "original_width": 1000, "original_height": 1000}, (0, 0, 0, 0)),
        ({"width": 512, "height": 512, "original_width": 1024, "original_height": 512}, (0, 128, 0, 128)),
        ({"width": 512, "height": 512, "original_width": 301, "original_height": 512}, (105, 0, 106, 0)),
        ({"width": 640, "height": 427, "original_width": 1280, "original_height": 853}, (0, 0, 0, 0)),
        ({"width": float("inf"), "height": 1, "original_width": 2, "original_height": 1}, (0, 0, 0, 0)),
        ({"width": None, "height": 1, "original_width": 2, "original_height": 0}, (0, 0, 0, 0)),
    ],
)
def test_the_border_follows_from_the_sizes(metadata, border):
    assert border_of(metadata) == border


def test_the_white_border_is_cut_before_anything_looks_at_the_image(tmp_path):
    padded = np.full((64, 64, 3), 255, np.uint8)
    padded[16:48] = 60
    file = io.BytesIO()
    PILImage.fromarray(padded).save(file, "PNG")
    sizes = {"width": 64, "height": 64, "original_width": 200, "original_height": 100}
    (tmp_path / "0.tar").write_bytes(tar_of({"a.png": file.getvalue(), "a.json": json.dumps(sizes).encode()}))
    (sample,) = Img2dataset(f"{tmp_path}/0.tar")
    assert sample.image.shape == (3, 32, 64) and torch.all(sample.image == 60) and sample.source.data == file.getvalue()


def test_tars_behind_a_url_are_read_too(downloaded):
    fsspec.filesystem("memory").pipe("/cc3m/00000.tar", (downloaded / "00000.tar").read_bytes())
    assert [s.key for s in Img2dataset("memory://cc3m/*.tar")] == ["000000000", "000000001", "000000003"]


def test_members_of_one_sample_may_have_two_dots(tmp_path, picture):
    (tmp_path / "0.tar").write_bytes(tar_of({"a.jpg": picture(), "a.source.json": b"{}"}))
    (entry,) = index_tar(str(tmp_path / "0.tar"))
    assert entry.key == "a" and list(entry.members) == ["jpg", "source.json"]
