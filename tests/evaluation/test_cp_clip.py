"""CPCLIP: golden cases with a detector that knows where everything is, and a CLIP that knows colours."""

import math

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image as PILImage

from scenewright.annotators.provenance import describe
from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import CheckpointError, check
from scenewright.evaluation.cp_clip import CPCLIP
from scenewright.layout import Layout, Sample
from scenewright.protocols import Metric

COLOURS = {"dog": (255, 0, 0), "cat": (0, 255, 0), "cactus": (0, 0, 255), "mug": (255, 255, 0)}
BOXES = {"dog": [0.0, 0.0, 0.5, 0.5], "cat": [0.5, 0.0, 1.0, 0.5], "cactus": [0.0, 0.5, 0.5, 1.0]}
FREE = [0.5, 0.5, 1.0, 1.0]


class Seer:
    """Sees the mean colour of a picture."""

    def __init__(self):
        self.batches = []

    def of_pictures(self, pictures, whole=False):
        self.batches.append(len(pictures))
        return torch.nn.functional.normalize(torch.stack([x.float().mean((1, 2)) for x in pictures]), dim=1)

    def of_texts(self, texts, device):
        raise AssertionError("no text plays a part")

    def logits(self, cosines):
        raise AssertionError("these are raw cosines")


class Finder:
    """Finds boxes that it is told of, one list of (label, score, box) per image, whatever it is asked for."""

    def __init__(self, *found):
        self.found, self.asked = found, []

    def detect(self, images, tags):
        self.asked += [list(x) for x in tags]
        return [
            Layout(
                torch.tensor([x[2] for x in some]).reshape(-1, 4),
                [x[0] for x in some],
                scores=torch.tensor([float(x[1]) for x in some]),
            )
            for some in self.found
        ]


def painted(*parts):
    """An image of 60 x 40 with things in places: (name, box)."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    for name, box in parts:
        x0, y0, x1, y1 = (torch.tensor(box) * torch.tensor([60, 40, 60, 40])).int().tolist()
        image[:, y0:y1, x0:x1] = torch.tensor(COLOURS[name], dtype=torch.uint8)[:, None, None]
    return image


def asked(*labels, key="a", **metadata):
    return Sample(
        key, layout=Layout(torch.tensor([FREE] * len(labels)).reshape(-1, 4), list(labels)), metadata=metadata
    )


@pytest.fixture
def references(tmp_path):
    """A folder with one picture of each concept."""
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (8, 8), colour).save(tmp_path / name / "0.png")
    (tmp_path / "dog" / "prompts.txt").write_text("a dog")
    return str(tmp_path)


SCENE = painted(*BOXES.items())
ALL = [(name, 0.9, box) for name, box in BOXES.items()]


def scores_of(found, sample, references, image=SCENE):
    metric = CPCLIP(Finder(found), Seer(), references)
    metric.update([image], [sample])
    return metric.compute()


def test_all_found_and_each_like_its_single_reference_is_one(references):
    numbers = scores_of(ALL, asked("dog", "cat", "cactus"), references)
    assert numbers == pytest.approx({"cp_clip": 1, "matched": 1, "found": 1}, abs=1e-6)


def test_one_of_three_missing_is_two_thirds(references):
    numbers = scores_of(ALL[:2], asked("dog", "cat", "cactus"), references)
    assert numbers == pytest.approx({"cp_clip": 2 / 3, "matched": 2 / 3, "found": 2 / 3}, abs=1e-6)


def test_duplicates_of_one_label_are_ignored(references):
    more = [("dog", 0.5, FREE), ("dog", 0.7, BOXES["cat"]), *ALL, ("Dog", 0.89, FREE)]
    numbers = scores_of(more, asked("dog", "cat", "cactus"), references)
    assert numbers == pytest.approx({"cp_clip": 1, "matched": 1, "found": 1}, abs=1e-6)


def test_of_one_label_the_surest_box_is_kept_even_if_it_shows_nothing(references):
    found = [("dog", 0.5, BOXES["dog"]), ("dog", 0.6, FREE)]
    assert scores_of(found, asked("dog"), references)["cp_clip"] == pytest.approx(0, abs=1e-6)


def test_labels_that_nobody_asked_for_change_nothing(references):
    numbers = scores_of([*ALL, ("mug", 0.99, FREE)], asked("dog", "cat", "cactus"), references)
    assert numbers["cp_clip"] == pytest.approx(1, abs=1e-6)


def test_nothing_found_is_zero_and_is_a_score(references):
    metric = CPCLIP(Finder([]), Seer(), references)
    metric.update([SCENE], [asked("dog", "cat")])
    assert metric.compute() == {"cp_clip": 0, "matched": 0, "found": 0} and metric.records[0].scored == 6


def test_the_detectors_own_label_does_not_tell_which_concept_a_box_is_compared_with(references):
    """Two boxes may then look like the same concept, but not where boxes and concepts are matched one to one."""
    both_dogs = painted(("dog", BOXES["dog"]), ("dog", BOXES["cat"]))
    numbers = scores_of(ALL[:2], asked("dog", "cat"), references, both_dogs)
    assert numbers == pytest.approx({"cp_clip": 1, "matched": 0.5, "found": 1}, abs=1e-6)
    swapped = painted(("cat", BOXES["dog"]), ("dog", BOXES["cat"]))
    assert scores_of(ALL[:2], asked("dog", "cat"), references, swapped)["matched"] == pytest.approx(1, abs=1e-6)


def test_two_concepts_of_one_label_share_a_box_but_are_matched_with_two(references):
    """A red and a yellow one, both called mug."""
    image = painted(("dog", BOXES["dog"]), ("mug", BOXES["cat"]))
    found = [("mug", 0.9, BOXES["dog"]), ("mug", 0.4, BOXES["cat"]), ("mug", 0.3, FREE)]
    sample = asked("mug", "mug", concepts=["mug", "dog"])
    numbers = scores_of(found, sample, references, image)
    assert numbers == pytest.approx({"cp_clip": 1 / 2, "matched": 1, "found": 1 / 2}, abs=1e-6)


def test_boxes_that_frame_the_same_thing_are_not_two(references):
    image = painted(("dog", BOXES["dog"]), ("mug", BOXES["cat"]))
    again = [("mug", 0.9, BOXES["dog"]), ("mug", 0.8, [0.0, 0.0, 0.49, 0.5]), ("mug", 0.4, BOXES["cat"])]
    numbers = scores_of(again, asked("mug", "mug", concepts=["mug", "dog"]), references, image)
    assert numbers["matched"] == pytest.approx(1, abs=1e-6)


def test_of_several_references_the_mean_cosine_counts(references, tmp_path):
    PILImage.new("RGB", (5, 9), (255, 255, 0)).save(tmp_path / "dog" / "1.png")  # 45 degrees from red
    numbers = scores_of(ALL[:1], asked("dog"), references)
    assert numbers["cp_clip"] == pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-6)
    files = {"dog": [str(tmp_path / "mug" / "0.png")]}
    assert scores_of(ALL[:1], asked("dog"), files)["cp_clip"] == pytest.approx(math.sqrt(0.5), abs=1e-6)


def test_case_white_space_and_underscores_of_names_make_no_difference(references, tmp_path):
    (tmp_path / "cat").rename(tmp_path / "Maine_Coon")
    found = [("maine coon", 0.9, BOXES["cat"])]
    assert scores_of(found, asked("Maine  coon"), references)["cp_clip"] == pytest.approx(1, abs=1e-6)


def test_images_are_judged_by_themselves_and_references_are_looked_at_once(references):
    seer = Seer()
    metric = CPCLIP(Finder(ALL, ALL[:1], []), seer, references)
    samples = [asked("dog", "cat", "cactus", key="a"), asked("dog", "cat", key="b"), asked("dog", key="c")]
    together = metric.score([SCENE] * 3, samples)
    assert seer.batches == [4, 1, 1, 1]
    for record, found, sample in zip(together, (ALL, ALL[:1], []), samples, strict=True):
        (alone,) = CPCLIP(Finder(found), Seer(), references).score([SCENE], [sample])
        assert alone.objects == record.objects and alone.key == record.key


def test_scores_per_region_average_to_the_number(references):
    metric = CPCLIP(Finder(ALL[:2], ALL), Seer(), references)
    assert isinstance(metric, Metric)
    metric.update([SCENE] * 2, [asked("dog", "cat", "cactus"), asked("cactus", key="b")])
    assert [x.objects["found"] for x in metric.records] == [[1, 1, 0], [1]]
    assert metric.compute()["cp_clip"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)


def test_a_layout_without_regions_counts_for_nothing_and_is_not_looked_at(references):
    finder = Finder([])
    metric = CPCLIP(finder, Seer(), references)
    metric.update([SCENE], [asked()])
    assert metric.records[0].expected == 0 and math.isnan(metric.compute()["cp_clip"]) and finder.asked == [[]]


def test_an_image_whose_concept_has_no_references_is_not_scored_and_that_is_said(references):
    (record,) = CPCLIP(Finder(ALL), Seer(), references).score([SCENE], [asked("dog", "wolf")])
    assert record.scored == 0 and record.problems == ["there are no reference pictures of 'wolf'"]
    (record,) = CPCLIP(Finder(ALL), Seer(), references).score([SCENE], [asked("dog", "cat", concepts=["dog"])])
    assert record.scored == 0 and "metadata.concepts must name all 2 regions' concepts, got 1" in record.problems[0]


def test_a_box_without_any_area_is_a_crop_of_a_pixel(references):
    found = [("dog", 0.9, [0.1, 0.1, 0.1, 0.1]), ("cat", 0.9, [1.0, 0.0, 1.0, 0.0])]
    assert scores_of(found, asked("dog", "cat"), references)["cp_clip"] == pytest.approx(1, abs=1e-6)


def test_references_that_are_not_there_are_named_before_any_work(references, tmp_path):
    for wrong in (str(tmp_path / "nowhere"), {"dog": [str(tmp_path / "gone.png")]}, {}):
        with pytest.raises(CheckpointError, match="cp_clip CPCLIP: references must be a folder with a subfolder"):
            check({"cp_clip": CPCLIP(Finder(), Seer(), wrong)})
    check({"cp_clip": CPCLIP(Finder(), Seer(), references)})
    (tmp_path / "dog" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="the reference picture .*dog/0.png cannot be read: the file is not an image"):
        scores_of(ALL, asked("dog"), references)


def test_other_references_are_another_measurement(references, tmp_path):
    before = describe(CPCLIP(Finder(), Seer(), references))
    assert describe(CPCLIP(Finder(), Seer(), references)) == before
    PILImage.new("RGB", (5, 9)).save(tmp_path / "dog" / "1.png")
    assert describe(CPCLIP(Finder(), Seer(), references)) != before
    one = {"dog": [str(tmp_path / "dog" / "0.png")]}
    assert len(describe(CPCLIP(Finder(), Seer(), one))["checkpoints"]) == 1


def test_with_a_real_clip_a_crop_that_is_the_reference_itself_is_one(tiny_clip, tmp_path_factory, references, tmp_path):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    image = (torch.nn.functional.interpolate(coarse, (40, 60), mode="bicubic")[0].clamp(0, 1) * 255).byte()
    crop = image[:, 10:30, 15:55].permute(1, 2, 0).numpy()
    PILImage.fromarray(crop).save(tmp_path / "dog" / "0.png")
    clip = CLIP(tiny_clip(tmp_path_factory.mktemp("cp_clip")))
    finder = Finder([("dog", 0.9, [15 / 60, 10 / 40, 55 / 60, 30 / 40])], [("dog", 0.9, BOXES["cat"])])
    for compat in (False, True):
        same, other = CPCLIP(finder, clip, references, compat=compat).score([image] * 2, [asked("dog")] * 2)
        assert same.objects["cp_clip"] == pytest.approx([1], abs=1e-5) and other.objects["cp_clip"][0] < 0.999


def test_as_configured_the_detector_keeps_what_is_barely_sure_and_labels_apart(config, references):
    cfg = config("eval", "metric=[cp_clip]", f"metric.cp_clip.references={references}", "output_dir=x")
    metric = instantiate(cfg.metric.cp_clip, _convert_="all")
    assert type(metric.detector).__name__ == "OWLv2" and metric.detector.box_threshold == 0.1
    assert not metric.detector.class_agnostic
