import logging

import pytest

from scenewright.datasets.gen4gen.concepts import display_name, read_concepts


def tree(folder, *files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_nothing_is_said_to_be_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*<scene>/<object>/<photos>"):
        read_concepts(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no scene in"):
        read_concepts(tmp_path)
    (tmp_path / "park").mkdir()
    with pytest.raises(FileNotFoundError, match="no object in the scene .*park"):
        read_concepts(tmp_path)


def test_scenes_concepts_and_photos_are_sorted(tmp_path):
    tree(tmp_path, "zoo/lion/2.jpg", "zoo/lion/10.jpg", "zoo/cat2/b.png", "zoo/cat1/a.png", "park/house_plant/x.jpg")
    park, zoo = read_concepts(str(tmp_path))
    assert (park.name, zoo.name) == ("park", "zoo")
    assert [(x.key, x.name) for x in (*park.concepts, *zoo.concepts)] == [
        ("park/house_plant", "house plant"),
        ("zoo/cat1", "cat"),
        ("zoo/cat2", "cat"),
        ("zoo/lion", "lion"),
    ]
    assert zoo.concepts[2].photos == (tmp_path / "zoo/lion/10.jpg", tmp_path / "zoo/lion/2.jpg")


def test_a_photo_is_known_by_its_extension_and_not_by_its_last_letters(tmp_path, caplog):
    photos = ["a.JPG", "a.b.jpg", "c.tif", "d.WebP", "e.gif", "ein Hund ü.png", "photo.tar.jpeg"]
    others = ["context", "myjpg", "clip.heic", "notes.txt"]
    tree(tmp_path, *(f"s/dog/{x}" for x in photos + others), "s/dog/.hidden.jpg", "s/dog/jpg/inner.txt")
    with caplog.at_level(logging.WARNING):
        ((concept,),) = [scene.concepts for scene in read_concepts(tmp_path)]
    assert [x.name for x in concept.photos] == sorted(photos)
    assert "clip.heic, context, myjpg and 1 more" in caplog.text and ".hidden" not in caplog.text


def test_hidden_folders_and_stray_notes_are_ignored(tmp_path):
    tree(tmp_path, ".git/x/a.jpg", "s/.cache/a.jpg", "s/dog/a.jpg", "README.md", "s/README.md")
    assert [(s.name, [c.key for c in s.concepts]) for s in read_concepts(tmp_path)] == [("s", ["s/dog"])]


def test_an_object_without_photos_names_its_folder_what_is_there_and_what_would_do(tmp_path):
    tree(tmp_path, "s/dog/a.jpg", "s/cat/a.heic")
    with pytest.raises(FileNotFoundError, match=r"no photo in '.*s/cat'; found a\.heic; .* bmp, gif, .* jpg"):
        read_concepts(tmp_path)


@pytest.mark.parametrize(("file", "folder"), [("a.jpg", ""), ("s/a.PNG", "s")])
def test_photos_a_level_too_high_are_refused(tmp_path, file, folder):
    tree(tmp_path, "s/dog/a.jpg", file)
    with pytest.raises(ValueError, match=f"photos lie directly in '{tmp_path / folder}'.*<object>/<photos>"):
        read_concepts(tmp_path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cat", "cat"),
        ("cat1", "cat"),
        ("cat_02", "cat"),
        ("cat-2", "cat"),
        ("house_plant", "house plant"),
        ("3d_printer 4", "d printer"),
        ("t-shirt", "t-shirt"),
        ("żółw_1", "żółw"),
        ("123", "123"),
        ("_7_", "_7_"),
    ],
)
def test_a_concept_is_called_by_its_folder_without_digits(folder, name):
    assert display_name(folder) == name
