"""From a folder of originals and a pool to samples: what stays, what does not and why, and never twice."""

import json

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image as PILImage

from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector
from scenewright.datasets.extrapolated.duplicates import NearDuplicates
from scenewright.datasets.extrapolated.extrapolation import LinearExtrapolation
from scenewright.datasets.extrapolated.retrieval.folder import Folder
from scenewright.datasets.extrapolated.retrieval.index import Index
from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shards.record import decode, encode
from scenewright.evaluation.extrapolation import write_extrapolation
from scenewright.layout import Batch
from scenewright.protocols import Accounting, RangedDataset

ALL = {"clusters": None, "agreement": None, "duplicates": None}
KEEP = LinearExtrapolation(neighbours=4, among="class", drop_worst=0)


def test_birds_stay_with_features_of_their_class_and_pages_go(extrapolated):
    dataset = extrapolated()
    samples = list(dataset)
    assert isinstance(dataset, RangedDataset) and len(samples) == len(dataset) == 35
    assert not any("page" in x.key for x in samples) and all(x.key.startswith("retrieved-") for x in samples)
    texts = dataset.text_encoder
    for sample in samples:
        assert sample.text_feature.shape == (8,) and sample.caption == "" and not sample.rejected
        about = sample.metadata["extrapolation"]
        assert len(about["neighbours"]) == len(about["weights"]) == 4 and 0 < about["residual"] < 1
        assert all(sample.metadata["keyword"].replace(" ", "_") in x for x in about["neighbours"])
    captions = {x.key: texts.encode(x.caption.splitlines(), torch.device("cpu")).mean(0) for x in dataset.originals}
    about = samples[3].metadata["extrapolation"]
    expected = sum(w * captions[x] for w, x in zip(about["weights"], about["neighbours"], strict=True))
    torch.testing.assert_close(samples[3].text_feature, expected, rtol=1e-4, atol=1e-4)
    assert dataset.summary["stages"] == {"cluster": 18, "residual": 1, "kept": 35}
    assert dataset.summary["agreement"]["accuracy"] > 0.8
    assert isinstance(dataset, Accounting)
    assert dataset.account == f"54 retrieved images: 18 cluster, 1 residual, 35 kept · {dataset.work}/ledger.jsonl"


def test_a_second_run_reads_what_the_first_decided_and_the_same_samples_wherever_it_starts(extrapolated, colours):
    first = list(extrapolated(encoder=colours, extrapolation=KEEP))
    seen = colours.images
    again = extrapolated(encoder=colours, extrapolation=KEEP)
    part = list(again.read(5, 9))
    assert colours.images == seen and again.text_encoder.texts == 0
    assert [x.key for x in part] == [x.key for x in first[5:9]]
    assert all(torch.equal(x.text_feature, y.text_feature) for x, y in zip(part, first[5:9], strict=True))
    assert again.fingerprint == extrapolated(encoder=colours, extrapolation=KEEP).fingerprint


def test_a_new_run_in_another_folder_decides_the_same(extrapolated, photos):
    list(extrapolated())
    list(extrapolated(work=str(photos / "other")))
    for name in ("ledger.jsonl", "text_features.safetensors", "summary.json"):
        assert (photos / "work" / name).read_bytes() == (photos / "other" / name).read_bytes()


def test_other_settings_are_refused_until_the_ledger_is_gone_and_features_stay(extrapolated, photos, colours):
    len(extrapolated(encoder=colours))
    seen = colours.images
    changed = extrapolated(encoder=colours, agreement=ClassAgreement(min_probability=0.5))
    with pytest.raises(ValueError, match=r"chosen with other settings \(agreement\)"):
        len(changed)
    (photos / "work" / "ledger.jsonl").unlink()
    len(extrapolated(encoder=colours, agreement=ClassAgreement(min_probability=0.5)))
    assert colours.images == seen
    assert changed.fingerprint != extrapolated(encoder=colours).fingerprint


def test_every_image_that_is_left_out_keeps_its_reason(extrapolated, photos, bird):
    web = photos / "web"
    (web / "red bird" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    bird(web / "dodo" / "1.png", (120, 110, 90), 9)
    bird(web / "loose.png", (120, 110, 90), 9)
    for i in (1, 2):
        bird(web / "red bird" / f"wrong{i}.png", (30, 40, 200), 70 + i)
    (web / "red bird" / "again.png").write_bytes((web / "red bird" / "03.png").read_bytes())
    (web / "red bird" / "original.png").write_bytes((photos / "birds" / "000.red_bird" / "3.png").read_bytes())
    (photos / "test").mkdir()
    with PILImage.open(web / "green bird" / "05.png") as picture:
        picture.resize((96, 96), PILImage.Resampling.BICUBIC).save(photos / "test" / "a.png")
    (photos / "test" / "b.png").write_bytes(b"broken")

    dataset = extrapolated(evaluation=ImageFolder(photos / "test"), keep_rejected=True)
    samples = {x.key.removeprefix("retrieved-"): x for x in dataset}
    reasons = {key: x.rejected for key, x in samples.items() if x.rejected}
    assert len(samples) == len(dataset) == dataset.summary["retrieved"] == 61
    assert reasons["red_bird__broken"].startswith("unreadable: cannot be read")
    assert reasons["dodo__1"] == "keyword: no original is of 'dodo'"
    assert reasons["loose"] == "keyword: it has no keyword"
    assert reasons["red_bird__again"] == "copy: the same file as 'red_bird__03'"
    assert reasons["red_bird__original"] == "copy: the same file as the original '000_red_bird__3'"
    assert reasons["green_bird__05"].startswith("evaluation: near-duplicate of evaluation image 'a'")
    assert reasons["blue_bird__page0"].startswith("cluster: its cluster is 0.")
    assert reasons["red_bird__wrong1"].startswith("class: looks like 'blue bird'")
    assert any(x.startswith("residual: its residual, 0.") for x in reasons.values())
    lines = [json.loads(x) for x in (photos / "work" / "ledger.jsonl").read_text().splitlines()]
    assert {x["key"]: f"{x['stage']}: {x['reason']}" for x in lines if x["stage"] != "kept"} == reasons
    assert all(x["number"] is not None for x in lines if x["stage"] in ("evaluation", "cluster", "class", "residual"))
    stages = dataset.summary["stages"]
    assert stages["unreadable"] == 1 and stages["keyword"] == 2 and stages["copy"] == 2 and stages["evaluation"] == 1
    assert sum(stages.values()) == 61 and stages["kept"] == 61 - len(reasons)
    assert samples["red_bird__wrong1"].text_feature is None
    assert samples["red_bird__wrong1"].status.startswith("dropped: class")
    assert len(extrapolated(evaluation=ImageFolder(photos / "test"))) == stages["kept"]


def test_a_file_under_two_keywords_stays_under_the_one_that_it_looks_like(extrapolated, photos):
    right, wrong = photos / "web" / "red bird" / "00.png", photos / "web" / "blue bird" / "99.png"
    wrong.write_bytes(right.read_bytes())
    dataset = extrapolated(extrapolation=KEEP, clusters=None, keep_rejected=True)
    found = {x.key: x.rejected for x in dataset}
    assert found["retrieved-blue_bird__99"].startswith("class: ") and not found["retrieved-red_bird__00"]
    undecided = extrapolated(**ALL, work=str(photos / "other"), extrapolation=KEEP, keep_rejected=True)
    assert {x.key: x.rejected for x in undecided}["retrieved-red_bird__00"] == "copy: the same file as 'blue_bird__99'"


def test_detectors_can_be_left_out(extrapolated):
    assert len(extrapolated(**ALL, extrapolation=KEEP)) == 54


def test_one_caption_can_stand_for_all_and_originals_come_first(extrapolated, photos):
    dataset = extrapolated(include_originals=True, original_captions="first", extrapolation=KEEP)
    samples = list(dataset)
    assert [x.key for x in samples[:2]] == ["original-000_red_bird__0", "original-000_red_bird__1"]
    assert len(dataset) == 24 + 36 and samples[0].caption and samples[0].text_feature is None
    assert [x.key for x in dataset.read(22, 27)] == [x.key for x in samples[22:27]]
    first = dataset.text_encoder.encode(["a red bird"], torch.device("cpu"))[0]
    sample = next(x for x in samples if x.key.startswith("retrieved-red"))
    weights = sum(sample.metadata["extrapolation"]["weights"])
    torch.testing.assert_close(sample.text_feature, weights * first, rtol=1e-3, atol=1e-3)


def test_captions_of_the_pool_are_dropped_or_kept_in_place_of_the_feature(extrapolated, photos):
    (photos / "web" / "red bird" / "00.txt").write_text("my red bird")
    kept = {x.key: x for x in extrapolated(captions="keep", extrapolation=KEEP)}
    assert kept["retrieved-red_bird__00"].caption == "my red bird"
    assert kept["retrieved-red_bird__00"].text_feature is None
    assert kept["retrieved-red_bird__01"].text_feature is not None
    dropped = {x.key: x for x in extrapolated(extrapolation=KEEP)}
    assert dropped["retrieved-red_bird__00"].caption == ""
    assert dropped["retrieved-red_bird__00"].text_feature is not None


def test_an_image_with_several_samples_is_one_original_with_all_their_captions(extrapolated, photos):
    folder = photos / "birds" / "000.red_bird"
    (folder / "8.png").write_bytes((folder / "7.png").read_bytes())
    (folder / "8.txt").write_text("a red bird\nanother caption\n")
    dataset = extrapolated(extrapolation=KEEP)
    assert len(dataset) == 36 and dataset.summary["originals"]["images"] == 24
    assert dataset.text_encoder.texts == 3 + 8 + 1


def test_text_features_are_given_the_mean_length_of_the_originals(extrapolated):
    dataset = extrapolated(extrapolation=LinearExtrapolation(neighbours=4, among="class", rescale=True))
    lengths = [float(x.text_feature.norm()) for x in dataset]
    assert lengths == pytest.approx([dataset.summary["extrapolation"]["mean length"]] * len(lengths), rel=1e-4)


def test_the_worst_residuals_are_dropped_as_many_as_asked_for(extrapolated, photos):
    every = [x.metadata["extrapolation"]["residual"] for x in extrapolated(**ALL, extrapolation=KEEP)]
    some = extrapolated(
        **ALL, work=str(photos / "o"), extrapolation=LinearExtrapolation(neighbours=4, among="class", drop_worst=0.2)
    )
    kept = [x.metadata["extrapolation"]["residual"] for x in some]
    assert sorted(kept) == sorted(every)[: 54 - 10]
    assert some.summary["extrapolation"]["residual threshold"] == max(kept)


def test_fewer_originals_than_neighbours_are_all_used(extrapolated, photos):
    for i in range(2, 8):
        (photos / "birds" / "000.red_bird" / f"{i}.png").unlink()
    dataset = extrapolated(extrapolation=KEEP, clusters=None)
    neighbours = {x.metadata["keyword"]: len(x.metadata["extrapolation"]["neighbours"]) for x in dataset}
    assert neighbours == {"red bird": 2, "green bird": 4, "blue bird": 4}
    many = LinearExtrapolation(neighbours=1000, drop_worst=0)
    found = extrapolated(work=str(photos / "other"), extrapolation=many)
    assert {len(x.metadata["extrapolation"]["neighbours"]) for x in found} == {18}


def test_a_keyword_with_one_original_has_the_threshold_of_all(extrapolated, photos):
    for i in range(1, 8):
        (photos / "birds" / "000.red_bird" / f"{i}.png").unlink()
    dataset = extrapolated(agreement=None)
    thresholds = {name: x["threshold"] for name, x in dataset.summary["keywords"].items()}
    assert len(dataset) and thresholds["red bird"] not in (None, thresholds["green bird"], thresholds["blue bird"])


def test_neighbours_that_depend_on_each_other_are_counted_unless_there_is_a_ridge(extrapolated, colours):
    # features of three values: four neighbours cannot be independent, and two red ones hardly differ
    free = LinearExtrapolation(neighbours=4, ridge=0)
    with pytest.raises(ValueError, match="1 to 3 neighbours, got 4"):
        len(extrapolated(**ALL, encoder=colours, extrapolation=free))
    assert (
        len(extrapolated(**ALL, encoder=colours, extrapolation=LinearExtrapolation(neighbours=4, drop_worst=0))) == 54
    )


class Two:
    """An encoder that sees two kinds of images."""

    def fingerprint(self):
        return "two"

    def encode_images(self, images):
        return torch.stack([torch.eye(4)[int(x[0].float().mean() > 120)] for x in images])


def test_images_without_one_solution_are_left_out_and_counted(extrapolated):
    dataset = extrapolated(**ALL, encoder=Two(), extrapolation=LinearExtrapolation(neighbours=2, ridge=0, drop_worst=0))
    assert dataset.summary["stages"] == {"singular": 54} and len(dataset) == 0 and list(dataset) == []


class Empty(list):
    fingerprint = "none"

    def read(self, start, stop):
        return iter(())


def test_an_empty_pool_is_an_error(extrapolated):
    with pytest.raises(ValueError, match="the pool is empty"):
        len(extrapolated(retrieval=Folder(Empty())))
    with pytest.raises(ValueError, match="the pool is empty"):
        len(extrapolated(retrieval=Index(Empty(), query="images")))


def test_a_pool_of_other_keywords_and_originals_without_captions_are_errors(extrapolated, photos):
    with pytest.raises(ValueError, match=r"no keyword of the pool \(\['blue bird', .* is one of the originals'"):
        len(extrapolated(originals=ImageFolder(photos), keyword="folder"))
    with pytest.raises(ValueError, match=r"no original has an image, a keyword \('species'\) and a caption"):
        len(extrapolated(keyword="species"))


class Shrinking:
    """An encoder that forgets a value after some images."""

    def __init__(self):
        self.seen = 0

    def fingerprint(self):
        return "shrinking"

    def encode_images(self, images):
        self.seen += len(images)
        return torch.ones(len(images), 4 if self.seen <= 24 else 3)


def test_features_of_other_widths_are_refused(extrapolated):
    with pytest.raises(ValueError, match="equally wide, got 3 values after 4"):
        len(extrapolated(encoder=Shrinking()))


def test_text_features_reach_batches_and_records(extrapolated):
    sample = next(iter(extrapolated()))
    batch = Batch.collate([sample])
    assert torch.equal(batch.text_features[0], sample.text_feature)
    read = decode(sample.key, encode(sample))
    assert torch.equal(read.text_feature, sample.text_feature)
    assert read.metadata["extrapolation"] == sample.metadata["extrapolation"]


@pytest.mark.parametrize(
    "settings", [{"captions": "some"}, {"original_captions": "last"}, {"examples": -1}, {"workers": 0}]
)
def test_settings_that_are_none_are_refused(extrapolated, settings):
    with pytest.raises(ValueError, match="must"):
        extrapolated(**settings)


@pytest.mark.parametrize(
    "settings", [{"neighbours": 0}, {"ridge": -1}, {"drop_worst": 1}, {"among": "some"}, {"batch_size": 0}]
)
def test_settings_of_the_extrapolation_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        LinearExtrapolation(**settings)


def test_the_configuration_makes_it_from_its_rooms(config, photos):
    cfg = config(
        "annotate",
        "dataset=extrapolated",
        "dataset/extrapolated/retrieval=index",
        "dataset/extrapolated/encoder=histogram",
        "layout_model/text_encoder@dataset.text_encoder=hashed_words",
        "dataset@dataset.retrieval.dataset=image_folder",
        "+dataset@dataset.evaluation=image_folder",
        f"dataset.evaluation.directory={photos / 'birds'}",
        f"dataset.originals.directory={photos / 'birds'}",
        f"dataset.retrieval.dataset.directory={photos / 'web'}",
        "dataset.retrieval.query=images",
        "dataset.duplicates.cosine=null",
        f"dataset.work={photos / 'made'}",
        "output_dir=x",
    ).dataset
    dataset = instantiate(cfg, _convert_="all")
    assert dataset.clusters.percentile == 95 and dataset.extrapolation.neighbours == 6
    assert isinstance(dataset.duplicates, NearDuplicates) and isinstance(dataset.clusters, ClusterDetector)
    assert dataset.summary["evaluation"] == 24 and dataset.summary["retrieved"] == 54
    assert next(iter(dataset)).text_feature.shape == (512,)


def test_the_page_shows_clusters_counts_and_reasons(extrapolated, photos):
    (photos / "web" / "red bird" / "broken.jpg").write_bytes(b"\xff\xd8\xff <script>")
    dataset = extrapolated(examples=6)
    len(dataset)
    page = write_extrapolation(photos / "work", photos / "page.html", title="Birds & more").read_text()
    assert "Birds &amp; more" in page and page.count('class="cluster ok"') == 3 == page.count('class="cluster dropped"')
    for keyword, about in dataset.summary["keywords"].items():
        assert f"<bdi>{keyword}</bdi>" in page
        assert all(f"distance {x['distance']:.3f}" in page for x in about["clusters"])
    assert "red_bird__broken: cannot be read" in page and "its cluster is 0." in page
    assert f"Kept up to {dataset.summary['extrapolation']['residual threshold']:.3f}" in page
    assert page.count("data:image/webp;base64,") > 20 and "<script" not in page
    fewer = write_extrapolation(photos / "work", photos / "few.html", max_pictures=4).read_text()
    assert fewer.count("data:image/webp;base64,") < 12


def test_a_page_of_nothing_says_what_to_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="name the `work` folder of dataset=extrapolated"):
        write_extrapolation(tmp_path, tmp_path / "page.html")


def test_pictures_are_kept_of_every_cluster_and_reason_and_no_more(extrapolated, photos):
    len(extrapolated(examples=1))
    kept = list((photos / "work" / "thumbnails").glob("*.webp"))
    assert 6 <= len(kept) <= 6 + 4 * 3
    with PILImage.open(kept[0]) as picture:
        assert np.asarray(picture).shape == (48, 48, 3)
