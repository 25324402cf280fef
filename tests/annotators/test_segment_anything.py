"""SegmentAnything with a tiny network of Meta's classes, also against SAM with the same weights."""

import re

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.segmenters.sam import SAM
from scenewright.annotators.segmenters.segment_anything import SegmentAnything
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout
from scenewright.protocols import PointSegmenter, ScoringSegmenter, Segmenter

SIDE = 64
SIZES = [(60, 90), (128, 50), (64, 64), (20, 20)]
BOXES = [
    [[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.51, 0.52]],
    [],
    [[0.0, 0.0, 0.4, 1.0], [0.3, 0.7, 1.0, 1.0]],
    [[0.2, 0.2, 0.9, 0.8]],
]

#: Meta's names and transformers'.
NAMES = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^(vision_encoder)\.blocks\.", r"\1.layers."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"((?:mlps\.\d|prediction_head))\.layers\.0\.", r"\1.proj_in."),
    (r"((?:mlps\.\d|prediction_head))\.layers\.2\.", r"\1.proj_out."),
    (r"((?:mlps\.\d|prediction_head))\.layers\.1\.", r"\1.layers.0."),
]


def images_and_layouts():
    rng = torch.Generator().manual_seed(0)
    images = []
    for size in SIZES:
        coarse = torch.rand(1, 3, 6, 6, generator=rng)
        images.append((torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1) * 255).byte())
    return images, [Layout(torch.tensor(b).reshape(-1, 4), [f"thing {i}" for i in range(len(b))]) for b in BOXES]


def tiny():
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(6)
        network = Sam(
            ImageEncoderViT(
                img_size=SIDE,
                patch_size=8,
                embed_dim=32,
                depth=3,
                num_heads=2,
                out_chans=32,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            PromptEncoder(32, (8, 8), (SIDE, SIDE), mask_in_chans=8),
            MaskDecoder(
                transformer_dim=32,
                transformer=TwoWayTransformer(2, 32, num_heads=8, mlp_dim=48),
                iou_head_depth=3,
                iou_head_hidden_dim=16,
            ),
        )
        for weight in network.parameters():
            if weight.ndim > 1:  # positions begin as zeros, which would hide a mistake in them
                weight.normal_(0, 0.3)
    return network


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("segment_anything") / "sam_tiny.pth"
    torch.save(tiny().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def converted(file, tmp_path_factory):
    """The same weights as a folder of transformers."""
    from transformers import SamConfig, SamImageProcessor, SamModel

    tensors = {}
    for name, value in torch.load(file, weights_only=True).items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        tensors[name] = value
    shared = tensors["prompt_encoder.shared_embedding.positional_embedding"]
    tensors["shared_image_embedding.positional_embedding"] = shared
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16}
    prompt = {"hidden_size": 32, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 8, "iou_head_hidden_dim": 16}
    with torch.random.fork_rng(devices=[]):
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        model = SamModel(config)
    model.load_state_dict(tensors)
    path = tmp_path_factory.mktemp("converted")
    model.save_pretrained(path)
    SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def iou(a, b):
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def test_no_images_and_no_regions_need_no_weights():
    segmenter = SegmentAnything("nowhere")
    images, _ = images_and_layouts()
    assert isinstance(segmenter, Segmenter) and isinstance(segmenter, ScoringSegmenter)
    assert not isinstance(segmenter, PointSegmenter)
    assert segmenter.segment([], []) == []
    assert segmenter.segment(images[:2], [Layout.empty()] * 2) == [[], []]


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_the_architecture_of_a_published_file_is_read_off_its_tensors(kind):
    from segment_anything import sam_model_registry

    from scenewright.annotators.segmenters.segment_anything import _build

    with torch.device("meta"):
        published = sam_model_registry[kind]()
        built = _build(published.state_dict())
    assert str(built) == str(published)
    for network in (built, published):
        encoder = network.image_encoder
        network.numbers = [(block.window_size, block.attn.num_heads, block.attn.scale) for block in encoder.blocks]
        network.numbers += [encoder.img_size, network.mask_decoder.transformer.num_heads]
        network.numbers += [network.prompt_encoder.input_image_size, network.prompt_encoder.image_embedding_size]
    assert built.numbers == published.numbers


@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_those_of_sam_with_the_same_weights(file, converted, multimask):
    images, layouts = images_and_layouts()
    ours = SegmentAnything(str(file), multimask=multimask).segment(images, layouts)
    theirs = SAM(str(converted), multimask=multimask).segment(images, layouts)
    assert [len(x) for x in ours] == [3, 0, 2, 1]
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    assert all(a.size == b.size and iou(a.decode(), b.decode()) >= 0.99 for a, b in pairs)
    assert 0.05 < sum(a.area / (a.size[0] * a.size[1]) for a, _ in pairs) / len(pairs) < 0.95


def test_logits_are_those_of_sam_with_the_same_weights(file, converted):
    images, _ = images_and_layouts()
    boxes = torch.tensor([[0.0, 0.0, 60.0, 40.0], [10.0, 20.0, 31.0, 32.0]])
    with torch.inference_mode():
        ours, theirs = SegmentAnything(str(file))._look(images), SAM(str(converted))._look(images)
        assert ours.sizes == theirs.sizes == [(43, 64), (64, 25), (64, 64), (64, 64)]
        for i in range(len(images)):
            (a, scores), (b, others) = ours.decode([i, i], boxes), theirs.decode([i, i], boxes)
            assert a.shape == b.shape == (2, 32, 32)
            assert float((a - b).abs().max()) < 1e-3 * float(b.abs().max())
            assert torch.allclose(scores, others, atol=1e-3 * float(others.abs().max()))


def test_masks_are_those_of_the_packages_own_predictor(file):
    from segment_anything import SamPredictor

    images, layouts = images_and_layouts()
    masks = SegmentAnything(str(file)).segment(images, layouts)
    network = tiny().eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    predictor = SamPredictor(network)
    for image, layout, found in zip(images, layouts, masks, strict=True):
        predictor.set_image(image.permute(1, 2, 0).numpy())
        for box, mask in zip(layout.pixel_boxes(*image.shape[1:]), found, strict=True):
            (wanted,), _, _ = predictor.predict(box=box.numpy(), multimask_output=False)
            assert iou(mask.decode(), torch.from_numpy(wanted)) > 0.98


@pytest.mark.parametrize("size", [(60, 90), (128, 50), (300, 200), (33, 41)])
def test_resizing_differs_from_pillows_by_one_level_at_most(size):
    from segment_anything.utils.transforms import ResizeLongestSide

    from scenewright.annotators.segmenters.segment_anything import _resized

    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = _resized(image, SIDE).permute(1, 2, 0).numpy().astype(int)
    height, width = ours.shape[:2]
    pillow = PILImage.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), PILImage.Resampling.BILINEAR)
    package = ResizeLongestSide(SIDE).apply_image(image.permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(pillow), package)
    assert np.abs(ours - package).max() <= 1


@pytest.mark.parametrize(("batch_size", "boxes_per_call"), [(1, 1), (2, 2), (4, 64)])
def test_a_batch_is_segmented_as_its_images_one_by_one(file, batch_size, boxes_per_call):
    images, layouts = images_and_layouts()
    segmenter = SegmentAnything(str(file), batch_size=batch_size, boxes_per_call=boxes_per_call)
    together = segmenter.segment(images, layouts)
    assert together == segmenter.segment(images, layouts)
    for image, layout, masks in zip(images, layouts, together, strict=True):
        (alone,) = SegmentAnything(str(file)).segment([image], [layout])
        assert all(iou(a.decode(), b.decode()) > 0.99 for a, b in zip(masks, alone, strict=True))


@pytest.mark.parametrize("size", [(3, 700), (1, 1), (1, 1000)])
def test_slivers_have_masks_of_their_images_size(file, size):
    layout = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.99, 0.99, 1.0, 1.0]]), ["whole", "corner"])
    (masks,) = SegmentAnything(str(file)).segment([torch.full((3, *size), 90, dtype=torch.uint8)], [layout])
    assert [mask.size for mask in masks] == [size, size]


def test_half_precision_is_for_the_encoder_and_changes_little(file):
    images, layouts = images_and_layouts()
    exact, half = (SegmentAnything(str(file), dtype=dtype) for dtype in ("float32", "bfloat16"))
    for a, b in zip(exact.segment(images, layouts), half.segment(images, layouts), strict=True):
        assert all(iou(x.decode(), y.decode()) > 0.8 for x, y in zip(a, b, strict=True))
    assert {p.dtype for p in half._network.image_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half._network.mask_decoder.parameters()} == {torch.float32}


def test_the_file_is_found_by_path_and_in_a_folder(file):
    images, layouts = images_and_layouts()
    by_path = SegmentAnything(str(file)).segment(images[3:], layouts[3:])
    assert SegmentAnything(str(file.parent), filename=file.name).segment(images[3:], layouts[3:]) == by_path
    with pytest.raises(MissingWeights, match=r"has no checkpoints/sam_vit_h_4b8939\.pth"):
        SegmentAnything(str(file.parent)).segment(images, layouts)


class Trap:
    """What a pickle may hold: a call that happens when it is read."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Trap(), "holds more than tensors and was not opened"),
        ({"weight": torch.zeros(2)}, "is no checkpoint of segment_anything: it has no tensor"),
        ({}, "is no checkpoint of segment_anything: it has no tensor"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    images, layouts = images_and_layouts()
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        SegmentAnything(str(tmp_path / "other.pth")).segment(images, layouts)


def test_a_file_without_some_tensors_is_refused(file, tmp_path):
    tensors = torch.load(file, weights_only=True)
    del tensors["mask_decoder.iou_token.weight"]
    torch.save(tensors, tmp_path / "part.pth")
    images, layouts = images_and_layouts()
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are missing.*iou_token"):
        SegmentAnything(str(tmp_path / "part.pth")).segment(images, layouts)
