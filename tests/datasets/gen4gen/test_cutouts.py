import io
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.datasets.gen4gen.cutouts import Cut, Cutter
from scenewright.layout import RunLengths

RED, GREEN = (200, 40, 30), (60, 190, 80)


def disc(height=80, width=100, y=0.5, x=0.5, radius=22.0, soft=1.0):
    rows, columns = np.indices((height, width))
    distance = np.hypot(rows + 0.5 - height * y, columns + 0.5 - width * x)
    return ((radius - distance) / soft + 0.5).clip(0, 1).astype(np.float32)


def picture(alpha, thing=RED, ground=GREEN):
    mixed = alpha[..., None] * np.float32(thing) + (1 - alpha[..., None]) * np.float32(ground)
    return mixed.round().astype(np.uint8)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, PILImage.Image) else PILImage.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass
class Known:
    """Finds alphas that are known: one per round, brought to the picture's size."""

    alphas: tuple = field(default_factory=lambda: (disc(),))
    confidence: float = 1.0
    seen: list = field(default_factory=list)

    def segment(self, images, layouts):
        raise AssertionError("it can do better")

    def segment_alpha(self, images, layouts):
        found = []
        for image in images:
            alpha = self.alphas[min(len(self.seen), len(self.alphas) - 1)]
            self.seen.append(image)
            plane = cv2.resize(alpha, tuple(image.shape[:0:-1]), interpolation=cv2.INTER_AREA)
            found.append([(torch.from_numpy(plane), self.confidence)])
        return found


class Keyed:
    """Tells by colour: alpha is 1 where a pixel is red."""

    def segment(self, images, layouts):
        return [[run for run in RunLengths.encode((image[0] > image[1])[None])] for image in images]


def last(found) -> Cut:
    assert isinstance(found, list), found
    return found[-1]


def cut_one(data, segmenter=None, **options):
    (found,) = Cutter(segmenter or Known(), **options).cut([data])
    return last(found)


def over(cut, ground):
    share = cut.alpha.numpy()[..., None]
    return share * cut.image.permute(1, 2, 0).numpy() + (1 - share) * np.float32(ground)


def part_of(cut, pixels):
    """What of a photo the cut-out shows."""
    height, width = cut.size
    x0, y0, x1, y1 = (round(v * n) for v, n in zip(cut.box, (width, height, width, height), strict=True))
    return pixels[y0:y1, x0:x1]


def test_no_photos_give_nothing():
    assert Cutter(Known()).cut([]) == []


def test_a_cut_out_is_the_thing_alone_cropped_with_a_pixel_around_it():
    alpha = disc(y=0.4, x=0.6, radius=20)
    cut = cut_one(encoded(picture(alpha)), Known((alpha,)))
    assert cut.size == (80, 100) and cut.confidence == 1.0
    rows, columns = (np.flatnonzero((alpha > 70 / 255).any(axis)) for axis in (1, 0))
    assert cut.box == pytest.approx(
        ((columns[0] - 1) / 100, (rows[0] - 1) / 80, (columns[-1] + 2) / 100, (rows[-1] + 2) / 80)
    )
    torch.testing.assert_close(cut.alpha, torch.from_numpy(part_of(cut, alpha).copy()))
    assert cut.image.shape[1:] == cut.alpha.shape


def test_the_colour_is_straight_and_sound_up_to_the_corners():
    cut = cut_one(encoded(picture(disc(soft=6.0))), Known((disc(soft=6.0),)))
    away = (cut.image.float() - torch.tensor(RED).view(3, 1, 1)).abs().amax(0)
    assert float(cut.alpha.min()) == 0.0 and float(away.max()) <= 6


colours = st.tuples(*[st.integers(0, 255)] * 3)


@settings(max_examples=40)
@given(colours, colours, st.floats(6, 35), st.floats(0.5, 8), st.floats(0.3, 0.7), st.integers(0, 20))
def test_straight_colour_over_its_own_background_is_the_photo(thing, ground, radius, soft, x, grain):
    alpha = disc(radius=radius, soft=soft, x=x)
    rng = np.random.default_rng(0)
    surface = np.float32(thing) + cv2.GaussianBlur(
        rng.normal(scale=grain, size=(80, 100, 3)).astype(np.float32), (0, 0), 3
    )
    photo = (alpha[..., None] * surface + (1 - alpha[..., None]) * np.float32(ground)).clip(0, 255).round()
    cut = cut_one(encoded(photo.astype(np.uint8)), Known((alpha,)))
    assert np.abs(over(cut, ground) - part_of(cut, photo)).max() <= 4 + 0.5 * grain


def test_more_rounds_do_not_darken_the_edge_and_those_of_the_published_code_do():
    alpha = disc(soft=8.0)
    photo = encoded(picture(alpha, thing=(230, 220, 210), ground=(90, 90, 200)))

    def darkest(cut):
        edge = (cut.alpha > 0.3) & (cut.alpha < 0.8)
        assert edge.sum() > 50
        return float(cut.image.float().mean(0)[edge].min())

    for rounds in (1, 2, 3):
        cut = cut_one(photo, Known((alpha,)), rounds=rounds)
        assert darkest(cut) > 210
        assert (cut.image[:, cut.alpha > 0.05].float().mean(1) - torch.tensor([230.0, 220, 210])).abs().max() < 5
    fringes = [darkest(cut_one(photo, Known((alpha,)), rounds=rounds, compat=True)) for rounds in (1, 2, 3)]
    assert fringes[0] < 80 and fringes[1] < 30 and fringes[2] < 10


def test_a_later_round_sees_what_is_left_over_the_mean_of_what_was_taken_away():
    alpha, segmenter = disc(soft=4.0), Known((disc(soft=4.0),))
    photo = picture(alpha)
    cut_one(encoded(photo), segmenter, rounds=2)
    first, second = (image.permute(1, 2, 0).numpy() for image in segmenter.seen)
    assert (first == photo).all()
    share = alpha[..., None]
    ground = ((1 - share) * photo).sum((0, 1)) / (1 - share).sum()
    assert np.abs(second - (share * photo + (1 - share) * ground)).max() <= 1


@pytest.mark.parametrize(("combine", "expected"), [("product", 0.125), ("minimum", 0.5)])
def test_the_rounds_alphas_become_one(combine, expected):
    alpha = disc()
    alpha[30:50, 40:60] = 0.5
    (found,) = Cutter(Known((alpha,)), rounds=3, combine=combine).cut([encoded(picture(disc()))])
    assert len(found) == 3
    middle = found[-1].alpha[found[-1].alpha.shape[0] // 2, found[-1].alpha.shape[1] // 2]
    assert float(middle) == pytest.approx(expected, abs=0.01)


def test_a_later_round_takes_away_what_the_first_one_left():
    both = np.maximum(disc(x=0.3, radius=15), disc(x=0.75, radius=10))
    cut = cut_one(encoded(picture(both)), Known((both, disc(x=0.3, radius=15))), rounds=2)
    assert cut.box[2] < 0.5


def test_a_later_round_that_finds_nothing_changes_nothing():
    photo = encoded(picture(disc()))
    alone = cut_one(photo)
    (found,) = Cutter(Known((disc(), np.zeros((80, 100), np.float32))), rounds=3).cut([photo])
    assert len(found) == 3 and all(torch.equal(x.alpha, alone.alpha) for x in found)


def test_compat_multiplies_the_colour_by_every_rounds_alpha_and_keeps_the_last_alpha():
    one, two = disc(soft=9.0), disc(soft=3.0)
    photo = picture(one)
    segmenter = Known((one, two))
    cut = cut_one(encoded(photo), segmenter, rounds=2, compat=True)
    after_one = (one[..., None] * photo).astype(np.uint8)
    after_two = (two[..., None] * after_one).astype(np.uint8)
    assert (segmenter.seen[1].permute(1, 2, 0).numpy() == after_one).all()
    levels = np.floor(two * 255)
    rows, columns = (np.flatnonzero((levels > 70).any(axis)) for axis in (1, 0))
    view = (slice(rows[0], rows[-1]), slice(columns[0], columns[-1]))
    assert (cut.image.permute(1, 2, 0).numpy() == after_two[view]).all()
    assert ((cut.alpha * 255).round().numpy() == levels[view]).all()


def test_compat_refuses_only_what_is_empty():
    photo = encoded(picture(disc()))
    (found,) = Cutter(Known(confidence=0.1), compat=True).cut([photo])
    assert last(found).confidence == pytest.approx(0.1)
    (nothing,) = Cutter(Known((np.zeros((80, 100), np.float32),)), rounds=2, compat=True).cut([photo])
    assert isinstance(nothing, ValueError) and "nothing" in str(nothing)


def test_specks_apart_from_the_thing_are_dropped_with_their_haze():
    alpha = np.maximum(disc(x=0.35, radius=25), disc(x=0.85, y=0.2, radius=1.2, soft=3.0))
    cut = cut_one(encoded(picture(alpha)), Known((alpha,)))
    assert cut.box[2] < 0.65
    large = np.maximum(disc(x=0.3, radius=20), disc(x=0.8, radius=8))
    assert cut_one(encoded(picture(large)), Known((large,))).box[2] > 0.85
    speck = cut_one(encoded(picture(alpha)), Known((alpha,)), min_speck=0.0)
    assert speck.box[2] > 0.85


def test_a_large_cut_out_is_scaled_down_with_its_colour():
    alpha = disc(400, 600, radius=150, soft=2.0)
    cut = cut_one(encoded(picture(alpha)), Known((alpha,)), max_side=75)
    assert max(cut.image.shape[1:]) == 75 and cut.size == (400, 600)
    away = (cut.image.float() - torch.tensor(RED).view(3, 1, 1)).abs().amax(0)
    assert float(away.max()) <= 8
    assert float(cut.alpha.mean()) == pytest.approx(np.pi / 4, abs=0.07)
    whole = cut_one(encoded(picture(alpha)), Known((alpha,)), max_side=1000)
    assert whole.image.shape[1] == pytest.approx(300, abs=3)
    assert cut.box == pytest.approx(whole.box, abs=0.015)


@pytest.mark.parametrize(
    ("alpha", "confidence", "reason"),
    [
        (np.zeros((80, 100), np.float32), 1.0, "nothing stands out: 0 % of the photo"),
        (np.full((80, 100), 0.25, np.float32), 1.0, "nothing stands out: 0 % of the photo"),
        (disc(radius=1.0), 1.0, "nothing stands out: 0.05 % of the photo"),
        (disc(), 0.4, "confidence 0.40 is below 0.5"),
    ],
)
def test_where_nothing_stands_out_it_says_so(alpha, confidence, reason):
    (found,) = Cutter(Known((alpha,), confidence)).cut([encoded(picture(disc()))])
    assert isinstance(found, ValueError) and reason in str(found)


def test_a_bad_photo_does_not_spoil_the_others():
    good = encoded(picture(disc()))
    jpeg = encoded(picture(disc()), "JPEG")
    found = Cutter(Known()).cut([b"", good, b"no picture", jpeg[: len(jpeg) // 2], good])
    reasons = [str(x) if isinstance(x, ValueError) else "" for x in found]
    assert reasons[0] == "the file is empty" and reasons[2] == "the file is not an image"
    assert "runcated" in reasons[3]
    assert torch.equal(last(found[1]).image, last(found[4]).image)


def test_a_turned_photo_is_cut_out_upright():
    alpha = disc(y=0.3, x=0.3, radius=20)
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = np.ascontiguousarray(np.rot90(picture(alpha)))
    cut = cut_one(encoded(lying, "JPEG", exif=exif, quality=95), Keyed())
    upright = cut_one(encoded(picture(alpha), "JPEG", quality=95), Keyed())
    assert cut.size == (80, 100) and cut.box == pytest.approx(upright.box, abs=0.02)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "YCbCr"])
def test_every_kind_of_picture_is_cut_out(mode):
    image = PILImage.fromarray(picture(disc()))
    if mode == "I;16":
        image = PILImage.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    else:
        image = image.convert(mode)
    cut = cut_one(encoded(image, "TIFF"))
    wanted = np.float32([RED] * 3 if mode in ("L", "I;16") else RED)
    grey = np.dot(RED, [0.299, 0.587, 0.114])
    middle = cut.image[:, cut.image.shape[1] // 2, cut.image.shape[2] // 2].float().numpy()
    assert cut.size == (80, 100)
    assert np.abs(middle - (grey if wanted.ndim == 2 else wanted)).max() < 25


def test_of_an_animation_the_first_frame_is_cut_out():
    frames = [PILImage.fromarray(picture(disc(), thing=x)) for x in (RED, (20, 20, 220), (0, 0, 0))]
    cut = cut_one(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (cut.image[:, 22, 22].float() - torch.tensor(RED)).abs().max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_photo_with_an_alpha_of_its_own_is_not_segmented(kind):
    alpha = disc(radius=15, soft=5.0)
    straight = np.full((80, 100, 3), RED, np.uint8)
    straight[alpha == 0] = (0, 0, 0)  # what programs write where nothing can be seen
    rgba = np.dstack([straight, (alpha * 255).round().astype(np.uint8)])
    segmenter = Known()
    cut = cut_one(encoded(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), segmenter)
    assert segmenter.seen == [] and cut.confidence == 1.0
    assert np.abs(part_of(cut, alpha) - cut.alpha.numpy()).max() < 0.003
    assert float((cut.image.float() - torch.tensor(RED).view(3, 1, 1)).abs().max()) <= 1
    assert cut_one(encoded(rgba), max_side=16).image.shape[1:] == (16, 16)
    (nothing,) = Cutter(segmenter).cut([encoded(np.zeros((8, 8, 4), np.uint8))])
    assert "nothing can be seen" in str(nothing)


def test_an_alpha_that_hides_nothing_is_ignored():
    rgba = np.dstack([picture(disc()), np.full((80, 100), 255, np.uint8)])
    rgba[0, :5, 3] = 110
    segmenter = Known()
    cut = cut_one(encoded(rgba), segmenter)
    assert len(segmenter.seen) == 1 and cut.box[0] > 0.2


def test_the_mask_of_any_segmenter_gets_a_soft_edge():
    class Doubtful(Keyed):
        def segment_scored(self, images, layouts):
            return [[(run, 0.3) for run in runs] for runs in self.segment(images, layouts)]

    photo = encoded(picture(disc()))
    cut = cut_one(photo, Keyed())
    assert cut.confidence == 1.0
    levels = ((cut.alpha > 0.05) & (cut.alpha < 0.95)).float().mean()
    assert 0.01 < float(levels) < 0.25 and float(cut.alpha.mean()) == pytest.approx(np.pi / 4, abs=0.08)
    (unsure,) = Cutter(Doubtful()).cut([photo])
    assert "confidence 0.30 is below 0.5" in str(unsure)


def test_grabcut_cuts_a_drawn_thing_and_is_not_sure_of_an_empty_photo(config):
    cutter = instantiate(
        config(
            "annotate", "dataset=gen4gen", "dataset/gen4gen/cutter=grabcut", "dataset.directory=x", "output_dir=x"
        ).dataset.cutter
    )
    assert isinstance(cutter.segmenter, GrabCut) and cutter.segmenter.slack == 0.0
    alpha, rng = disc(160, 200, radius=45), np.random.default_rng(0)
    grain = rng.normal(scale=6, size=(160, 200, 3))
    photo = (picture(alpha) + grain).clip(0, 255).astype(np.uint8)
    empty = np.full((160, 200, 3), 128, np.uint8)
    found, nothing = cutter.cut([encoded(photo), encoded(empty)])
    cut = last(found)
    wanted = part_of(cut, alpha)
    both, either = np.minimum(cut.alpha.numpy(), wanted).sum(), np.maximum(cut.alpha.numpy(), wanted).sum()
    assert both / either > 0.95 and cut.box == pytest.approx((0.275, 0.21875, 0.725, 0.78125), abs=0.02)
    assert "confidence 0.00" in str(nothing)


def test_the_default_of_the_configuration_is_the_default_of_the_class(config):
    node = config(
        "annotate", "dataset=gen4gen", "dataset/gen4gen/cutter=isnet", "dataset.directory=x", "output_dir=x"
    ).dataset.cutter
    cutter, plain = instantiate(node), Cutter(Known())
    assert type(cutter.segmenter).__name__ == "ISNet"
    for name, value in vars(plain).items():
        assert name == "segmenter" or getattr(cutter, name) == pytest.approx(value, abs=1e-5), name
        assert name in node


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds and max_side must be at least 1"),
        ({"combine": "sum"}, "combine must be one of product, minimum, got 'sum'"),
        ({"inset": 0.5}, "inset must be in"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Cutter(Known(), **options).cut([b""])


def test_the_old_background_does_not_shine_around_a_thing_whose_photo_is_a_little_soft():
    import cv2
    import numpy as np

    from scenewright.datasets.gen4gen.foreground import foreground_colour

    inside = cv2.GaussianBlur(cv2.circle(np.zeros((80, 80), np.float32), (40, 40), 25, 1.0, -1), (0, 0), 1.0)
    colour, wall = np.array([20.0, 60.0, 200.0]), np.array([230.0, 225.0, 220.0])
    pixels = (inside[..., None] * colour + (1 - inside[..., None]) * wall).astype(np.float32)
    mask = (inside > 0.2).astype(np.float32)  # an outline that is a pixel too far out, as masks are
    off = [np.abs(foreground_colour(pixels, mask, rim)[mask > 0] - colour).max() for rim in (0, 2.0)]
    assert off[0] > 100 and off[1] < 15
