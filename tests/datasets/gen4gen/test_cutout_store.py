import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.datasets.gen4gen.concepts import read_concepts
from scenewright.datasets.gen4gen.cutout_store import CutoutStore
from scenewright.datasets.gen4gen.cutouts import Cutter
from scenewright.layout import RunLengths

RED, BLUE, GREEN = (200, 40, 30), (30, 40, 200), (60, 190, 80)


@dataclass
class Keyed:
    """Takes what is not green; counts the pictures that it is given."""

    strength: int = 0
    asked: list = field(default_factory=list, init=False)

    def segment(self, images, layouts):
        self.asked += images
        return [[run for run in RunLengths.encode((image[1] < image[0].maximum(image[2]))[None])] for image in images]


def photo(thing=RED, left=20, size=(60, 80)):
    pixels = np.full((*size, 3), GREEN, np.uint8)
    pixels[15:45, left : left + 30] = thing
    return pixels


def save(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path, "PNG")
    return path


def store_of(folder, segmenter=None, **options):
    keep = {"max_pixels": options.pop("max_pixels")} if "max_pixels" in options else {}
    return CutoutStore(folder / "cutouts", Cutter(segmenter or Keyed(), **options), folder / "photos", **keep)


def files(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())


def same(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.alpha, b.alpha)


def middle(cutout):
    height, width = cutout.alpha.shape
    return tuple(cutout.image[:, height // 2, width // 2].tolist())


@pytest.fixture
def one(tmp_path):
    return save(tmp_path / "photos/zoo/cat1/a.jpg", photo())


def test_what_is_made_once_is_read_back_as_it_was(tmp_path, one):
    segmenter = Keyed()
    made = store_of(tmp_path, segmenter).get(one)
    assert (made.name, made.concept, made.photo, made.confidence) == ("cat", "zoo/cat1", "zoo/cat1/a.jpg", 1.0)
    read = store_of(tmp_path, segmenter).get(one)
    assert same(made, read) and vars(read).keys() == vars(made).keys()
    assert (read.name, read.concept, read.photo, read.confidence) == ("cat", "zoo/cat1", "zoo/cat1/a.jpg", 1.0)
    assert len(segmenter.asked) == 1
    assert files(tmp_path / "cutouts") == ["zoo/cat1/a.jpg.json", "zoo/cat1/a.jpg.png"]
    record = json.loads((tmp_path / "cutouts/zoo/cat1/a.jpg.json").read_text())
    assert record["size"] == [60, 80] and record["box"] == pytest.approx([19 / 80, 14 / 60, 51 / 80, 46 / 60])


def test_the_file_is_straight_colour_and_alpha(tmp_path, one):
    cutout = store_of(tmp_path).get(one)
    rgba = np.asarray(PILImage.open(store_of(tmp_path).path(one)))
    assert (rgba[..., :3] == cutout.image.permute(1, 2, 0).numpy()).all()
    assert np.abs(rgba[..., 3] / 255 - cutout.alpha.numpy()).max() < 1e-6
    assert np.abs(rgba[..., :3].astype(int) - RED).max() < 40 and rgba[0, 0, 3] < 100


def test_names_with_dots_spaces_and_umlauts_and_scenes_named_like_rounds_each_get_their_cut_out(tmp_path):
    names = [
        "background_1/dog/a.b.jpg",
        "background_1/dog/a.jpg",
        "background_1/dog/a.png",
        "round_0/dog/x.jpg",
        "rounds/0/x.jpg",
        "ein garten/köter 2/größe ü.jpg",
    ]
    for i, name in enumerate(names):
        save(tmp_path / "photos" / name, photo(left=5 * i))
    store = store_of(tmp_path, rounds=2)
    photos = [x for scene in read_concepts(tmp_path / "photos") for concept in scene.concepts for x in concept.photos]
    assert store.fill(photos, batch_size=4) == {} and len(photos) == len(names)
    for name in names:
        assert (tmp_path / "cutouts" / f"{name}.png").is_file(), name
        assert (tmp_path / "cutouts/rounds/0" / f"{name}.png").is_file(), name
    assert store.get(photos[-1]).photo in names


def test_one_round_is_enough_and_leaves_no_earlier_ones(tmp_path, one):
    assert store_of(tmp_path, rounds=1).get(one).alpha.max() == 1.0
    assert not (tmp_path / "cutouts/rounds").exists()


def test_only_the_files_of_the_photo_are_written(tmp_path, one):
    other = save(one.with_name("b.jpg"), photo(BLUE))
    store = store_of(tmp_path)
    store.get(one)
    before = {x: (tmp_path / "cutouts" / x).stat().st_mtime_ns for x in files(tmp_path / "cutouts")}
    store.get(other)
    assert len(files(tmp_path / "cutouts")) == 4
    assert all((tmp_path / "cutouts" / x).stat().st_mtime_ns == time for x, time in before.items())


def test_another_photo_or_setting_makes_it_anew_and_a_touched_file_does_not(tmp_path, one):
    segmenter = Keyed()
    store_of(tmp_path, segmenter).get(one)
    os.utime(one, ns=(1, 1))
    store_of(tmp_path, segmenter).get(one)
    assert len(segmenter.asked) == 1
    save(one, photo(BLUE))
    assert middle(store_of(tmp_path, segmenter).get(one)) == BLUE and len(segmenter.asked) == 2
    store_of(tmp_path, segmenter, padding=3).get(one)
    assert len(segmenter.asked) == 3
    stronger = Keyed(strength=1)
    store_of(tmp_path, stronger, padding=3).get(one)
    assert len(stronger.asked) == 1


def test_a_cut_out_outlives_its_photo(tmp_path, one):
    made = store_of(tmp_path).get(one)
    one.unlink()
    assert same(store_of(tmp_path).get(one), made)


def test_a_failure_is_remembered_with_its_reason_until_something_changes(tmp_path, one):
    save(one, photo(GREEN))
    segmenter = Keyed()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"zoo/cat1/a\.jpg: nothing stands out"):
            store_of(tmp_path, segmenter).get(one)
        failed = store_of(tmp_path, segmenter).fill([one])
        assert list(failed) == ["zoo/cat1/a.jpg"] and "nothing stands out" in failed["zoo/cat1/a.jpg"]
    assert len(segmenter.asked) == 1
    assert files(tmp_path / "cutouts") == ["zoo/cat1/a.jpg.json"]
    save(one, photo(RED))
    assert middle(store_of(tmp_path, segmenter).get(one)) == RED


def test_a_photo_that_fails_now_leaves_no_cut_out_of_before(tmp_path, one):
    store_of(tmp_path).get(one)
    save(one, photo(GREEN))
    with pytest.raises(ValueError, match="nothing stands out"):
        store_of(tmp_path).get(one)
    assert files(tmp_path / "cutouts") == ["zoo/cat1/a.jpg.json"]


def test_a_broken_photo_is_counted_beside_good_ones(tmp_path, one):
    broken = one.with_name("broken.jpg")
    broken.write_bytes(one.read_bytes()[:40])
    failed = store_of(tmp_path).fill([one, broken])
    assert list(failed) == ["zoo/cat1/broken.jpg"]
    assert "zoo/cat1/a.jpg.png" in files(tmp_path / "cutouts")


def test_a_photo_that_is_not_there_is_said_and_not_written_down(tmp_path, one):
    missing = one.with_name("missing.jpg")
    with pytest.raises(ValueError, match=r"'zoo/cat1/missing\.jpg' cannot be read: No such file"):
        store_of(tmp_path).get(missing)
    assert not (tmp_path / "cutouts").exists()
    with pytest.raises(ValueError, match="does not lie below"):
        store_of(tmp_path).get(tmp_path / "elsewhere.jpg")


def by_hand(path, colour=BLUE):
    rgba = np.zeros((40, 50, 4), np.uint8)
    rgba[10:30, 5:45] = (*colour, 255)
    return save(path, rgba)


def test_a_better_one_by_hand_is_used_and_never_overwritten(tmp_path, one):
    store = store_of(tmp_path)
    store.get(one)
    data = by_hand(store.path(one)).read_bytes()
    segmenter = Keyed()
    for options in ({}, {"padding": 2}):
        cutout = store_of(tmp_path, segmenter, **options).get(one)
        assert middle(cutout) == BLUE and cutout.name == "cat" and max(cutout.alpha.shape) < 46
    save(one, photo(GREEN))
    assert middle(store_of(tmp_path, segmenter).get(one)) == BLUE
    assert segmenter.asked == [] and store.path(one).read_bytes() == data
    store.path(one).unlink()
    with pytest.raises(ValueError, match="nothing stands out"):
        store_of(tmp_path, segmenter).get(one)


def test_one_edited_in_place_is_known_although_the_program_kept_the_record(tmp_path, one):
    path = store_of(tmp_path).path(one)
    store_of(tmp_path).get(one)
    image = PILImage.open(path)
    pixels = np.array(image)
    pixels[..., :3] = BLUE
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("scenewright", image.info["scenewright"])
    PILImage.fromarray(pixels).save(path, pnginfo=info)
    assert middle(store_of(tmp_path, padding=2).get(one)) == BLUE


def test_one_by_hand_helps_where_the_cutter_failed(tmp_path, one):
    save(one, photo(GREEN))
    assert store_of(tmp_path).fill([one])
    by_hand(store_of(tmp_path).path(one))
    assert store_of(tmp_path).fill([one]) == {}
    assert middle(store_of(tmp_path).get(one)) == BLUE


def test_an_earlier_round_may_be_copied_over_the_last(tmp_path, one):
    class Shrinking(Keyed):
        def segment(self, images, layouts):
            ((run,),) = super().segment(images, layouts)
            mask = run.decode()
            if len(self.asked) > 1:
                mask[:, 35:] = False
            return [RunLengths.encode(mask[None])]

    store = store_of(tmp_path, Shrinking(), rounds=2)
    assert store.get(one).alpha.shape[1] < 20
    earlier = tmp_path / "cutouts/rounds/0/zoo/cat1/a.jpg.png"
    store.path(one).write_bytes(earlier.read_bytes())
    again = store_of(tmp_path, Shrinking(), rounds=2)
    assert again.get(one).alpha.shape[1] > 28
    assert again.cutter.segmenter.asked == []


@pytest.mark.parametrize(
    ("kind", "reason"), [("JPEG", "it has no alpha channel"), ("text", "cannot identify"), ("empty", "nothing")]
)
def test_one_by_hand_that_is_no_cut_out_is_said(tmp_path, one, kind, reason):
    path = store_of(tmp_path).path(one)
    file = io.BytesIO()
    if kind == "JPEG":
        PILImage.fromarray(photo()).save(file, "JPEG")
    if kind == "empty":
        PILImage.fromarray(np.zeros((8, 8, 4), np.uint8)).save(file, "PNG")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" if kind == "text" else file.getvalue())
    with pytest.raises(ValueError, match=rf"a\.jpg\.png' cannot be used: {reason}.*delete it to have it made again"):
        store_of(tmp_path).get(one)


def test_a_broken_record_is_made_anew(tmp_path, one):
    save(one, photo(GREEN))
    assert store_of(tmp_path).fill([one])
    (tmp_path / "cutouts/zoo/cat1/a.jpg.json").write_text("{")
    segmenter = Keyed()
    assert store_of(tmp_path, segmenter).fill([one]) and len(segmenter.asked) == 1


def test_the_memory_is_bounded_by_pixels_and_keeps_what_was_used_last(tmp_path, one):
    others = [save(one.with_name(f"{i}.jpg"), photo(left=i)) for i in range(4)]
    pixels = store_of(tmp_path).get(one).alpha.numel()
    store = store_of(tmp_path, max_pixels=2 * pixels + pixels // 2)
    first = store.get(others[0])
    second = store.get(others[1])
    assert store.get(others[0]) is first
    store.get(others[2])
    assert store.get(others[0]) is first
    assert store.get(others[1]) is not second and same(store.get(others[1]), second)
    tight = store_of(tmp_path, max_pixels=1)
    assert tight.get(one) is not tight.get(one)


def test_several_may_fill_one_folder_at_once(tmp_path, one):
    photos = [one, *(save(one.with_name(f"{i}.jpg"), photo(left=5 * i)) for i in range(5))]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: store_of(tmp_path).fill(photos, batch_size=2), range(4)))
    assert results == [{}] * 4
    assert len(files(tmp_path / "cutouts")) == 12 and not [x for x in files(tmp_path / "cutouts") if "part" in x]
    segmenter = Keyed()
    assert store_of(tmp_path, segmenter).fill(photos) == {} and segmenter.asked == []
