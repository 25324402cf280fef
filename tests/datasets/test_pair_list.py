"""Lists of images with several captions: read as plain values, whatever is in the file."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

from scenewright.datasets.files import key_of
from scenewright.datasets.pair_list import PairList
from scenewright.datasets.shards import Shards, ShardWriter, verify, write_shards

BIRDS = [
    ["bird/a.jpg", ["a red bird", "a bird on a branch", "it is small"]],
    ("bird/b.jpg", ("a blue bird",)),
    ["bird/a.jpg", ["the same again"]],
]


@pytest.fixture
def listed(tmp_path, picture):
    """``listed(records, "pkl")``: a list beside its images, whose name speaks of other datasets."""

    def written(records=BIRDS, kind: str = "pkl", protocol: int = 4) -> str:
        (tmp_path / "bird").mkdir(exist_ok=True)
        for seed, name in enumerate("ab"):
            (tmp_path / "bird" / f"{name}.jpg").write_bytes(picture(seed=seed))
        path = tmp_path / f"pair_list_oxford_cub_coco.{kind}"
        path.write_bytes(json.dumps(records).encode() if kind == "json" else pickle.dumps(records, protocol))
        return str(path)

    return written


def said(dataset) -> list[str]:
    return [x.caption for x in dataset]


@pytest.mark.parametrize("kind", ["pkl", "json"])
def test_each_image_has_its_first_caption_and_all_are_kept(kind, listed):
    first, second, again = PairList(listed(kind=kind))
    assert (first.caption, second.caption, again.caption) == ("a red bird", "a blue bird", "the same again")
    assert first.metadata["captions"] == BIRDS[0][1] and first.image.shape == (3, 30, 40)
    assert first.text_feature is None and first.error == "" and first.warnings == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickles_is_read(protocol, listed):
    assert said(PairList(listed(protocol=protocol))) == ["a red bird", "a blue bird", "the same again"]


def test_old_text_of_bytes_is_text(listed):
    records = [[b"bird/a.jpg", ["caf\xe9".encode(), b"second"]]]
    assert PairList(listed(records)).read(0, 1).__next__().metadata["captions"] == ["café", "second"]
    # a pickle of Python 2, whose text is bytes without saying so
    python2 = b"(lp0\n(lp1\nS'bird/a.jpg'\np2\na(lp3\nS'a red bird'\np4\naaa."
    path = listed()
    with open(path, "wb") as file:
        file.write(python2)
    assert said(PairList(path)) == ["a red bird"]


class Code:
    """What a pickle of it runs when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_named_and_never_run(protocol, listed, tmp_path):
    touched = tmp_path / "touched"
    path = listed([["bird/a.jpg", ["a red bird"]], [Code(touched), []]], protocol=protocol)
    with pytest.raises(ValueError, match=rf"{os.system.__module__}\.system, and a pickle that names code"):
        len(PairList(path))
    assert not touched.exists()
    with open(path, "rb") as file:  # the test would notice
        pickle.load(file)
    assert touched.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [(torch.ones(2), "torch"), (pytest.approx, "_pytest"), (complex(1, 2), "builtins.complex"), ({"x"}, "pair_list")],
)
def test_other_values_than_plain_ones_are_refused_or_no_record(value, name, listed):
    dataset = PairList(listed([["bird/a.jpg", ["x"]], ["bird/b.jpg", value]]))
    if isinstance(value, set):  # no class is looked for
        assert [bool(x.error) for x in dataset] == [False, True]
        return
    with pytest.raises(ValueError, match=name):
        len(dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[", "is not JSON"),
        (b"[]", "at least one record"),
        (b'{"a": 1}', "must hold a list"),
        (b"\x80\x04\x95", "neither JSON nor a whole pickle"),
        (pickle.dumps("x"), "must hold a list"),
        (pickle.dumps(BIRDS)[:-9], "neither JSON nor a whole pickle"),
    ],
)
def test_a_file_that_is_no_list_is_named(content, message, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        len(PairList(str(tmp_path / "x.pkl")))


def test_the_root_is_what_was_given_and_never_guessed_from_a_name(listed, tmp_path, picture):
    path = listed()
    (tmp_path / "elsewhere" / "bird").mkdir(parents=True)
    (tmp_path / "elsewhere" / "bird" / "a.jpg").write_bytes(picture(size=(50, 20)))
    assert next(iter(PairList(path))).image.shape == (3, 30, 40)
    assert next(iter(PairList(path, root=str(tmp_path / "elsewhere")))).image.shape == (3, 20, 50)


@pytest.mark.parametrize("name", ["/disk/cub/a.jpg", "../a.jpg", "bird/../../a.jpg", "https://example.org/a.jpg"])
def test_a_path_that_leads_out_of_the_root_is_an_error_of_its_sample(name, listed):
    bad, good = PairList(listed([[name, ["x"]], ["bird/a.jpg", ["y"]]]))
    assert "must be a path below the root" in bad.error and name in bad.error and not good.error


@pytest.mark.parametrize(
    "record", ["x", [], ["bird/a.jpg"], [1, ["x"]], ["", ["x"]], ["a.jpg", [1]], ["a.jpg", {"a": 1}]]
)
def test_a_record_that_is_none_is_counted_with_its_number(record, listed):
    good, bad = PairList(listed([BIRDS[1], record]))
    assert not good.error and bad.error.startswith("record 1 must be [path, [caption, …]]")


def test_all_captions_are_samples_first_every_image_with_its_first_one(listed):
    dataset = PairList(listed(), caption="all")
    assert len(dataset) == 5 and said(dataset) == [
        *("a red bird", "a blue bird", "the same again"),
        *("a bird on a branch", "it is small"),
    ]
    keys = [x.key for x in dataset]
    assert len({x.lower() for x in keys}) == 5 and all(x == key_of(x) for x in keys)
    assert [x.key for x in dataset.read(1, 4)] == keys[1:4]


def test_a_random_caption_depends_on_the_seed_and_the_image_and_each_comes_equally_often(listed):
    words = [f"caption {i}" for i in range(4)]
    path = listed([[f"bird/{i}.jpg", words] for i in range(400)])
    found = said(PairList(path, caption="random"))
    assert found == said(PairList(path, caption="random")) and found != said(PairList(path, caption="random", seed=1))
    assert all(70 < found.count(x) < 130 for x in words)
    assert said(PairList(path, caption="random").read(7, 9)) == found[7:9]


def test_another_choice_of_captions_is_another_source(listed):
    path = listed()
    choices = [{}, {"caption": "random"}, {"caption": "random", "seed": 1}, {"caption": "all"}]
    assert len({PairList(path, **x).fingerprint for x in choices}) == 4
    assert PairList(path).fingerprint == PairList(path, root="x").fingerprint


def test_keys_differ_for_the_same_image_another_extension_and_another_case(listed):
    paths = ("bird/a.jpg", "bird/a.jpg", "bird/a.png", "bird/A.jpg", "bird__a.jpg")
    assert len({x.key.lower() for x in PairList(listed([[x, ["x"]] for x in paths]))}) == 5


def test_a_text_feature_stands_for_a_caption(listed):
    first, second, third = PairList(
        listed([["bird/a.jpg", [], [0.5, -1, 2]], ["bird/b.jpg", ["x"]], ["bird/b.jpg", ["y"], "more", 3]], "json")
    )
    assert first.caption == "" and torch.equal(first.text_feature, torch.tensor([0.5, -1, 2])) and not first.warnings
    assert second.text_feature is None and third.text_feature is None and "2 more entries" in third.warnings[0]


def test_missing_and_broken_images_are_samples_that_cannot_be_read(listed, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    missing, broken, good = PairList(listed([["none.jpg", ["x"]], ["broken.jpg", ["y"]], BIRDS[0]]))
    with pytest.raises(OSError):
        _ = missing.image
    with pytest.raises(ValueError):
        _ = broken.image
    assert good.image.shape == (3, 30, 40)


def test_shards_keep_captions_and_features(listed, tmp_path):
    dataset = PairList(listed([*BIRDS, ["bird/b.jpg", [], [1.0, 2.0]]]))
    with ShardWriter(tmp_path / "shards") as writer:
        write_shards(dataset, writer, iter, samples_per_shard=3)
    assert list(verify(tmp_path / "shards")) == []
    for before, after in zip(dataset, Shards(tmp_path / "shards"), strict=True):
        assert (before.key, before.caption) == (after.key, after.caption)
        assert before.metadata == after.metadata and before.source.data == after.source.data
        assert (before.text_feature is None) == (after.text_feature is None)


@pytest.mark.slow
def test_no_network_comes_with_the_list():
    code = "import sys, scenewright.datasets.pair_list; print({'transformers', 'diffusers', 'clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("settings", [{"caption": "last"}, {"seed": -1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        PairList("x", **settings)
