import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenewright.datasets.files import expand, join, key_of, keys_of, text_of


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("", "_"),
        ("a", "a"),
        ("folder/a", "folder__a"),
        ("my cat.v2", "my_cat_v2"),
        ("日本/写真", "日本__写真"),
        ("line\nbreak", "line_break"),
        ("../a", "____a"),
    ],
)
def test_a_key_has_no_dots_slashes_or_spaces(path, key):
    assert key_of(path) == key


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_keys_are_never_equal_even_where_case_is_ignored(paths):
    keys = keys_of(paths)
    assert len({k.lower() for k in keys}) == len(paths) and not any(set(k) & set("./ \n\t\\") for k in keys)


def test_equal_stems_are_told_apart_and_others_stay_plain():
    keys = keys_of(["a.jpg", "a.png", "A.jpg", "b.jpg"])
    assert keys[3] == "b" and len(set(keys)) == 4 and all(k.lower().startswith("a-") for k in keys[:3])


def test_long_names_become_short_keys():
    assert len(key_of("x" * 300)) == 120 and key_of("x" * 300) != key_of("x" * 301)


def test_patterns_are_expanded_in_order(tmp_path):
    for name in ("00001.tar", "00000.tar", "odd[1].tar"):
        (tmp_path / name).touch()
    inside = lambda *names: [str(tmp_path / n) for n in names]  # noqa: E731
    assert expand(f"{tmp_path}/{{00000..00001}}.tar") == inside("00000.tar", "00001.tar")
    assert expand(f"{tmp_path}/0*.tar") == inside("00000.tar", "00001.tar")
    assert expand(f"{tmp_path}/odd[1].tar") == inside("odd[1].tar")
    assert expand([f"{tmp_path}/00001.tar", f"{tmp_path}/00000.tar"]) == inside("00001.tar", "00000.tar")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.zip"):
        expand(f"{tmp_path}/*.zip")


def test_urls_are_expanded_too():
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe("/bucket/b.tar", b"")
    files.pipe("/bucket/a.tar", b"")
    assert expand("memory://bucket/*.tar") == ["memory:///bucket/a.tar", "memory:///bucket/b.tar"]


def test_join_leaves_absolute_paths_and_urls():
    assert join("root", "a.jpg") == "root/a.jpg"
    assert join("root", "/a.jpg") == "/a.jpg"
    assert join("s3://b/root/", "a.jpg") == "s3://b/root/a.jpg"
    assert join("root", "s3://b/a.jpg") == "s3://b/a.jpg"


def test_text_that_is_not_utf8_is_mended_and_said():
    assert text_of("café\n".encode()) == ("café", [])
    assert text_of(b"\xef\xbb\xbfbom") == ("bom", [])
    text, (warning,) = text_of("café".encode("latin-1"))
    assert text == "caf\ufffd" and "byte 0xe9 at 3" in warning
