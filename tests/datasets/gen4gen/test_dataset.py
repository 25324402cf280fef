"""The source of composed scenes: exact layouts, the same scenes however they are made, nothing made twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.checkpoints import CheckpointError
from scenewright.datasets.gen4gen import Gen4Gen
from scenewright.datasets.gen4gen.cutouts import Cutter
from scenewright.datasets.gen4gen.paster import Paster
from scenewright.datasets.gen4gen.planner.rules import RulesPlanner
from scenewright.datasets.gen4gen.records import LayoutPlan
from scenewright.datasets.gen4gen.repainter.blend import Blend
from scenewright.layout import RunLengths
from scenewright.protocols import RangedDataset


class Saturated:
    """Cuts out what is colourful."""

    def segment(self, images, layouts):
        colourful = [image.float().amax(0) - image.float().amin(0) > 60 for image in images]
        return [
            RunLengths.encode(x[None].expand(len(layout), -1, -1)) for x, layout in zip(colourful, layouts, strict=True)
        ]


class Counting:
    """A planner or repainter that counts what it is asked for."""

    def __init__(self, inner):
        self.inner, self.asked = inner, 0

    def plan(self, requests):
        self.asked += len(requests)
        return self.inner.plan(requests)

    def repaint(self, jobs):
        self.asked += len(jobs)
        return self.inner.repaint(jobs)


class Silent:
    """A planner that has no answer for things of these names."""

    def __init__(self, *names):
        self.names = names

    def plan(self, requests):
        fine = RulesPlanner()
        return [
            LayoutPlan(None, error="the server did not answer", log=[{"call": "layout", "prompt": "Objects:"}])
            if {*x.names} & {*self.names}
            else fine.plan([x])[0]
            for x in requests
        ]


def photo(path: Path, colour, size=(60, 48), mode="RGB") -> None:
    """A coloured rectangle in the middle of a grey photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    pixels[12:-12, 15:-15] = colour
    PILImage.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def concepts(tmp_path) -> Path:
    root = tmp_path / "concepts"
    photo(root / "a table" / "cup1" / "one.png", (200, 20, 20))
    photo(root / "a table" / "cup2" / "eins.png", (20, 20, 200), (90, 48))
    photo(root / "a table" / "Zimmerpflanze_grün" / "a b.jpg", (20, 160, 20), mode="CMYK")
    photo(root / "background_1" / "ball" / "x.y.png", (220, 120, 0))
    photo(root / "background_1" / "ball" / "z.png", (220, 120, 0))
    for place, grey in (("garden", 90), ("old bridge", 160)):
        photo(tmp_path / "backgrounds" / place / "1.png", (grey, grey, grey))
    return root


@pytest.fixture
def make(concepts, tmp_path):
    def made(work="work", **settings) -> Gen4Gen:
        given = {
            "directory": str(concepts),
            "cutter": Cutter(Saturated()),
            "planner": RulesPlanner(),
            "paster": Paster(),
            "repainter": Blend(harmonise=0.0, shadow=0.0),
            "work": str(tmp_path / work),
            "backgrounds": str(tmp_path / "backgrounds"),
            "length": 6,
            "height": 96,
            "width": 128,
            "objects": (1, 3),
        }
        return Gen4Gen(**{**given, **settings})

    return made


def test_boxes_are_the_tight_boxes_of_masks_and_masks_hold_their_colour(make):
    dataset = make()
    assert isinstance(dataset, RangedDataset)
    colours = {"cup1": (200, 20, 20), "cup2": (20, 20, 200), "ball": (220, 120, 0)}
    seen = set()
    for sample in dataset:
        assert sample.error == "" and sample.image.shape == (3, 96, 128)
        keys = sample.metadata["gen4gen"]["concepts"]
        for box, label, mask, key in zip(
            sample.layout.boxes, sample.layout.labels, sample.layout.masks, keys, strict=True
        ):
            torch.testing.assert_close(box, mask.box)
            name = key.split("/")[1]
            seen.add((name, label))
            if name in colours:
                inside = sample.image[:, mask.decode()].float()
                # JPEG and soft edges apart, it is the thing that the label names, not a neighbour
                assert (inside.median(1).values - torch.tensor(colours[name]).float()).abs().max() <= 8
    assert seen >= {("cup1", "cup"), ("cup2", "cup"), ("ball", "ball"), ("Zimmerpflanze_grün", "Zimmerpflanze grün")}


def test_a_scene_says_its_things_and_its_place(make):
    for sample in make():
        about = sample.metadata["gen4gen"]
        assert about["background"] in ("in a garden", "in the old bridge")
        assert sample.caption.endswith(about["background"]) and about["prompt"].endswith(about["background"])
        assert about["background_photo"].split("/")[0] in about["background"]
        assert all(label in sample.caption for label in sample.layout.labels if sample.layout.labels.count(label) == 1)
    assert {x.caption for x in make("other", caption="none")} == {""}


def test_scenes_do_not_depend_on_where_reading_starts_or_on_batches(make):
    alone = [x.image for x in make()]
    parts = [*make("parts", batch_size=2, workers=1).read(4, 6), *make("parts").read(0, 4)]
    for expected, found in zip(alone[4:] + alone[:4], parts, strict=True):
        assert torch.equal(expected, found.image)
    assert not torch.equal(alone[0], next(iter(make("seed", seed=1))).image)


def test_what_is_made_is_read_back_and_not_made_again(make, tmp_path):
    first = list(make())
    planner, repainter = Counting(RulesPlanner()), Counting(Blend(harmonise=0.0, shadow=0.0))
    again = make(planner=planner, repainter=repainter)
    # counting does not change what comes out, so the album may take it for what it had
    again.__dict__["_settings"] = make()._settings
    (tmp_path / "work" / "scenes" / "000002" / "record.json").unlink()  # killed while it was written
    second = list(again)
    assert planner.asked == repainter.asked == 1
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.layout.boxes, b.layout.boxes)
        assert a.layout.masks == b.layout.masks and a.metadata == b.metadata and a.caption == b.caption


def test_all_that_led_to_a_scene_can_be_looked_at(make, tmp_path):
    list(make(length=1))
    folder = tmp_path / "work" / "scenes" / "000000"
    assert sorted(x.name for x in folder.iterdir()) == ["pasted.png", "plan.json", "record.json", "repainted.png"]
    with PILImage.open(folder / "pasted.png") as pasted:
        alpha = np.asarray(pasted)[..., 3]
    assert alpha.min() == 0 and alpha.max() == 255
    record = json.loads((folder / "record.json").read_text())
    assert record["psnr"] == 99 and {"photos", "prompt", "background_photo"} <= {*record}
    assert all((tmp_path / "work" / "cutouts" / f"{x}.png").exists() for x in record["photos"])


def test_another_setting_is_refused_in_the_same_folder(make, concepts):
    list(make(length=1))
    with pytest.raises(ValueError, match=r"made with other settings \(seed\): set them back, choose another folder"):
        list(make(length=1, seed=3))
    list(make(length=3))  # more of the same is no other setting
    photo(concepts / "background_1" / "ball" / "new.png", (220, 120, 0))
    with pytest.raises(ValueError, match=r"other settings \(photos\)"):
        list(make(length=1))


def test_a_corrupt_photo_is_passed_over_for_another_one_and_else_it_is_an_error_of_its_scenes(make, concepts):
    (concepts / "background_1" / "ball" / "z.png").write_bytes(b"no image")
    assert {x.error for x in make()} == {""}
    (concepts / "background_1" / "ball" / "x.y.png").write_bytes(b"")
    errors = [x.error for x in make("again")]
    assert errors[::2] == [""] * 3
    assert all("no photo of background_1/ball can be cut out: " in x and "x.y.png: " in x for x in errors[1::2])


def test_a_photo_with_nothing_in_it_is_an_error_that_says_so(make, concepts):
    for name in ("x.y.png", "z.png"):
        photo(concepts / "background_1" / "ball" / name, (200, 200, 200))
    (_, ball) = make(length=2)
    assert "no photo of background_1/ball can be cut out" in ball.error and len(ball.layout) == 0


def test_weights_that_are_broken_end_the_run_and_no_photo_is_blamed(make):
    class Broken:
        def segment(self, images, layouts):
            raise CheckpointError("isnet.safetensors lacks 3 tensors")

    with pytest.raises(CheckpointError, match="lacks 3 tensors"):
        list(make(cutter=Cutter(Broken())))
    assert {x.error for x in make()} == {""}


def test_a_planner_without_an_answer_costs_its_scenes_and_they_are_tried_again(make, tmp_path):
    samples = list(make(planner=Silent("ball")))
    assert [bool(x.error) for x in samples] == [False, True] * 3
    assert samples[1].error == "planner: the server did not answer"
    plan = json.loads((tmp_path / "work" / "scenes" / "000001" / "plan.json").read_text())
    assert plan["error"] == samples[1].error and plan["log"][0]["prompt"] == "Objects:"
    again = make(planner=(planner := Counting(RulesPlanner())))
    again.__dict__["_settings"] = make(planner=Silent("ball"))._settings
    assert {x.error for x in again} == {""} and planner.asked == 3


def test_without_background_photos_there_is_a_backdrop_and_the_caption_says_so(make):
    first, second = make(backgrounds=None, length=2)
    assert first.metadata["gen4gen"]["background_photo"] == "" and first.caption.endswith(
        "in front of a plain backdrop"
    )
    corner = first.image[:, :8, :8].float()
    assert corner.std((1, 2)).max() < 5 and not torch.equal(first.image[:, 0], second.image[:, 0])


class Painting:
    """A repainter that paints, and remembers what it was given."""

    def repaint(self, jobs):
        self.jobs = jobs
        return [job.composition.image for job in jobs]


def test_a_repainter_that_paints_gets_no_photo_and_the_planners_place(make):
    sample = next(iter(make(backgrounds=None, repainter=(painting := Painting()), length=1)))
    assert [x.background for x in painting.jobs] == [None] and "backdrop" not in painting.jobs[0].prompt
    assert sample.caption.endswith(sample.metadata["gen4gen"]["background"])


def test_a_background_that_cannot_be_read_is_an_error_that_names_it(make, tmp_path):
    for path in (tmp_path / "backgrounds").glob("*/*.png"):
        path.write_bytes(b"x")
    sample = next(iter(make()))
    assert sample.error.startswith("background: the background photo ") and "1.png" in sample.error


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"length": -1}, "length must be at least 0, got -1"),
        ({"height": 8}, "height must be at least 64, got 8"),
        ({"objects": (3, 2)}, "objects must be the fewest and the most"),
        ({"caption": "long"}, "caption must be template or none, got 'long'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, setting, said):
    with pytest.raises(ValueError, match=said):
        make(**setting)


def test_no_concepts_are_said(make, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no scene in"):
        list(make(directory=str(tmp_path / "empty")))


def test_rooms_are_named_by_their_groups(config):
    cfg = config(
        "annotate",
        "dataset=gen4gen",
        "dataset/gen4gen/planner=chat",
        "dataset/gen4gen/repainter=sdxl_inpaint",
        "dataset/gen4gen/cutter=isnet",
        "dataset.directory=x",
        "output_dir=y",
    )
    kinds = [cfg.dataset[x]._target_.rsplit(".", 1)[1] for x in ("planner", "repainter", "cutter", "paster")]
    assert kinds == ["ChatPlanner", "SDXLInpaint", "Cutter", "Paster"]
    assert cfg.dataset.cutter.segmenter._target_.endswith("ISNet")
