"""An export is there as a whole or not at all."""

import pytest

from scenewright.datasets.formats.folder import file_stem, mark, new_folder


def names(folder):
    return sorted(x.name for x in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "a" / "b") as work:
        (work / "x").touch()
        assert not (tmp_path / "a" / "b").exists()
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "a" / "b") == ["x"]


def test_a_failure_leaves_nothing_and_what_was_there(tmp_path):
    with new_folder(tmp_path / "a") as work:
        mark(work, {"one": 1})
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a", overwrite=True):
        raise RuntimeError
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == [".export.json"]


def test_only_an_export_is_overwritten_and_only_when_asked(tmp_path):
    (tmp_path / "mine").mkdir()
    with new_folder(tmp_path / "mine") as work:  # empty: nothing can be lost
        mark(work, {})
    with pytest.raises(FileExistsError, match="overwrite=true"), new_folder(tmp_path / "mine"):
        pass
    with new_folder(tmp_path / "mine", overwrite=True) as work:
        (work / "new").touch()
    assert names(tmp_path / "mine") == ["new"]
    with pytest.raises(ValueError, match="not written by an export"), new_folder(tmp_path / "mine", overwrite=True):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file", "mine"]


def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(tmp_path):
    (tmp_path / ".a.00000000.tmp").mkdir()
    (tmp_path / ".a.notours.tmp").mkdir()
    with new_folder(tmp_path / "a") as first:
        with new_folder(tmp_path / "a"):
            assert first.exists()
        assert names(tmp_path) == [".a.notours.tmp", first.name, "a"] or first.exists()
        (tmp_path / "a").rmdir()
    assert names(tmp_path) == [".a.notours.tmp", "a"]


@pytest.mark.parametrize("key", ["", "..", "a/b", "a\\b", ".hidden", "a.b", "a\nb", "x" * 300, "a\x00"])
def test_a_key_is_no_path(key):
    with pytest.raises(ValueError, match="no file name"):
        file_stem(key)


@pytest.mark.parametrize("key", ["a", "cats__tom", "Übung_愛"])
def test_ordinary_keys_are_file_names(key):
    assert file_stem(key) == key
