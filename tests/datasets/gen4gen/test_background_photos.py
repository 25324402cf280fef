"""Photos of places are found by what a plan says of the background."""

import logging

import pytest

from scenewright.datasets.gen4gen.background_photos import BackgroundPhotos


@pytest.fixture
def photos(tmp_path, picture):
    """``photos("garden/a.jpg", ...)``: a folder with these photos."""

    def made(*paths, **settings):
        for i, path in enumerate(paths):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture("PNG" if file.suffix == ".png" else "JPEG", seed=i))
        return BackgroundPhotos(tmp_path, **settings)

    return made


def test_folders_deep_or_not_are_scenes_with_their_known_phrases(photos):
    found = photos("nature/Garden/1.jpg", "living_room/b.png", "National Park/x y.jpg", "nature/notes.txt")
    assert found.phrases == ["in the national park", "in the living room", "in a garden"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("in the garden", "garden"),
        ("In a Garden.", "garden"),
        ("in a garden with the lake", "garden_lake"),
        ("by the lake in a wild garden", "garden_lake"),
        ("at the beach with palm trees", "beach"),
    ],
)
def test_the_photo_matches_the_plans_background(asked, name, photos):
    found = photos("garden/1.jpg", "garden_lake/1.jpg", "beach/1.jpg", "beach/2.jpg")
    for seed in range(5):
        phrase, file = found.choose(asked, seed)
        assert phrase == asked and file.parent.name == name


def test_without_such_a_folder_the_phrase_is_that_of_the_photo(photos):
    found = photos("garden/1.jpg", "beach/1.jpg")
    for asked in ("in the office", None, ""):
        chosen = [found.choose(asked, seed) for seed in range(12)]
        assert {(x, y.parent.name) for x, y in chosen} == {("in a garden", "garden"), ("on the beach", "beach")}


def test_a_seed_chooses_always_the_same_and_seeds_choose_all(photos):
    found = photos(*(f"beach/{i}.jpg" for i in range(4)))
    assert [found.choose("on the beach", 3) for _ in range(3)] == [found.choose("on the beach", 3)] * 3
    assert len({found.choose(None, seed)[1] for seed in range(40)}) == 4


@pytest.mark.parametrize(("limit", "expected"), [(None, 3), (2, 2), (9, 3)])
def test_fewer_photos_than_asked_for_are_enough(limit, expected, photos):
    found = photos("beach/1.jpg", "beach/2.jpg", "beach/3.jpg", photos_per_scene=limit)
    assert len({found.choose("on the beach", seed)[1] for seed in range(40)}) == expected


def test_an_unknown_folder_is_called_by_its_name_with_a_warning(photos, caplog):
    found = photos("Über die_alte Brücke/ä photo.jpg")
    with caplog.at_level(logging.WARNING):
        assert found.phrases == ["in the Über die alte Brücke"]
    assert "Brücke" in caplog.text
    phrase, file = found.choose("near die alte Brücke über", 0)
    assert file.name == "ä photo.jpg" and found.read(file).shape == (3, 30, 40)


def test_an_unknown_folder_that_says_where_is_taken_at_its_word(photos):
    assert photos("On_a-bridge/1.jpg", "at the coast/2.jpg").phrases == ["On a bridge", "at the coast"]


def test_links_in_a_circle_are_walked_once(photos, tmp_path):
    found = photos("beach/1.jpg")
    (tmp_path / "beach" / "again").symlink_to(tmp_path)
    assert found.phrases == ["on the beach"]


def test_a_broken_photo_is_named(photos, tmp_path):
    found = photos("beach/1.jpg")
    for data in (b"", b"no photo", (tmp_path / "beach/1.jpg").read_bytes()[:300]):
        (tmp_path / "beach/1.jpg").write_bytes(data)
        with pytest.raises(ValueError, match=r"beach/1\.jpg cannot be read"):
            found.read(found.choose(None, 0)[1])
    with pytest.raises(ValueError, match="missing.jpg"):
        found.read(tmp_path / "missing.jpg")


def test_folders_without_photos_are_refused(tmp_path, photos):
    with pytest.raises(FileNotFoundError, match="no photo"):
        _ = BackgroundPhotos(tmp_path).phrases
    with pytest.raises(FileNotFoundError, match="no folder"):
        BackgroundPhotos(tmp_path / "none").choose(None, 0)
    with pytest.raises(ValueError, match="photos_per_scene"):
        BackgroundPhotos(tmp_path, photos_per_scene=0)
