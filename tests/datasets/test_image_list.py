import json

import pytest

from scenewright.datasets.image_list import ImageList


@pytest.fixture
def listed(tmp_path, picture):
    """A list with a relative path, an absolute one, the same image again, and an entry that is none."""
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(picture())
    entries = [
        {"image": "images/a.jpg", "caption": "first", "similarity": 0.3},
        {"image": str(tmp_path / "images" / "b.jpg"), "caption": "second"},
        {"image": "images/a.jpg", "caption": "again"},
        {"caption": "no image"},
        {"image": "images/b.jpg"},
    ]
    path = tmp_path / "train_data.json"
    path.write_text(json.dumps(entries))
    return path


def test_entries_become_samples_in_order(listed):
    samples = list(ImageList(str(listed)))
    assert [s.caption for s in samples] == ["first", "second", "again", "", ""]
    assert samples[0].metadata == {"similarity": 0.3} and samples[0].image.shape == (3, 30, 40)
    assert samples[1].image.shape == samples[4].image.shape == (3, 30, 40)


def test_keys_differ_even_for_the_same_image(listed):
    assert len({s.key for s in ImageList(str(listed))}) == 5


def test_an_entry_that_is_none_is_counted_with_its_number(listed):
    failed = list(ImageList(str(listed)))[3]
    assert failed.error.startswith("entry 3 must be") and "no image" in failed.error


def test_a_root_replaces_the_lists_own_folder(listed, tmp_path):
    moved = tmp_path / "elsewhere"
    (tmp_path / "images").rename(moved / "images") if moved.mkdir() else (tmp_path / "images").rename(moved / "images")
    assert next(iter(ImageList(str(listed), root=str(moved)))).image.shape == (3, 30, 40)


def test_reading_from_the_middle_gives_what_iterating_gives(listed):
    dataset = ImageList(str(listed))
    assert [s.key for s in dataset.read(1, 4)] == [s.key for s in dataset][1:4]


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "at least one entry"), ("{}", "must hold a list"), ("[", "is not JSON")]
)
def test_a_file_that_is_no_list_is_named(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        len(ImageList(str(tmp_path / "x.json")))
