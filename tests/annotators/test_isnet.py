"""ISNet with random weights under the published names, and its blocks against the formulas spelled out."""

from copy import copy

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, interpolate, max_pool2d

from scenewright.annotators.segmenters.isnet import ISNet, _ISNetDIS
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.protocols import MattingSegmenter

SIZES = [(60, 90), (128, 50), (64, 64)]
BOXES = [[[0.1, 0.2, 0.6, 0.7], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.51, 0.51]], [], [[0.4, 0.0, 1.0, 0.5]]]

#: Of each block of the published definition: its layers down, those up again, and channels before, inside and after.
BLOCKS = {
    "stage1": (7, 6, 64, 32, 64),
    "stage2": (6, 5, 64, 32, 128),
    "stage3": (5, 4, 128, 64, 256),
    "stage4": (4, 3, 256, 128, 512),
    "stage5": (4, 3, 512, 256, 512),
    "stage6": (4, 3, 512, 256, 512),
    "stage5d": (4, 3, 1024, 256, 512),
    "stage4d": (4, 3, 1024, 128, 256),
    "stage3d": (5, 4, 512, 64, 128),
    "stage2d": (6, 5, 256, 32, 64),
    "stage1d": (7, 6, 128, 16, 64),
}


def images_and_layouts():
    rng = torch.Generator().manual_seed(0)
    images = []
    for size in SIZES:
        coarse = torch.rand(1, 3, 6, 6, generator=rng)
        images.append((interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1) * 255).byte())
    return images, [Layout(torch.tensor(b).reshape(-1, 4), [f"thing {i}" for i in range(len(b))]) for b in BOXES]


@pytest.fixture(scope="session")
def tensors():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = _ISNetDIS().state_dict()
        for name, value in tensors.items():  # not what normalisation begins with, which would do nothing
            if "bn_s1" in name and value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return tensors


@pytest.fixture(scope="session")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("isnet") / "isnet-general-use.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="session")
def segmenter(file):
    segmenter = ISNet(str(file), side=64)
    assert len(segmenter.segment(*(x[:1] for x in images_and_layouts()))[0]) == 3  # loads
    return segmenter


@pytest.fixture(scope="session")
def network(tensors):
    with torch.device("meta"):
        network = _ISNetDIS()
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def variant(segmenter, **options):
    """The same with other options, its loaded network shared."""
    other = copy(segmenter)
    vars(other).update(options)
    return other


def iou(a, b):
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def published_shapes():
    shapes = {"conv_in.weight": (64, 3, 3, 3), "conv_in.bias": (64,)}
    for i, channels in enumerate([64, 64, 128, 256, 512, 512], 1):
        shapes |= {f"side{i}.weight": (1, channels, 3, 3), f"side{i}.bias": (1,)}
    for stage, (down, up, before, inside, after) in BLOCKS.items():
        layers = {"rebnconvin": (before, after), "rebnconv1": (after, inside)}
        layers |= {f"rebnconv{i}": (inside, inside) for i in range(2, down + 1)}
        layers |= {f"rebnconv{i}d": (2 * inside, inside) for i in range(2, up + 1)}
        layers["rebnconv1d"] = (2 * inside, after)
        for layer, (from_, to) in layers.items():
            shapes[f"{stage}.{layer}.conv_s1.weight"] = (to, from_, 3, 3)
            shapes[f"{stage}.{layer}.conv_s1.bias"] = (to,)
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{stage}.{layer}.bn_s1.{name}"] = (to,)
            shapes[f"{stage}.{layer}.bn_s1.num_batches_tracked"] = ()
    return shapes


def test_parameters_have_the_published_names_and_shapes(tensors):
    assert {name: tuple(value.shape) for name, value in tensors.items()} == published_shapes()


def layer(tensors, name, x, dilation=1):
    x = conv2d(
        x,
        tensors[f"{name}.conv_s1.weight"],
        tensors[f"{name}.conv_s1.bias"],
        padding=dilation,
        dilation=dilation,
    )
    norm = [tensors[f"{name}.bn_s1.{x}"] for x in ("running_mean", "running_var", "weight", "bias")]
    return batch_norm(x, *norm, eps=1e-5).clamp(min=0)


def grown(x, like):
    return interpolate(x, like.shape[2:], mode="bilinear")


def test_the_fourth_block_is_a_small_u_net_spelled_out(tensors, network):
    """RSU-4 of arXiv 2005.09007, figure 2."""
    x = torch.randn(2, 256, 13, 10, generator=torch.Generator().manual_seed(1))
    start = layer(tensors, "stage4.rebnconvin", x)
    one = layer(tensors, "stage4.rebnconv1", start)
    two = layer(tensors, "stage4.rebnconv2", max_pool2d(one, 2, 2, ceil_mode=True))
    three = layer(tensors, "stage4.rebnconv3", max_pool2d(two, 2, 2, ceil_mode=True))
    four = layer(tensors, "stage4.rebnconv4", three, dilation=2)
    up = layer(tensors, "stage4.rebnconv3d", torch.cat([four, three], 1))
    up = layer(tensors, "stage4.rebnconv2d", torch.cat([grown(up, two), two], 1))
    up = layer(tensors, "stage4.rebnconv1d", torch.cat([grown(up, one), one], 1))
    with torch.inference_mode():
        found = network.stage4(x)
    assert found.shape == (2, 512, 13, 10)
    torch.testing.assert_close(found, up + start, rtol=1e-4, atol=1e-4)


def test_the_sixth_block_keeps_its_size_with_growing_dilation(tensors, network):
    """RSU-4F of arXiv 2005.09007, figure 5."""
    x = torch.randn(1, 512, 9, 7, generator=torch.Generator().manual_seed(1))
    start = layer(tensors, "stage6.rebnconvin", x)
    one = layer(tensors, "stage6.rebnconv1", start)
    two = layer(tensors, "stage6.rebnconv2", one, dilation=2)
    three = layer(tensors, "stage6.rebnconv3", two, dilation=4)
    four = layer(tensors, "stage6.rebnconv4", three, dilation=8)
    up = layer(tensors, "stage6.rebnconv3d", torch.cat([four, three], 1), dilation=4)
    up = layer(tensors, "stage6.rebnconv2d", torch.cat([up, two], 1), dilation=2)
    up = layer(tensors, "stage6.rebnconv1d", torch.cat([up, one], 1))
    with torch.inference_mode():
        torch.testing.assert_close(network.stage6(x), up + start, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (70, 50)])
def test_each_level_has_a_mask_of_half_the_size_of_the_one_before(size):
    with torch.device("meta"):
        sides = _ISNetDIS().eval()(torch.empty(2, 3, *size))
    height, width = size
    for side in sides:
        height, width = -(-height // 2), -(-width // 2)
        assert side.shape == (2, 1, height, width)
    assert len(sides) == 6


def test_no_images_and_no_regions_need_no_weights():
    segmenter = ISNet("nowhere")
    images, _ = images_and_layouts()
    assert isinstance(segmenter, MattingSegmenter)
    assert segmenter.segment([], []) == []
    assert segmenter.segment(images[:2], [Layout.empty()] * 2) == [[], []]


def test_the_whole_image_is_segmented_as_the_authors_do(segmenter, network):
    """Squash, cut off fractions, centre, read the finest level, bring it to size, stretch to [0, 1]."""
    (image, *_), _ = images_and_layouts()
    pixels = interpolate(image[None].float(), (64, 64), mode="bilinear").to(torch.uint8)
    with torch.inference_mode():
        probability = grown(network(pixels / 255.0 - 0.5)[0], pixels).sigmoid()
    salience = interpolate(probability, image.shape[1:], mode="bilinear")[0, 0]
    wanted = (salience - salience.min()) / (salience.max() - salience.min())
    ((mask,),) = segmenter.segment([image], [Layout.whole()])
    assert 0.02 < float((wanted > 0.5).float().mean()) < 0.98
    assert iou(mask.decode(), wanted > 0.5) > 0.999
    middle = float(salience.median())
    ((mask,),) = variant(segmenter, normalised=False, threshold=middle).segment([image], [Layout.whole()])
    assert iou(mask.decode(), salience > middle) > 0.999


def test_an_alpha_is_the_stretched_map_and_its_confidence_the_highest_probability(segmenter):
    (image, *_), (layout, *_) = images_and_layouts()
    (((alpha, confidence),),) = segmenter.segment_alpha([image], [Layout.whole()])
    assert alpha.shape == image.shape[1:] and alpha.dtype == torch.float32
    assert (float(alpha.min()), float(alpha.max())) == (0.0, 1.0) and len(alpha.unique()) > 1000
    (((plain, same),),) = variant(segmenter, normalised=False).segment_alpha([image], [Layout.whole()])
    assert same == confidence and 0.0 < float(plain.max()) <= confidence < 1.0
    torch.testing.assert_close(alpha, (plain - plain.min()) / (plain.max() - plain.min()))
    (alphas,), (masks,) = segmenter.segment_alpha([image], [layout]), segmenter.segment([image], [layout])
    for (alpha, _), mask in zip(alphas, masks, strict=True):
        assert torch.equal(alpha > segmenter.threshold, mask.decode())


def test_the_alpha_of_a_box_is_nothing_outside_its_crop(segmenter):
    (image, *_), _ = images_and_layouts()
    layout = Layout(torch.tensor([[10 / 90, 12 / 60, 55 / 90, 42 / 60]]), ["thing"])
    (((alpha, _),),) = variant(segmenter, padding=0.0, normalised=False).segment_alpha([image], [layout])
    assert float(alpha[12:42, 10:55].min()) > 0.0
    assert int((alpha > 0).sum()) == 30 * 45


def test_a_map_without_differences_has_no_alpha(segmenter):
    flat = copy(segmenter)
    flat._maps = lambda crops: torch.full((len(crops), 1, 1, 64, 64), 0.3)
    (image, *_), _ = images_and_layouts()
    (((alpha, confidence),),) = flat.segment_alpha([image], [Layout.whole()])
    assert float(alpha.abs().max()) == 0.0 and confidence == pytest.approx(0.3)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_batch_is_segmented_as_its_images_one_by_one(segmenter, batch_size):
    images, layouts = images_and_layouts()
    segmenter = variant(segmenter, batch_size=batch_size)
    together = segmenter.segment(images, layouts)
    assert [len(x) for x in together] == [3, 0, 1]
    assert together == segmenter.segment(images, layouts)
    for image, layout, masks in zip(images, layouts, together, strict=True):
        (alone,) = segmenter.segment([image], [layout])
        for a, b in zip(masks, alone, strict=True):
            assert a.size == tuple(image.shape[1:])
            assert a == b or iou(a.decode(), b.decode()) > 0.99


def test_a_box_is_segmented_as_its_crop_and_only_there(segmenter):
    (image, *_), _ = images_and_layouts()
    segmenter = variant(segmenter, padding=0.0)
    layout = Layout(torch.tensor([[10 / 90, 12 / 60, 55 / 90, 42 / 60]]), ["thing"])
    ((mask,),) = segmenter.segment([image], [layout])
    ((crop,),) = segmenter.segment([image[:, 12:42, 10:55].contiguous()], [Layout.whole()])
    assert mask.area == crop.area > 0
    assert torch.equal(mask.decode()[12:42, 10:55], crop.decode())
    ((padded,),) = variant(segmenter, padding=0.2).segment([image], [layout])
    assert padded.decode()[6:48, 1:64].sum() == padded.area > 0


def test_a_higher_threshold_takes_less(segmenter):
    images, _ = images_and_layouts()
    areas = []
    for threshold in (0.0, 0.3, 0.7, 1.0):
        ((mask,),) = variant(segmenter, threshold=threshold).segment(images[:1], [Layout.whole()])
        areas.append(mask.area)
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[1] > areas[2] > areas[3] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 2)])
def test_slivers_have_masks_of_their_images_size(segmenter, size):
    layout = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.99, 0.99, 1.0, 1.0]]), ["whole", "corner"])
    (masks,) = variant(segmenter, side=32).segment([torch.full((3, *size), 90, dtype=torch.uint8)], [layout])
    assert [mask.size for mask in masks] == [size, size]


def test_half_precision_changes_little(file, segmenter):
    images, _ = images_and_layouts()
    ((exact,),) = segmenter.segment(images[:1], [Layout.whole()])
    ((half,),) = ISNet(str(file), side=64, dtype="bfloat16").segment(images[:1], [Layout.whole()])
    assert iou(exact.decode(), half.decode()) > 0.8


def test_wrong_settings_and_checkpoints_are_said(file, tmp_path):
    images, layouts = images_and_layouts()
    with pytest.raises(ValueError, match="side must be at least 32 and batch_size 1, got 8 and 4"):
        ISNet(str(file), side=8).segment(images, layouts)
    with pytest.raises(ValueError, match="dtype must be one of"):
        ISNet(str(file), dtype="int8").segment(images, layouts)
    with pytest.raises(MissingWeights, match=r"has no isnet-general-use\.pth"):
        ISNet(str(tmp_path)).segment(images, layouts)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "isnet-general-use.pth")
    with pytest.raises(CheckpointError, match="798 of 798 tensors are missing"):
        ISNet(str(tmp_path)).segment(images, layouts)
