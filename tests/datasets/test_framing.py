import math
from collections import Counter
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from scenewright.datasets.framing import Framing
from scenewright.layout import EncodedImage, Frame, Layout, RunLengths, Sample


def scene(height=60, width=90, boxes=((10, 20, 40, 50),), masked=True, **known) -> Sample:
    """A black picture with one white rectangle per channel, and all that is known of them; boxes in pixels."""
    planes = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for plane, (x_min, y_min, x_max, y_max) in zip(planes, boxes, strict=True):
        plane[y_min:y_max, x_min:x_max] = True
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[: len(boxes)] = planes[:3] * 255
    fractions = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height] * 2)
    layout = Layout(
        fractions,
        [f"object {i}" for i in range(len(boxes))],
        [f"a thing, number {i}" for i in range(len(boxes))],
        torch.arange(len(boxes)) / 10,
        RunLengths.encode(planes) if masked else None,
    )
    return Sample.from_image("scene", image, **{"caption": "things", "layout": layout, **known})


def framed(sample=None, seed=0, **options):
    return Framing(**{"height": 32, "width": 32, **options})(scene() if sample is None else sample, seed)


def test_a_sample_without_objects_is_framed():
    sample, frame = framed(scene(boxes=()), crop="random", flip=1, scale=(0.5, 1))
    assert sample.image.shape == (3, 32, 32) and len(sample.layout) == 0 and frame.size == (60, 90)


@pytest.mark.parametrize("crop", ["center", "random", "none"])
def test_where_nothing_changes_the_sample_itself_comes_out(crop):
    sample = scene()
    out, frame = framed(sample, height=60, width=90, crop=crop, min_visibility=1)
    assert out is sample and frame == Frame((60, 90), (0, 0))


def test_the_largest_crop_in_the_middle_is_taken():
    sample, frame = framed(scene(boxes=((15, 0, 75, 60),)), height=30, width=30)
    assert frame == Frame((60, 90), (0, 8))  # 15 columns of the picture are 7.5 of the crop
    assert sample.layout.boxes[0].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-7) and (sample.image[0] == 255).all()


def test_squashing_shows_the_whole_picture():
    sample, frame = framed(crop="none")
    assert frame == Frame((60, 90), (0, 0)) and torch.equal(sample.layout.boxes, scene().layout.boxes)


def test_resizing_is_antialiased():
    stripes = (torch.arange(256) % 2 * 255).to(torch.uint8).expand(3, 256, 256).contiguous()
    sample, _ = framed(Sample.from_image("stripes", stripes))
    inner = sample.image[:, :, 2:-2].float()
    assert (inner - 127.5).abs().max() < 6


def test_a_smooth_picture_is_resized_as_pillow_does(picture):
    data = picture("PNG", size=(120, 120))
    sample, _ = framed(Sample("photo", EncodedImage(data, "png")))
    expected = PILImage.open(BytesIO(data)).resize((32, 32), PILImage.Resampling.BICUBIC)
    assert np.abs(sample.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 2


sides = st.integers(8, 70)


@settings(max_examples=100)
@given(
    st.data(), st.sampled_from(["center", "random", "none"]), st.booleans(), st.booleans(), st.integers(0, 2**63 - 1)
)
def test_boxes_masks_and_pixels_stay_together(data, crop, zoomed, mirrored, seed):
    height, width, out_height, out_width = (data.draw(sides) for _ in range(4))
    x, y = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    box = (x, y, data.draw(st.integers(x + 3, width)), data.draw(st.integers(y + 3, height)))
    options = {"crop": crop, "flip": int(mirrored), "min_visibility": 0, "height": out_height, "width": out_width}
    if zoomed and crop != "none":
        options["scale"] = (0.3, 0.9)
    sample, _ = framed(scene(height, width, (box,)), seed, **options)
    assert sample.image.shape == (3, out_height, out_width)
    white = sample.image[0] > 127
    if not len(sample.layout):
        assert not white.any()
        return
    mask = sample.layout.masks[0].decode()
    x_min, y_min, x_max, y_max = sample.layout.pixel_boxes(out_height, out_width)[0].tolist()
    xs, ys = torch.arange(out_width) + 0.5, torch.arange(out_height)[:, None] + 0.5
    depth = torch.minimum(torch.minimum(xs - x_min, x_max - xs), torch.minimum(ys - y_min, y_max - ys))
    assert mask[depth > 1e-3].all() and not mask[depth < -1e-3].any()
    # resampling is soft by a pixel of the smaller picture; where the picture ends, so does the box
    soft = 1.5 * max(1, 2 * out_height / height, 2 * out_width / width)
    if crop == "none" or not zoomed:
        reach = torch.minimum(
            torch.minimum(xs - x_min + 99 * (x_min < 1e-3), x_max - xs + 99 * (x_max > out_width - 1e-3)),
            torch.minimum(ys - y_min + 99 * (y_min < 1e-3), y_max - ys + 99 * (y_max > out_height - 1e-3)),
        )
        assert white[reach > soft].all()
    assert not white[depth < -2 * soft].any()


def test_a_mirrored_sample_is_the_mirror_image_of_the_other():
    one, frame = framed(seed=5, crop="random", scale=(0.6, 1), min_visibility=0)
    other, mirrored = framed(seed=5, crop="random", scale=(0.6, 1), min_visibility=0, flip=1)
    assert torch.equal(other.image, one.image.flip(-1))
    x_min, y_min, x_max, y_max = one.layout.boxes[0].tolist()
    assert other.layout.boxes[0].tolist() == pytest.approx([1 - x_max, y_min, 1 - x_min, y_max])
    assert torch.equal(other.layout.masks[0].decode(), one.layout.masks[0].decode().flip(-1))
    assert mirrored.size == frame.size and mirrored.corner[0] == frame.corner[0]


def test_the_corner_of_a_mirrored_crop_is_counted_from_the_other_side():
    # 90 columns become 48; the crop has 32 of them
    corners = {flip: framed(seed=7, crop="random", flip=flip)[1].corner[1] for flip in (0, 1)}
    assert corners[0] != corners[1] and abs(sum(corners.values()) - 16) <= 1


@pytest.mark.parametrize(
    ("known", "sided"),
    [
        ({"caption": "a dog to the left of a cat"}, True),
        ({"caption": "LEFT-hand side"}, True),
        ({"caption": "the rightmost tree, leftwards"}, True),
        ({"caption": "a copyright, bright and uprighted; leftover"}, False),
        ({"caption": ""}, False),
        ({"labels": ["right shoe"]}, True),
        ({"captions": ["a star at the upper Right."]}, True),
    ],
)
def test_what_says_left_or_right_is_not_mirrored_unless_told_to(known, sided):
    sample = scene(caption=known.get("caption", "things"))
    named = {name: value for name, value in known.items() if name != "caption"}
    layout = Layout(sample.layout.boxes, **{"labels": ["thing"], **named})
    sample = Sample("x", sample.source, sample.caption, layout=layout)
    plain, _ = framed(sample)
    assert torch.equal(framed(sample, flip=1)[0].image, plain.image if sided else plain.image.flip(-1))
    assert torch.equal(framed(sample, flip=1, flip_sided=True)[0].image, plain.image.flip(-1))


def test_samples_are_mirrored_as_often_as_asked():
    images = [framed(seed=seed, flip=0.25)[0].image for seed in range(200)]
    plain = framed()[0].image
    assert sum(not torch.equal(image, plain) for image in images) == pytest.approx(50, abs=18)


# the crop shows columns 15 to 75 of 90
@pytest.mark.parametrize(
    ("box", "least", "kept"),
    [
        ((0, 0, 15, 60), 0.0, False),
        ((0, 0, 14, 60), 0.0, False),
        ((0, 0, 16, 60), 0.0, True),
        ((5, 0, 25, 60), 0.5, True),
        ((5, 0, 25, 60), 0.51, False),
        ((5, 10, 25, 10), 0.5, True),  # a line counts by its length
        ((5, 10, 25, 10), 0.51, False),
        ((20, 10, 20, 10), 1.0, True),  # a point in the crop, and one beyond
        ((10, 10, 10, 10), 0.0, False),
    ],
)
def test_objects_are_kept_by_the_share_of_their_box_that_is_seen(box, least, kept):
    sample, _ = framed(scene(boxes=(box, (30, 10, 50, 30)), masked=False), min_visibility=least)
    assert sample.layout.labels == (["object 0", "object 1"] if kept else ["object 1"])
    assert len(sample.layout.scores) == len(sample.layout.captions) == len(sample.layout)
    assert (sample.layout.boxes >= 0).all() and (sample.layout.boxes <= 1).all()


def test_boxes_are_clipped_from_boxes_and_not_from_masks():
    sample = scene(boxes=((0, 0, 90, 60),))
    mask = torch.zeros(1, 60, 90, dtype=torch.bool)
    mask[:, 20:40, 40:50] = True
    layout = Layout(sample.layout.boxes, ["sky"], masks=RunLengths.encode(mask))
    out, _ = framed(Sample("x", sample.source, layout=layout))
    assert out.layout.boxes.tolist() == [[0, 0, 1, 1]] and out.layout.masks[0].box[0] > 0.3


@pytest.mark.parametrize(
    ("most", "kept"), [(None, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 2]), (1, [2]), (0, [])]
)
@pytest.mark.parametrize("size", [32, 60])
def test_of_too_many_objects_the_largest_stay_in_their_order(most, kept, size):
    boxes = ((5, 5, 25, 25), (5, 5, 15, 15), (0, 0, 50, 50), (20, 20, 30, 30))
    sample, _ = framed(scene(60, 60, boxes, masked=False), height=size, width=size, max_objects=most)
    assert sample.layout.labels == [f"object {i}" for i in kept]
    assert sample.layout.scores.tolist() == pytest.approx([i / 10 for i in kept])


def test_masks_may_be_left_out():
    sample = scene()
    assert framed(sample, masks=False)[0].layout.masks is None
    same, _ = framed(sample, height=60, width=90, masks=False)
    assert same.layout.masks is None and same.source is sample.source


def test_everything_else_of_a_sample_stays():
    sample = scene(tags=["a"], metadata={"url": "x"}, warnings=["mended"])
    out, _ = framed(sample, crop="random", flip=0.5)
    assert [getattr(out, n) for n in ("key", "caption", "tags", "metadata", "warnings")] == [
        getattr(sample, n) for n in ("key", "caption", "tags", "metadata", "warnings")
    ]


def test_the_seed_decides_everything():
    options = {"crop": "random", "scale": (0.3, 1), "flip": 0.5}
    views = [framed(seed=seed, **options) for seed in (1, 2, 1)]
    assert torch.equal(views[0][0].image, views[2][0].image) and views[0][1] == views[2][1]
    assert not torch.equal(views[0][0].image, views[1][0].image)


def test_flips_do_not_move_crops():
    options = {"crop": "random", "scale": (0.3, 1)}
    for seed in range(5):
        plain, maybe = framed(seed=seed, **options)[0].image, framed(seed=seed, flip=0.5, **options)[0].image
        assert torch.equal(maybe, plain) or torch.equal(maybe, plain.flip(-1))


def test_random_crops_reach_every_place():
    corners = Counter(framed(scene(32, 36), seed, crop="random")[1].corner for seed in range(150))
    assert set(corners) == {(0, x) for x in range(5)} and min(corners.values()) > 12


def test_random_crops_have_the_areas_asked_for():
    shares = []
    for seed in range(100):
        box = (30, 30, 70, 70)
        sample, _ = framed(scene(100, 100, (box,), masked=False), seed, crop="random", scale=(0.64, 0.81))
        x_min, y_min, x_max, y_max = sample.layout.boxes[0].tolist()
        if min(x_min, y_min) > 0 and max(x_max, y_max) < 1:  # all of it is in the crop
            shares.append(0.16 / ((x_max - x_min) * (y_max - y_min)))
    assert len(shares) > 60 and 0.62 < min(shares) < 0.67 and 0.78 < max(shares) < 0.83


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 100), (64, 64)),
        ((768, 1024), (56, 72)),
        ((1024, 768), (72, 56)),
        ((10, 1000), (48, 96)),
        ((1000, 10), (96, 48)),
        ((96, 96), (64, 64)),  # two of this shape: the first
        ((64 * 56, 64 * 72), (56, 72)),
    ],
)
def test_the_bucket_of_the_nearest_aspect_ratio_is_taken(size, expected):
    buckets = [[64, 64], [32, 32], [56, 72], [72, 56], [48, 96], [96, 48]]
    framing = Framing(height=64, width=64, buckets=buckets)
    assert framing.size_for(*size) == expected
    sample, frame = framing(scene(*(side // 4 + 4 for side in size), boxes=()), 0)
    assert sample.image.shape[1:] in [tuple(b) for b in buckets] and frame.size == tuple(s // 4 + 4 for s in size)


def test_between_two_shapes_equally_near_the_first_is_taken():
    assert Framing(height=8, width=8, buckets=[(1, 2), (2, 1)]).size_for(7, 7) == (1, 2)
    assert Framing(height=8, width=8, buckets=[(2, 1), (1, 2)]).size_for(7, 7) == (2, 1)


def test_without_buckets_there_is_one_size():
    assert Framing(height=8, width=16).size_for(100, 3) == (8, 16)


def test_settings_from_yaml_are_the_same_as_from_code():
    from omegaconf import OmegaConf

    settings = OmegaConf.create({"height": 8, "width": 8, "scale": [0.5, 1], "buckets": [[8, 8], [8, 16]], "flip": 0})
    plain = Framing(height=8, width=8, scale=(0.5, 1.0), buckets=((8, 8), (8, 16)))
    assert Framing(**settings) == plain and repr(Framing(**settings)) == repr(plain)


def test_an_image_that_cannot_be_read_raises():
    with pytest.raises(ValueError, match="not an image"):
        framed(Sample("x", EncodedImage(b"nothing", "jpg")))
    with pytest.raises(ValueError, match="annotations only"):
        framed(Sample("x"))


def test_a_mask_of_another_size_is_refused():
    sample = scene()
    layout = Layout(sample.layout.boxes, ["x"], masks=RunLengths.encode(torch.ones(1, 5, 5, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"masks must have the size of the image \(60, 90\), got \(5, 5\)"):
        framed(Sample("x", sample.source, layout=layout))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "left"}, "crop must be one of center, random, none, got 'left'"),
        ({"flip": 1.5}, r"flip must be in \[0, 1\], got 1.5"),
        ({"min_visibility": -0.1}, r"min_visibility must be in \[0, 1\]"),
        ({"max_objects": -1}, "max_objects must be at least 0"),
        ({"scale": (0.0, 1)}, r"scale must be the least and the most area, within \(0, 1\], got \[0.0, 1.0\]"),
        ({"scale": (0.9, 0.8)}, "scale must be"),
        ({"scale": (0.5,)}, "scale must be"),
        ({"scale": (0.5, 1), "crop": "none"}, "scale needs crop=center or crop=random"),
        ({"height": 0}, r"sizes must be height and width, both at least 1, got \[0, 32\]"),
        ({"buckets": []}, "buckets must name at least one size"),
        ({"buckets": [[8, 8, 8]]}, "sizes must be height and width"),
    ],
)
def test_it_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        framed(**options)


def pointed(x, y, scribble=((0.5, 0.5),)) -> Sample:
    """The scene with a point and a scribble in fractions of the picture."""
    sample = scene(boxes=((0, 0, 90, 60),))
    layout = replace(sample.layout, points=torch.tensor([[x, y]]), scribbles=[torch.tensor(scribble)])
    return replace(sample, layout=layout)


@pytest.mark.parametrize(("flip", "expected"), [(0, (0.25, 0.75)), (1, (0.75, 0.75))])
def test_points_and_scribbles_stay_where_they_are_in_the_picture(flip, expected):
    # of 90 columns, the crop is from 15 to 75
    x, y = (15 + 0.25 * 60) / 90, 0.75
    sample, _ = framed(pointed(x, y, ((x, y), (0.1, 0.5), (0.5, 1.0))), flip=flip)
    assert sample.layout.points[0].tolist() == pytest.approx(expected)
    assert sample.layout.scribbles[0].flatten().tolist() == pytest.approx([*expected, 0.5, 1.0])


@pytest.mark.parametrize("flip", [0, 1])
def test_a_point_outside_of_the_crop_is_none_any_more(flip):
    sample, _ = framed(pointed(0.1, 0.5, ((0.05, 0.5),)), flip=flip)
    assert sample.layout.points.isnan().all() and sample.layout.scribbles[0].shape == (0, 2)
    sample, _ = framed(pointed(math.nan, math.nan), flip=flip)
    assert sample.layout.points.isnan().all() and len(sample.layout.scribbles[0]) == 1


def test_points_stay_on_the_pixels_they_were_put_on():
    sample = scene(boxes=((20, 10, 70, 50),))
    inside = torch.tensor([[30.5 / 90, 20.5 / 60], [60.5 / 90, 40.5 / 60]])
    sample = replace(sample, layout=replace(sample.layout, points=inside[:1], scribbles=[inside]))
    for seed in range(20):
        out, _ = framed(sample, seed, crop="random", scale=(0.5, 1), flip=0.5, height=48, width=64, min_visibility=0)
        for points in (out.layout.points, *out.layout.scribbles):
            for x, y in points[~points.isnan().any(1)].tolist():
                assert out.image[0, min(int(y * 48), 47), min(int(x * 64), 63)] > 200


def test_points_do_not_change_where_the_whole_picture_is_seen():
    sample, _ = framed(pointed(0.1, 0.2), crop="none")
    assert sample.layout.points.tolist() == pointed(0.1, 0.2).layout.points.tolist()


def test_each_visit_may_say_another_of_the_captions_and_shows_the_same():
    words = [f"caption {i}" for i in range(4)]
    sample = scene(metadata={"captions": words})
    found = [framed(sample, seed, crop="random", flip=0.5, caption="random")[0] for seed in range(400)]
    counts = Counter(x.caption for x in found)
    assert set(counts) == set(words) and min(counts.values()) > 70
    for seed in range(5):
        plain = framed(sample, seed, crop="random", flip=0.5)[0]
        assert plain.caption == "things" and torch.equal(plain.image, found[seed].image)
        assert framed(sample, seed, crop="random", flip=0.5, caption="random")[0].caption == found[seed].caption


@pytest.mark.parametrize("metadata", [{}, {"captions": []}, {"captions": "one text"}])
def test_without_a_list_of_captions_the_samples_own_is_said(metadata):
    assert framed(scene(metadata=metadata), caption="random")[0].caption == "things"


def test_a_drawn_caption_that_says_a_side_is_not_mirrored():
    sample = scene(metadata={"captions": ["a dog on the left"]})
    shown = [framed(sample, 0, flip=1, caption=x)[0] for x in ("random", "first")]
    assert torch.equal(shown[0].image.flip(-1), shown[1].image)


def test_an_unknown_choice_of_captions_is_refused():
    with pytest.raises(ValueError, match="caption must be one of first, random"):
        framed(caption="all")
