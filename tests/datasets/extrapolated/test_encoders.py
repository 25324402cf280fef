"""Encoders of images, and what is kept of what they said."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.nn.functional import normalize

from scenewright.annotators.similarity import CLIP
from scenewright.datasets.extrapolated.encoders import CLIPFeatures, HistogramFeatures
from scenewright.datasets.extrapolated.measuring import FileGauge, read_places
from scenewright.datasets.extrapolated.records import ImageEncoder, JointEncoder
from scenewright.datasets.image_folder import ImageFolder
from scenewright.layout import Sample
from scenewright.perceptual_hashes import nearest_of, phash


class Means:
    """Mean colours; ``width`` of them, ``rows`` too many, or no numbers."""

    def __init__(self, width=3, rows=0, value=None):
        self.width, self.rows, self.value, self.seen = width, rows, value, 0

    def fingerprint(self):
        return "means"

    def encode_images(self, images):
        self.seen += len(images)
        found = torch.stack([x.float().mean((1, 2)) for x in images]).repeat(1, 2)[:, : self.width]
        return torch.cat([found, found[:1].expand(self.rows, -1)]) if self.value is None else found * self.value


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        PILImage.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    (tmp_path / "images" / "4.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    return tmp_path


def test_colours_and_edges_are_the_same_for_an_image_whatever_its_batch_and_size():
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, h, w), generator=random, dtype=torch.uint8) for h, w in ((40, 70), (9, 5))]
    encoder = HistogramFeatures()
    found = encoder.encode_images(images)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert torch.equal(found[1:], encoder.encode_images(images[1:]))
    assert encoder.encode_images([]).shape == (0, found.shape[1])
    red, dark = (torch.full((3, 50, 50), 30, dtype=torch.uint8) for _ in range(2))
    red[0] = 220
    enlarged = red.repeat_interleave(2, 1).repeat_interleave(2, 2)
    alike, unlike = encoder.encode_images([red, enlarged]), encoder.encode_images([red, dark])
    assert alike[0] @ alike[1] > 0.999 and unlike[0] @ unlike[1] < 0.5
    assert isinstance(encoder, ImageEncoder) and not isinstance(encoder, JointEncoder)


def test_colours_know_where_they_are_and_edges_which_way_they_run():
    top, bottom, upright, level = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    top[:, :32], bottom[:, 32:] = 255, 255
    upright[:, :, ::8], level[:, ::8] = 255, 255
    found = HistogramFeatures().encode_images([top, bottom, upright, level])
    assert found[0] @ found[1] < 0.8 and found[2] @ found[3] < 0.8


@pytest.mark.parametrize("settings", [{"side": 16}, {"bins": 1}, {"bins": 17}])
def test_settings_of_the_histogram_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="side must be at least 32"):
        HistogramFeatures(**settings)


def test_clip_puts_images_and_texts_on_one_sphere(tmp_path, tiny_clip):
    clip = CLIPFeatures(CLIP(tiny_clip(tmp_path / "clip")))
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    images, texts = clip.encode_images([image, image.flip(2)]), clip.encode_texts(["a red dog", "a cat", "a cat"])
    assert images.shape == (2, 16) and texts.shape == (3, 16) and torch.equal(texts[1], texts[2])
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))
    assert isinstance(clip, JointEncoder)
    (tmp_path / "other").mkdir()
    other = CLIPFeatures(CLIP(tiny_clip(tmp_path / "other", scale=2.0)))
    assert clip.fingerprint() != other.fingerprint()
    assert clip.fingerprint() == CLIPFeatures(CLIP(tiny_clip(tmp_path / "again"))).fingerprint()
    assert clip.fingerprint() != CLIPFeatures(clip.towers, whole=True).fingerprint()


def test_every_file_is_measured_once_and_a_broken_one_is_named(folder):
    encoder, dataset = Means(), ImageFolder(folder / "images")
    found = FileGauge(encoder, folder / "features").measure(dataset)
    assert found.keys == ["0", "1", "2", "3", "4"] and encoder.seen == 3
    assert found.problems == ["", "", "the file is not an image", "", ""]
    assert found.digests[0] == found.digests[4] != found.digests[1]
    image = next(iter(dataset)).image
    torch.testing.assert_close(found.features[0], normalize(image.float().mean((1, 2)), dim=0))
    assert not found.features[2].any() and int(found.hashes[0]) == phash(image)

    again = FileGauge(encoder, folder / "features").measure(dataset, [1, 3, 4])
    assert encoder.seen == 3 and again.keys == ["1", "3", "4"]
    assert torch.equal(again.features, found.features[[1, 3, 4]])
    assert again.hashes.tolist() == found.hashes[[1, 3, 4]].tolist()


def test_another_encoder_measures_anew(folder):
    gauge = FileGauge(Means(), folder / "features")
    gauge.measure(ImageFolder(folder / "images"))
    other = HistogramFeatures()
    assert FileGauge(other, folder / "features").measure(ImageFolder(folder / "images")).features.shape[1] > 3


def test_a_run_that_was_stopped_goes_on_from_what_was_measured(folder, monkeypatch):
    monkeypatch.setattr("scenewright.datasets.extrapolated.measuring._TOGETHER", 2)
    dataset, encoder = ImageFolder(folder / "images"), Means()

    def stop(sample: Sample) -> None:
        if sample.key == "3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FileGauge(encoder, folder / "features").measure(dataset, look=stop)
    assert encoder.seen == 2
    FileGauge(encoder, folder / "features").measure(dataset)
    assert encoder.seen == 3
    assert not list((folder / "features").rglob("*.part"))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Means(rows=1), "one feature for each of 4 images, got \\(5, 3\\)|one feature for each of 3 images"),
        (Means(value=torch.nan), "not finite"),
    ],
)
def test_features_that_are_none_are_refused(folder, encoder, message):
    with pytest.raises(ValueError, match=message):
        FileGauge(encoder, folder / "features").measure(ImageFolder(folder / "images"))


def test_features_that_are_not_equally_wide_are_refused(folder):
    gauge = FileGauge(Means(), folder / "features")
    gauge.measure(ImageFolder(folder / "images"), [0, 1])
    with pytest.raises(ValueError, match="equally wide, got 2 values after 3"):
        gauge.encoder.width = 2
        gauge.measure(ImageFolder(folder / "images"))


def test_samples_are_read_at_their_places_neighbours_in_one_go():
    asked = []

    class Counting(list):
        fingerprint = ""

        def read(self, start, stop):
            asked.append((start, stop))
            return (Sample(key=str(i)) for i in range(start, stop))

    assert [x.key for x in read_places(Counting(), [0, 1, 4, 7, 8])] == ["0", "1", "4", "7", "8"]
    assert asked == [(0, 2), (4, 5), (7, 9)]
    assert list(read_places(Counting(), [])) == []


def test_the_nearest_hash_is_the_one_with_the_fewest_other_bits(monkeypatch):
    random = np.random.default_rng(0)
    hashes, others = (random.integers(0, 2**63, n, np.uint64) for n in (30, 70))
    apart = np.bitwise_count(hashes[:, None] ^ others[None])
    for block in (7, 4096):
        monkeypatch.setattr("scenewright.perceptual_hashes._OTHERS", block)
        places, bits = nearest_of(hashes, others)
        assert places.tolist() == apart.argmin(1).tolist() and bits.tolist() == apart.min(1).tolist()
    places, bits = nearest_of(hashes[:2], others[:0])
    assert places.tolist() == [-1, -1] and bits.tolist() == [65, 65]
