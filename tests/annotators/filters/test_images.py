"""Filters of whole images: size, blur and near-duplicates."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image as PILImage
from torchvision.transforms.v2.functional import gaussian_blur, resize

from scenewright.annotators.filters.blur import Blur, sharpness
from scenewright.annotators.filters.duplicates import Duplicates
from scenewright.annotators.filters.image_size import ImageSize
from scenewright.layout import EncodedImage, Sample, decode
from scenewright.perceptual_hashes import first_like, phash
from scenewright.protocols import Filter


def photo(name, side=256):
    image = torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, name)())).permute(2, 0, 1)
    return resize(image, [side, side], antialias=True)


def jpeg(image, quality):
    file = io.BytesIO()
    PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return decode(file.getvalue())


def sample(key, image):
    return Sample.from_image(key, image)


def blank(height, width):
    return torch.zeros(3, height, width, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((256, 300), ""),
        ((255, 300), "shorter side 255 px is below 256 px"),
        ((300, 2001), "longer side 2001 px is above 2000 px"),
        ((256, 800), "aspect 3.12 is above 3"),
    ],
)
def test_image_size(size, reason):
    (verdict,) = ImageSize(maximum=2000).judge([sample("a", blank(*size))])
    assert verdict.image == reason and verdict.regions == []


def test_blurred_photographs_are_dropped_and_sharp_ones_kept_at_any_size():
    sharp = [photo(name, side) for name in ("astronaut", "coffee", "chelsea") for side in (256, 512)]
    blurred = [gaussian_blur(x, [31, 31], [0.02 * x.shape[1]] * 2) for x in sharp]
    judge = Blur()
    assert isinstance(judge, Filter) and judge.after == "source" and judge.judge([]) == []
    verdicts = judge.judge([sample("a", x) for x in sharp + blurred])
    assert not any(x.image for x in verdicts[:6])
    assert all(x.image.startswith("sharpness ") and x.image.endswith(" is below 10") for x in verdicts[6:])


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_sharpness_hardly_depends_on_the_size_of_the_file(name):
    twice, four = (sharpness(photo(name, side)) for side in (1024, 2048))
    assert four == pytest.approx(twice, rel=0.2)


def test_a_plain_image_has_no_sharpness_however_flat_it_is():
    assert sharpness(blank(1, 2000)) == sharpness(blank(300, 300)) == 0


# ---- near-duplicates


class Listed:
    """A dataset that counts how often it was read."""

    def __init__(self, *samples):
        self.samples, self.reads = samples, 0

    def __iter__(self):
        self.reads += 1
        return iter(self.samples)


def album():
    astronaut, cat, cup = (photo(x) for x in ("astronaut", "chelsea", "coffee"))
    return [
        sample("000", astronaut),
        sample("001", cat),
        sample("002", resize(astronaut, [100, 130], antialias=True)),
        sample("003", cup),
        sample("004", jpeg(cat, 20)),
        Sample("005", source=EncodedImage(b"nothing", "jpg")),
        sample("006", (astronaut.float() * 0.8).to(torch.uint8)),
    ]


def test_the_first_of_near_duplicates_is_kept_whoever_asks_and_in_whatever_order():
    judge = Duplicates(Listed(*album()))
    sound = [x for x in album() if x.key != "005"]
    backwards = judge.judge(sound[::-1])[::-1]
    one_by_one = [Duplicates(Listed(*album()), workers=1).judge([x])[0] for x in sound]
    assert backwards == one_by_one
    assert [x.image.rsplit(" (")[0] for x in backwards] == [
        "",
        "",
        "near-duplicate of '000'",
        "",
        "near-duplicate of '001'",
        "near-duplicate of '000'",
    ]
    assert "(distance " in backwards[2].image and judge.among.reads == 1


def test_an_image_that_is_not_of_the_dataset_is_held_against_all_of_it():
    judge = Duplicates(Listed(*album()))
    strange, like = sample("x", photo("rocket")), sample("y", jpeg(photo("coffee"), 30))
    first, second = judge.judge([strange, like])
    assert not first.image and second.image.startswith("near-duplicate of '003'")
    assert Duplicates(Listed()).judge([strange])[0].image == ""


def test_the_hash_is_imagehashs():
    import imagehash

    image = photo("astronaut")
    theirs = imagehash.phash(PILImage.fromarray(image.permute(1, 2, 0).numpy()))
    assert f"{phash(image):016x}" == str(theirs)


def greedy(hashes, distance):
    """The same, hash by hash."""
    kept, twins = [], []
    for i, value in enumerate(hashes):
        twin = next((j for j in kept if (int(value) ^ int(hashes[j])).bit_count() <= distance), i)
        twins.append(twin)
        if twin == i:
            kept.append(i)
    return twins


@pytest.mark.parametrize("distance", [0, 4, 20])
@pytest.mark.parametrize("size", [0, 1, 1500])
def test_every_hash_finds_the_first_kept_one_that_is_near(distance, size):
    random = np.random.default_rng(0)
    seeds = random.integers(0, 2**64, 300, dtype=np.uint64)
    flips = (np.uint64(1) << random.integers(0, 64, (size, 3)).astype(np.uint64)) * random.integers(
        0, 2, (size, 3)
    ).astype(np.uint64)
    hashes = seeds[random.integers(0, 300, size)] ^ np.bitwise_xor.reduce(flips, 1)
    assert first_like(hashes, distance).tolist() == greedy(hashes, distance)


def test_a_distance_beyond_all_bits_is_refused():
    with pytest.raises(ValueError, match="distance must be between 0 and 64, got 65"):
        Duplicates(Listed(), distance=65)


def test_the_dataset_that_is_annotated_is_the_one_searched(config, tmp_path, picture):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(picture())
    cfg = config(
        "annotate",
        "experiment=embedded",
        "filter=[duplicates]",
        "dataset=image_folder",
        f"dataset.directory={tmp_path}",
        "output_dir=x",
    )
    judge = instantiate(cfg.filter.duplicates)
    first, second = judge.judge(list(instantiate(cfg.dataset)))
    assert first.image == "" and second.image == "near-duplicate of 'a' (distance 0)"
    other = OmegaConf.to_container(cfg.filter.duplicates, resolve=True)
    assert other["among"]["directory"] == str(tmp_path)
