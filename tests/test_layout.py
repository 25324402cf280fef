import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from scenewright.layout import Batch, EncodedImage, Layout, RunLengths, Sample, decode


def saved(image: PILImage.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_run_lengths_of_no_masks_are_none():
    assert RunLengths.encode(torch.zeros(0, 4, 5, dtype=torch.bool)) == []


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=40)
def test_run_lengths_round_trip_at_any_size(height, width, seed, fill):
    masks = torch.from_numpy(np.random.default_rng(seed).random((3, height, width)) < fill)
    for mask, runs in zip(masks, RunLengths.encode(masks), strict=True):
        assert runs.size == (height, width) and torch.equal(runs.decode(), mask) and runs.area == int(mask.sum())


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (torch.zeros(3, 4), b"<"),
        (torch.ones(3, 4), b"0<"),
        (torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0] * 6]), b"9220003"),
    ],
)
def test_run_lengths_are_cocos_column_by_column(mask, counts):
    (runs,) = RunLengths.encode(mask.bool()[None])
    assert runs.counts == counts


def test_the_box_of_a_mask_is_tight():
    mask = torch.zeros(1, 10, 20, dtype=torch.bool)
    mask[0, 2:5, 4:14] = True
    assert RunLengths.encode(mask)[0].box.tolist() == pytest.approx([0.2, 0.2, 0.7, 0.5])


ONE = {"boxes": torch.zeros(1, 4), "labels": ["a"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": torch.zeros(1, 4), "labels": ["a", "b"]}, r"labels must have one entry per box \(1\), got 2"),
        ({"boxes": torch.zeros(2, 4), "labels": ["a", "b"], "captions": ["x"]}, r"captions .* \(2\), got 1"),
        ({"boxes": torch.zeros(1, 4), "labels": ["a"], "masks": []}, r"masks .* \(1\), got 0"),
        (
            ONE | {"points": torch.tensor([[0.5, math.nan]])},
            r"points\[0\] .* NaN twice .* \[0.5, nan",
        ),
        (ONE | {"points": torch.tensor([[0.5, math.inf]])}, r"points\[0\] must be two finite numbers"),
        (ONE | {"scribbles": []}, r"scribbles must have one entry per box \(1\), got 0"),
        (ONE | {"scribbles": [torch.full((1, 2), math.nan)]}, r"scribbles\[0\]\[0\] must be two finite numbers, got"),
    ],
)
def test_a_layout_says_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        Layout(**fields)


def test_keep_takes_a_mask_or_an_order():
    layout = Layout(torch.eye(4)[:3], ["a", "b", "c"], captions=["A", "B", "C"], scores=torch.tensor([0.1, 0.2, 0.3]))
    assert layout.keep(torch.tensor([True, False, True])).labels == ["a", "c"]
    turned = layout.keep(torch.tensor([2, 0]))
    assert (
        turned.labels == ["c", "a"] and turned.captions == ["C", "A"] and torch.equal(turned.boxes[0], torch.eye(4)[2])
    )
    assert len(layout.keep(torch.zeros(3, dtype=torch.bool))) == 0


def test_pixel_boxes_are_fractions_times_the_image():
    layout = Layout(torch.tensor([[0.5, 0.25, 1.0, 0.5]]), ["a"])
    assert layout.pixel_boxes(height=40, width=20).tolist() == [[10, 10, 20, 20]]


def test_an_image_is_read_when_it_is_looked_at_and_once(picture):
    reads = []
    file = EncodedImage(lambda: reads.append(1) or picture(), "jpg")
    assert not reads
    assert file.image.shape == (3, 30, 40) and file.image is file.image and reads == [1]


def test_drawn_pixels_become_a_png_with_the_same_pixels():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = Sample.from_image("a", image)
    assert sample.image is image and torch.equal(decode(sample.source.data), image)


def test_exif_orientation_is_applied(picture):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    assert decode(picture("JPEG", size=(40, 30), exif=exif)).shape == (3, 40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_png_mode_becomes_three_channels(mode):
    grey = PILImage.fromarray(np.full((6, 8), 200, np.uint8))
    image = PILImage.fromarray(np.full((6, 8), 200 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    pixels = decode(saved(image, "PNG"))
    assert pixels.shape == (3, 6, 8) and pixels.dtype == torch.uint8
    assert int(pixels[0, 0, 0]) == (255 if mode == "1" else 200)


def test_cmyk_is_converted():
    assert decode(saved(PILImage.new("CMYK", (8, 6), (0, 0, 0, 0)), "JPEG")).float().mean() > 250


def test_what_is_transparent_becomes_white():
    clear = PILImage.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(saved(clear, "PNG")).unique().tolist() == [255]
    palette = PILImage.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    assert decode(saved(palette, "PNG", transparency=0)).unique().tolist() == [255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_gives_its_first_frame(kind):
    red, blue = PILImage.new("RGB", (8, 8), "red"), PILImage.new("RGB", (8, 8), "blue")
    pixels = decode(saved(red, kind, save_all=True, append_images=[blue]))
    assert pixels[0].float().mean() > 240 and pixels[2].float().mean() < 15


@pytest.mark.parametrize("size", [(1, 30), (20_000, 8)])
def test_odd_sizes_are_kept(size, picture):
    assert decode(picture("PNG", size=size)).shape == (3, size[1], size[0])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ValueError, "empty"),
        (b"this is text", ValueError, "not an image"),
        (saved(PILImage.new("F", (4, 4)), "TIFF"), ValueError, "floating-point"),
    ],
)
def test_what_is_no_image_says_so(data, error, message):
    with pytest.raises(error, match=message):
        decode(data)


def test_a_truncated_file_is_an_error_and_not_half_an_image(picture):
    for kind in ("JPEG", "PNG"):
        data = picture(kind, size=(200, 200))
        with pytest.raises(OSError):
            decode(data[: len(data) // 2])


def test_a_bomb_is_refused_before_it_is_decoded(picture, monkeypatch):
    data = picture("PNG", size=(100, 100))
    with pytest.raises(ValueError, match="100 x 100 pixels, more than the limit of 9999"):
        decode(data, max_pixels=9999)
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(data)


def test_a_white_border_is_cut_and_any_other_is_left():
    image = np.full((30, 30, 3), 255, np.uint8)
    image[10:20] = 90
    white = EncodedImage(saved(PILImage.fromarray(image), "PNG"), "png", border=(0, 10, 0, 10))
    assert white.image.shape == (3, 10, 30) and white.image.unique().tolist() == [90] and white.border == (0, 10, 0, 10)
    image[:5] = 0
    dark = EncodedImage(saved(PILImage.fromarray(image), "PNG"), "png", border=(0, 10, 0, 10))
    assert dark.image.shape == (3, 30, 30) and dark.border == (0, 0, 0, 0)


def test_a_status_is_one_of_three():
    found = Layout(torch.eye(4)[:1], ["a"])
    assert [Sample("a", layout=found).status, Sample("b").status, Sample("c", error="why").status] == [
        "ok",
        "empty",
        "error: why",
    ]


def test_an_image_that_was_not_stored_is_named():
    with pytest.raises(ValueError, match="'a' holds annotations only"):
        Sample("a").image  # noqa: B018


def test_a_batch_stacks_images_and_leaves_layouts_ragged():
    samples = [Sample.from_image(str(i), torch.zeros(3, 4, 5, dtype=torch.uint8), caption="c") for i in range(2)]
    batch = Batch.collate(samples).to("cpu")
    assert batch.images.shape == (2, 3, 4, 5) and batch.captions == ["c", "c"] and len(batch.layouts) == 2


def test_a_batch_carries_the_text_features_that_samples_have():
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    samples = [Sample.from_image("a", image, text_feature=torch.ones(512)), Sample.from_image("b", image)]
    batch = Batch.collate(samples).to("cpu")
    assert torch.equal(batch.text_features[0], torch.ones(512)) and batch.text_features[1] is None
    assert Batch.collate(samples[1:]).text_features == [None]
    with pytest.raises(ValueError, match=r"text_features must have one entry per image \(2\), got 1"):
        Batch(batch.images, ["", ""], batch.layouts, text_features=[None])
    assert Batch.collate(samples).to("meta").text_features[0].is_meta


def test_nothing_joined_with_nothing_is_nothing():
    assert len(Layout.joined([])) == 0 and len(Layout.joined([Layout.empty(), Layout.empty()])) == 0


def test_joining_keeps_the_order_and_what_all_have():
    boxes = torch.rand(3, 4)
    one = Layout(boxes[:1], ["a"], ["an a"], torch.tensor([0.1]), RunLengths.encode(torch.ones(1, 4, 4).bool()))
    two = Layout(boxes[1:], ["b", "c"], scores=torch.tensor([0.2, 0.3]))
    found = Layout.joined([one, Layout.empty(), two])
    assert torch.equal(found.boxes, boxes) and found.labels == ["a", "b", "c"] and found.captions == ["an a", "", ""]
    assert found.scores.tolist() == pytest.approx([0.1, 0.2, 0.3]) and found.masks is None


def pointed(count=3) -> Layout:
    points = torch.tensor([[0.25, 0.5], [math.nan, math.nan], [1.0, 0.0]])[:count]
    scribbles = [torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.zeros(0, 2), torch.tensor([[0.5, 0.5]])][:count]
    return Layout(torch.rand(count, 4), list("abc")[:count], points=points, scribbles=scribbles)


def test_points_and_scribbles_go_with_their_regions():
    turned = pointed().keep(torch.tensor([2, 1])).to("cpu")
    assert turned.points[0].tolist() == [1, 0] and turned.points[1].isnan().all()
    assert [x.tolist() for x in turned.scribbles] == [[[0.5, 0.5]], []]
    nothing = pointed().keep(torch.zeros(3, dtype=torch.bool))
    assert nothing.points.shape == (0, 2) and nothing.scribbles == []


def test_points_and_scribbles_move_with_the_layout():
    moved = pointed().to("meta")
    assert moved.points.device.type == "meta" and {x.device.type for x in moved.scribbles} == {"meta"}


def test_joined_with_a_layout_without_points_its_regions_have_none():
    bare = Layout(torch.rand(1, 4), ["d"])
    found = Layout.joined([bare, pointed(), Layout.empty()])
    assert found.points.isnan().all(1).tolist() == [True, False, True, False]
    assert [len(x) for x in found.scribbles] == [0, 2, 0, 1]
    neither = Layout.joined([bare, bare])
    assert neither.points is None and neither.scribbles is None


@pytest.mark.golden
def test_run_lengths_are_cocos(golden):
    about, tensors = golden("codecs/rle")
    for name, known in about["masks"].items():
        height, width = known["size"]
        bits = torch.from_numpy(np.unpackbits(tensors[name].numpy())[: height * width]).bool()
        (found,) = RunLengths.encode(bits.view(1, height, width))
        x, y, w, h = known["bbox_xywh"]
        assert found == RunLengths((height, width), known["counts"].encode()) and found.area == known["area"], name
        assert torch.equal(found.decode(), bits.view(height, width)), name
        corners = torch.tensor([x / width, y / height, (x + w) / width, (y + h) / height])
        assert torch.allclose(found.box, corners, rtol=0, atol=1e-6), name


@pytest.mark.golden
def test_run_lengths_of_rectangles_are_cocos(golden):
    about, _ = golden("codecs/rle")
    for name, known in about["rectangles"].items():
        mask = torch.zeros(1, *known["size"], dtype=torch.bool)
        mask[:, slice(*known["rows"]), slice(*known["columns"])] = True
        (found,) = RunLengths.encode(mask)
        assert found.counts.decode() == known["counts"] and found.area == known["area"], name
