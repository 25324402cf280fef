"""A fine-tuned Inception: torchvision's network, read safely, whose numbers are never taken for another one's."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file
from torchvision.models.inception import Inception3

from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError, MissingWeights, check
from scenewright.evaluation.feature_sets import FeatureNetwork, Reference
from scenewright.evaluation.fid import FID
from scenewright.evaluation.fine_tuned_inception import FineTunedInception
from scenewright.evaluation.inception_score import Classifier, InceptionScore
from scenewright.evaluation.leaderboard.comparing import differences


def image(seed, height=40, width=56):
    values = torch.randint(0, 256, (3, 6, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.nn.functional.interpolate(values[None].float(), (height, width), mode="bilinear")[0].to(torch.uint8)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """torchvision's own network of four classes with random weights, and the file of its tensors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inception3(num_classes=4, aux_logits=False, init_weights=False).eval()
        for parameter in network.parameters():  # such that images are told apart after 94 layers
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
        network.fc.bias.data.normal_()
    path = tmp_path_factory.mktemp("tuned") / "birds.safetensors"
    save_file({name: x for name, x in network.state_dict().items() if "num_batches" not in name}, path)
    return network, str(path)


def made(path, **settings):
    return FineTunedInception(path, **{"classes": 4, "pooling": "torch", **settings})


def expected(network, some):
    """torchvision's features and logits of images that Pillow resized."""
    rows = []
    for x in some:
        small = PILImage.fromarray(x.permute(1, 2, 0).numpy()).resize((299, 299), PILImage.Resampling.BICUBIC)
        rows.append(torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1)
    seen = []
    with network.avgpool.register_forward_hook(lambda *x: seen.append(x[2].flatten(1))), torch.no_grad():
        return network(torch.stack(rows)), seen[0]


def test_features_and_logits_are_torchvisions_of_pillows_pictures(tuned):
    some = [image(0), image(1, 320, 400)]
    logits, features = expected(tuned[0], some)
    network = made(tuned[1])
    torch.testing.assert_close(network.features(some), features, rtol=2e-2, atol=2e-2 * float(features.abs().mean()))
    assert network.features(some).shape == (2, 2048) and network.logits(some).shape == (2, 3)
    torch.testing.assert_close(network.logits(some), logits[:, 1:], rtol=2e-2, atol=2e-2 * float(logits.abs().mean()))
    assert made(tuned[1], background=False).logits(some[:1]).shape == (1, 4)
    assert isinstance(network, FeatureNetwork) and isinstance(network, Classifier)


def test_batches_change_nothing_and_no_images_have_no_features(tuned):
    some = [image(i) for i in range(2)]
    assert torch.equal(made(tuned[1], batch_size=1).features(some), made(tuned[1], batch_size=2).features(some))
    assert made(tuned[1]).features([]).shape == (0, 2048) and made(tuned[1]).logits([]).shape == (0, 3)


def test_tensorflows_pooling_does_not_count_what_is_beyond_the_border(tuned):
    block = made(tuned[1], pooling="tensorflow")._network.Mixed_5b
    other = made(tuned[1])._network.Mixed_5b
    x = torch.ones(1, 192, 5, 5)
    with torch.no_grad():
        inside, border = (torch.ones(1, 192, 1, 1) for _ in range(2))
        torch.testing.assert_close(block(x)[0, -32:, 0, 0], block.branch_pool(inside)[0, :, 0, 0])
        torch.testing.assert_close(other(x)[0, -32:, 0, 0], other.branch_pool(border * 4 / 9)[0, :, 0, 0])


def test_weights_of_other_forms_are_read(tuned, tmp_path):
    tensors = tuned[0].state_dict() | {"AuxLogits.fc.weight": torch.ones(4, 768)}
    torch.save({"state_dict": {f"module.{name}": x for name, x in tensors.items()}}, tmp_path / "x.pth")
    assert made(str(tmp_path / "x.pth")).digest() == made(tuned[1]).digest()


def test_missing_other_and_unsafe_files_are_refused(tuned, tmp_path):
    with pytest.raises(MissingWeights, match="4 classes there"):
        check({"metric.fid": FID(made(str(tmp_path / "none.pth")))})
    with pytest.raises(CheckpointError, match="must begin with 0000"):
        check({"metric.fid": FID(made(tuned[1], sha256="0000"))})
    with pytest.raises(CheckpointError, match="have another shape"):
        made(tuned[1], classes=51).features([image(0)])
    torch.save({"x": Inception3}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="was not opened"):
        made(str(tmp_path / "code.pth")).features([image(0)])


def test_nothing_is_loaded_before_an_image_is_seen(tmp_path):
    network = made(str(tmp_path / "none.pth"))
    assert network.settings["resize"] == "antialiased bicubic 299" and network.checkpoints == []


def test_a_reference_of_another_network_pooling_or_classes_is_refused(tuned, tmp_path):
    others = [
        (made(tuned[1], pooling="tensorflow"), "torch pooling"),
        (made(tuned[1], background=False), "background"),
    ]
    for other, said in others:
        Reference({**other.settings, "weights": "0"}, 2, np.zeros(2), np.eye(2)).save(tmp_path / "x.npz")
        with pytest.raises(CheckpointError, match=f"cannot be compared: network must be .*{said}"):
            FID(made(tuned[1]), reference=str(tmp_path / "x.npz")).check()


def test_the_fingerprint_says_weights_classes_and_pooling(tuned, tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    one = describe(InceptionScore(made(tuned[1])))
    for changed, field in (
        (made(tuned[1], pooling="tensorflow"), "pooling"),
        (made(tuned[1], background=False), "background"),
        (made(str(tmp_path / "other.safetensors")), "sha256"),
    ):
        assert any(field in name for name in differences(one, describe(InceptionScore(changed))))
    assert not differences(one, describe(InceptionScore(made(tuned[1], batch_size=1))))


@pytest.mark.parametrize("settings", [{"classes": 2}, {"classes": 1, "background": False}, {"pooling": "max"}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        made("x", **settings)
