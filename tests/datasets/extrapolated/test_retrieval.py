"""Where retrieved images come from."""

import csv
import json
import shlex
import tarfile
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated.encoders import HistogramFeatures
from scenewright.datasets.extrapolated.keywords import keyword_of, same
from scenewright.datasets.extrapolated.measuring import FileGauge
from scenewright.datasets.extrapolated.records import Query, Retrieval
from scenewright.datasets.extrapolated.retrieval.folder import Folder
from scenewright.datasets.extrapolated.retrieval.index import Index, search
from scenewright.datasets.extrapolated.retrieval.url_list import URLList, read_url_list, write_url_list
from scenewright.datasets.image_folder import ImageFolder
from scenewright.layout import EncodedImage, Sample


def queries(*keywords):
    return [Query(x, torch.zeros(3)) for x in keywords]


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("001.Black_footed_Albatross/a.jpg", "Black footed Albatross"),
        ("red bird/more/a.jpg", "red bird"),
        ("747/a.jpg", "747"),
        ("7 spot ladybird/a.jpg", "7 spot ladybird"),
        ("07_wallflower/a.jpg", "wallflower"),
        ("a.jpg", ""),
    ],
)
def test_a_folder_names_what_is_in_it(name, keyword):
    assert keyword_of(Sample(key="a", source=EncodedImage(b"", "jpg", name)), "folder") == keyword


def test_tags_and_metadata_name_what_is_seen_too():
    sample = Sample(key="a", tags=["red_bird", "sky"], metadata={"class": "Blue_Bird", "n": 4})
    assert keyword_of(sample, "tag") == "red bird" and keyword_of(sample, "class") == "Blue Bird"
    assert keyword_of(sample, "n") == "4" and keyword_of(sample, "missing") == keyword_of(sample, "folder") == ""
    assert same("Black-footed  albatross") == same("black_footed Albatross") != same("albatross")


def test_a_folder_gives_all_its_images_even_those_without_a_keyword(photos, bird, colours):
    bird(photos / "web" / "loose.png", (9, 9, 9), 5)
    retrieval = Folder(ImageFolder(photos / "web"))
    pool = retrieval.retrieve(queries("red bird"), FileGauge(colours, photos / "features"))
    assert pool.places == list(range(55)) and pool.keywords.count("red bird") == 18 and pool.keywords.count("") == 1
    assert isinstance(retrieval, Retrieval) and colours.images == 0


def downloaded(folder, photos):
    """What img2dataset writes."""
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "00000.tar", "w") as tar:
        for number, keyword in enumerate(["red bird", "blue bird"]):
            stem = folder / f"00000000{number}"
            stem.with_suffix(".png").write_bytes((photos / "web" / keyword / "00.png").read_bytes())
            stem.with_suffix(".json").write_text(json.dumps({"keyword": keyword, "url": "https://x", "caption": None}))
            for suffix in (".json", ".png"):
                tar.add(stem.with_suffix(suffix), f"{stem.name}{suffix}")


def test_what_was_downloaded_of_a_list_of_urls_has_the_keywords_of_the_list(photos, tmp_path, colours):
    urls = [
        ("red bird", "https://x/1?a,b"),
        ("blue bird", "https://x/2"),
        ("dodo", "https://x/3"),
        ("dodo", "https://x/3"),
    ]
    write_url_list(tmp_path / "urls.csv", urls)
    assert read_url_list(str(tmp_path / "urls.csv")) == urls[:3]
    retrieval = URLList(str(tmp_path / "urls.csv"), str(tmp_path / "tars"))
    with pytest.raises(FileNotFoundError, match="no tar in .*this downloads the list: img2dataset --url_list"):
        retrieval.retrieve([], FileGauge(colours, tmp_path / "features"))
    downloaded(tmp_path, photos)
    pool = retrieval.retrieve([], FileGauge(colours, tmp_path / "features"))
    assert pool.keywords == ["red bird", "blue bird"] and pool.places == [0, 1]
    assert pool.notes == {"urls": 3, "images": 2, "keywords without any image": ["dodo"]}
    assert list(retrieval.dataset.read(1, 2))[0].image.shape == (3, 48, 48)


def test_the_command_survives_a_shell(tmp_path):
    words = shlex.split(URLList("my birds.csv", "out dir", image_size=300).command)
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "img2dataset" and given["--url_list"] == "my birds.csv" and given["--output_folder"] == "out dir"
    assert json.loads(given["--save_additional_columns"]) == ["keyword"]
    assert given["--output_format"] == "webdataset" and given["--image_size"] == "300"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["keyword", "link"], ["a", "b"]], "lacks url"),
        ([["keyword", "url"]], "has no row"),
        ([["keyword", "url"], ["a", "b"], ["a", ""]], "row 2 lacks a keyword or a URL"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, rows, message):
    with open(tmp_path / "urls.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=message):
        read_url_list(str(tmp_path / "urls.csv"))


def test_an_index_finds_images_by_what_a_text_says(photos, colours):
    (photos / "web" / "red bird" / "zz.png").write_bytes(b"broken")
    retrieval = Index(ImageFolder(photos / "web"), top_k=12)
    gauge = FileGauge(colours, photos / "features")
    pool = retrieval.retrieve(queries("red bird", "blue bird"), gauge)
    keys = [x.key for i in pool.places for x in retrieval.dataset.read(i, i + 1)]
    found = dict(zip(keys, pool.keywords, strict=True))
    assert sorted(found) == [f"{name}_bird__{i:02d}" for name in ("blue", "red") for i in range(12)]
    assert all(key.startswith(keyword.split()[0]) for key, keyword in found.items())
    assert pool.places == sorted(pool.places)
    assert pool.notes == {"searched": 55, "unreadable": 1, "images": 24}


def test_an_image_that_two_keywords_find_is_of_the_nearer_one(photos, colours):
    pool = Index(ImageFolder(photos / "web"), top_k=1000).retrieve(
        queries("red bird", "green bird", "blue bird"), FileGauge(colours, photos / "features")
    )
    assert len(pool.places) == 54 and len(set(pool.places)) == 54
    birds = [k for k, s in zip(pool.keywords, ImageFolder(photos / "web"), strict=True) if "page" not in s.key]
    assert birds == ["blue bird"] * 12 + ["green bird"] * 12 + ["red bird"] * 12


def test_an_encoder_without_texts_finds_images_by_images(photos):
    gauge = FileGauge(HistogramFeatures(), photos / "features")
    measured = gauge.measure(ImageFolder(photos / "birds"))
    red = Query("red bird", normalize(measured.features[:8].mean(0), dim=0))
    pool = Index(ImageFolder(photos / "web"), top_k=10, query="images").retrieve([red], gauge)
    keys = [x.key for i, x in enumerate(ImageFolder(photos / "web")) if i in pool.places]
    assert len(keys) == 10 and all(x.startswith("red_bird__") and "page" not in x for x in keys)
    with pytest.raises(ValueError, match="HistogramFeatures says nothing of texts"):
        Index(ImageFolder(photos / "web")).retrieve([red], gauge)
    narrow = Query("red bird", torch.ones(2))
    with pytest.raises(ValueError, match="features of images have .* values, those of queries 2"):
        Index(ImageFolder(photos / "web"), query="images").retrieve([narrow], gauge)


def test_faiss_and_torch_find_the_same():
    pytest.importorskip("faiss")
    random = torch.Generator().manual_seed(0)
    features, asked = (normalize(torch.randn(n, 16, generator=random), dim=1) for n in (300, 7))
    ours, theirs = (search(features, asked, 20, x) for x in ("torch", "faiss"))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.skipif(find_spec("faiss") is not None, reason="faiss is there")
def test_without_faiss_torch_searches_unless_faiss_is_asked_for():
    features = torch.eye(4)
    assert search(features, features[2:3], 1)[1].tolist() == [[2]]
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scenewright\[faiss\]'"):
        search(features, features, 1, "faiss")


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"query": "sound"}, {"backend": "annoy"}, {"template": "a photo"}])
def test_settings_of_an_index_that_are_none_are_refused(photos, settings):
    with pytest.raises(ValueError, match="must"):
        Index(ImageFolder(photos / "web"), **settings)
