import os
import shutil
import subprocess
import sys

import fsspec
import pytest

from scenewright.datasets.image_folder import ImageFolder
from scenewright.protocols import RangedDataset


@pytest.fixture
def photos(tmp_path, picture):
    """Every kind of file, in folders, with names that make trouble."""
    kinds = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.tiff": "TIFF", "e.bmp": "BMP", "f.gif": "GIF"}
    names = {**kinds, "G.JPEG": "JPEG", "one/x.jpg": "JPEG", "two/x.jpg": "JPEG", "two/x.png": "PNG"}
    names |= {"my cat.v2.jpg": "JPEG", "写真.png": "PNG", "line\nbreak.png": "PNG"}
    for i, (name, kind) in enumerate(names.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(kind, seed=i))
    (tmp_path / "a.txt").write_text("a caption\n")
    (tmp_path / "b.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def test_a_folder_is_a_ranged_dataset(photos):
    assert isinstance(ImageFolder(str(photos)), RangedDataset)


def test_every_kind_is_found_in_every_folder_and_decoded(photos):
    samples = list(ImageFolder(str(photos)))
    assert len(samples) == 13 and all(s.image.shape == (3, 30, 40) for s in samples)
    assert [s.source.name for s in samples] == sorted(s.source.name for s in samples)


def test_the_bytes_are_the_files_own(photos):
    assert all(s.source.data == (photos / s.source.name).read_bytes() for s in ImageFolder(str(photos)))


def test_keys_are_safe_and_never_collide(photos):
    keys = [s.key for s in ImageFolder(str(photos))]
    assert len(set(keys)) == 13 and not any(set(k) & set("./ \n") for k in keys)
    assert "one__x" in keys and "two__x" not in keys and sum(k.startswith("two__x-") for k in keys) == 2


def test_a_text_file_beside_an_image_is_its_caption(photos):
    samples = {s.source.name: s for s in ImageFolder(str(photos))}
    assert samples["a.jpg"].caption == "a caption" and samples["c.webp"].caption == ""
    assert samples["b.png"].caption == "caf\ufffd" and "not UTF-8" in samples["b.png"].warnings[0]


def test_reading_from_the_middle_gives_what_iterating_gives(photos):
    folder = ImageFolder(str(photos))
    assert [s.key for s in folder.read(3, 7)] == [s.key for s in folder][3:7]


def test_a_broken_link_and_an_unreadable_file_are_samples_whose_image_raises(photos):
    os.symlink(photos / "nowhere.jpg", photos / "broken.jpg")
    samples = {s.source.name: s for s in ImageFolder(str(photos))}
    with pytest.raises(FileNotFoundError):
        samples["broken.jpg"].image  # noqa: B018
    assert len(samples) == 14


def test_a_file_without_permission_is_an_error_of_that_file_only(photos):
    (photos / "a.jpg").chmod(0)
    code = (
        "import sys; from scenewright.datasets.image_folder import ImageFolder\n"
        "from scenewright.annotators.pipeline import annotate\n"
        "print([s.error for s in annotate(ImageFolder(sys.argv[1])) if s.error])"
    )
    command = [sys.executable, "-c", code, str(photos)]
    if os.geteuid() == 0:  # root reads everything until it gives that up
        if not shutil.which("setpriv"):
            pytest.skip("as root this needs setpriv")
        command = ["setpriv", "--bounding-set", "-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "['PermissionError: Permission denied']\n"


def test_folders_that_link_to_each_other_end(photos):
    os.symlink(photos, photos / "one" / "loop")
    assert len(ImageFolder(str(photos))) == 13


def test_the_fingerprint_changes_with_the_files(photos, picture):
    before = ImageFolder(str(photos)).fingerprint
    assert ImageFolder(str(photos)).fingerprint == before
    (photos / "new.jpg").write_bytes(picture())
    assert ImageFolder(str(photos)).fingerprint != before


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_missing_or_empty_folder_is_named(what, tmp_path):
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"no folder .*{what}|no image in .*{what}"):
        len(ImageFolder(str(folder)))


def test_a_url_works_like_a_path(picture):
    files = fsspec.filesystem("memory")
    files.pipe("/photos/sub/a.jpg", picture())
    files.pipe("/photos/sub/a.txt", b"far away")
    (sample,) = ImageFolder("memory://photos")
    assert sample.key == "sub__a" and sample.caption == "far away" and sample.image.shape == (3, 30, 40)
