"""Feature networks: the library's own features, from weights that are read safely and are the published ones."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError, MissingWeights, check
from scenewright.evaluation.feature_networks import DINOv2, InceptionV3, WeightsFile
from scenewright.evaluation.feature_sets import FeatureNetwork


def image(seed, height=40, width=56):
    values = torch.randint(0, 256, (3, 6, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.nn.functional.interpolate(values[None].float(), (height, width), mode="bilinear")[0].to(torch.uint8)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's network with random weights, and the file that it reads them from."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            return super().load_state_dict(state_dict, strict=bool(state_dict), assign=assign)

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "nothing.pth")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Random("inception-v3-compat", ["2048", "logits_unbiased"], str(folder / "nothing.pth"))
        for parameter in network.parameters():  # such that images are told apart after 94 layers
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), folder / "random.pth")
    # constructed by the library's own way to read weights
    same = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(folder / "random.pth")
    )
    return same, str(folder / "random.pth")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Dinov2Model(config)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.2)
    network.eval().save_pretrained(folder)
    return network, str(folder)


def test_inception_features_are_torch_fidelitys(inception):
    library, checkpoint = inception
    images = [image(0), image(1, 33, 20)]
    network = InceptionV3(checkpoint, sha256=None, batch_size=1)
    features, logits = network.features(images), network.logits(images)
    for x, row, classes in zip(images, features, logits, strict=True):
        expected = library(x[None])
        torch.testing.assert_close(row, expected[0][0])
        torch.testing.assert_close(classes, expected[1][0])
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert (features[0] - features[1]).abs().max() > 0.05


def test_inception_features_do_not_depend_on_the_batch(inception):
    images = [image(0), image(1, 33, 20), image(2)]
    one, many = (InceptionV3(inception[1], sha256=None, batch_size=n).features(images) for n in (1, 3))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-5)


def test_antialiasing_is_pillows_and_leaves_the_networks_resize_nothing_to_do(inception):
    library, checkpoint = inception
    x = torch.randint(0, 256, (3, 400, 500), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    (row,) = InceptionV3(checkpoint, sha256=None, resize="antialias").features([x])
    pillow = PILImage.fromarray(x.permute(1, 2, 0).numpy()).resize((299, 299), PILImage.Resampling.BICUBIC)
    expected = library(torch.from_numpy(np.array(pillow)).permute(2, 0, 1)[None])[0][0]
    torch.testing.assert_close(row, expected, atol=2e-3, rtol=1e-2)  # Pillow and torch round half a level apart
    (plain,) = InceptionV3(checkpoint, sha256=None).features([x])
    assert (row - plain).abs().max() > 10 * (row - expected).abs().max()


def test_weights_may_lack_the_counters_of_training_and_may_be_safetensors(inception, tmp_path):
    tensors = {k: v for k, v in torch.load(inception[1], weights_only=True).items() if "num_batches" not in k}
    save_file(tensors, tmp_path / "weights.safetensors")
    converted = InceptionV3(str(tmp_path / "weights.safetensors"), sha256=None)
    assert converted.digest() == InceptionV3(inception[1], sha256=None).digest()
    tensors["fc.bias"] = tensors["fc.bias"] + 1
    save_file(tensors, tmp_path / "others.safetensors")
    assert converted.digest() != InceptionV3(str(tmp_path / "others.safetensors"), sha256=None).digest()


def test_missing_weights_are_named_with_their_address_before_work_begins(tmp_path):
    network = InceptionV3(str(tmp_path / "weights-inception-2015-12-05-6726825d.pth"))
    with pytest.raises(MissingWeights, match=r"curl -L -O https://github.com/toshas/torch-fidelity/.*6726825d.pth"):
        check({"metric.fid": network})
    with pytest.raises(MissingWeights):
        network.features([image(0)])


def test_another_file_than_the_published_one_is_refused(inception):
    with pytest.raises(CheckpointError, match="must begin with 6726825d"):
        check({"metric.fid": InceptionV3(inception[1])})


def test_a_file_of_code_is_not_opened(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"fc.bias": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        InceptionV3(str(tmp_path / "evil.pth"), sha256=None).features([image(0)])
    assert not ran.exists()


def test_another_networks_weights_are_refused(tmp_path):
    save_file({"fc.bias": torch.zeros(1008)}, tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match="tensors are missing"):
        InceptionV3(str(tmp_path / "some.safetensors"), sha256=None).features([image(0)])


def test_dinov2_features_are_transformers_class_token(dino):
    from transformers import BitImageProcessor

    library, checkpoint = dino
    images = [image(0, 100, 80), image(1, 30, 64)]
    processor = BitImageProcessor(
        do_center_crop=False,
        size={"height": 42, "width": 42},
        resample=PILImage.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = library(pixel_values=pixels).pooler_output
    network = DINOv2(checkpoint, size=42)
    torch.testing.assert_close(network.features(images), expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.05


def test_dinov2_features_do_not_depend_on_the_batch(dino):
    images = [image(i, 40 + i, 60) for i in range(5)]
    one, many = (DINOv2(dino[1], size=42, batch_size=n).features(images) for n in (1, 5))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-5)


def test_a_picture_of_one_pixel_and_no_picture_at_all_have_features(dino, inception):
    one = torch.full((3, 1, 1), 7, dtype=torch.uint8)
    for network in (DINOv2(dino[1], size=42), InceptionV3(inception[1], sha256=None)):
        assert network.features([one]).isfinite().all()
        assert network.features([]).shape[0] == 0
        assert isinstance(network, FeatureNetwork)


def test_a_description_names_network_weights_and_resize(dino, inception):
    class Metric:
        def __init__(self, network):
            self.network = network

    network = describe(Metric(InceptionV3(inception[1], sha256=None)))["settings"]["network"]
    assert network["class"].endswith("InceptionV3") and network["settings"]["resize"] == "tensorflow"
    assert len(network["checkpoints"][0]["sha256"]) == 64
    network = describe(Metric(DINOv2(dino[1])))["settings"]["network"]
    assert network["settings"]["resize"] == "bicubic" and len(network["checkpoints"][0]["sha256"]) == 64


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="resize must be"):
        InceptionV3("x", resize="lanczos")
    with pytest.raises(ValueError, match="resize must be"):
        DINOv2(resize="nearest")


def test_a_file_in_the_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert WeightsFile("~/x.safetensors", "https://example.org/x").tensors()["x"].sum() == 2
