"""LPIPSDiversity: lpips' own distances, over all pairs of images of one layout."""

import math
import warnings

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError, MissingWeights, check
from scenewright.evaluation.lpips_diversity import LPIPSDiversity
from scenewright.layout import Sample


@pytest.fixture(scope="module")
def trunk():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.alexnet(weights=None)


@pytest.fixture(scope="module")
def checkpoint(trunk, tmp_path_factory):
    """As torchvision publishes it, without the layers that LPIPS never reads, which are most of it."""
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({k: v for k, v in trunk.state_dict().items() if k.startswith("features.")}, path)
    return str(path)


@pytest.fixture(scope="module")
def library(trunk):
    """lpips as its authors construct it, with the same trunk."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = dict(trunk.features.named_modules())
    for part in (network.net.slice1, network.net.slice2, network.net.slice3, network.net.slice4, network.net.slice5):
        for name, module in part.named_children():
            module.load_state_dict(layers[name].state_dict())
    return network


def picture(seed, height=70, width=80):
    values = torch.randint(0, 256, (3, 9, 9), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.nn.functional.interpolate(values[None].float(), (height, width), mode="bilinear")[0].to(torch.uint8)


def distance(library, x, y):
    with torch.no_grad():
        return library(x[None] / 127.5 - 1, y[None] / 127.5 - 1).item()


def scores(metric, images, keys):
    metric.reset()
    metric.update(images, [Sample(x) for x in keys])
    return [x.image["lpips_diversity"] for x in metric.records]


@pytest.fixture(scope="module")
def metric(checkpoint):
    return LPIPSDiversity(checkpoint, sha256=None)


def test_the_mean_is_over_all_pairs_of_each_layout(metric, library):
    images = [picture(i) for i in range(5)]
    found = scores(metric, images, ["a", "a", "a", "b", "b"])
    d = {(i, j): distance(library, images[i], images[j]) for i, j in [(0, 1), (0, 2), (1, 2), (3, 4)]}
    expected = [(d[0, 1] + d[0, 2]) / 2, (d[0, 1] + d[1, 2]) / 2, (d[0, 2] + d[1, 2]) / 2, d[3, 4], d[3, 4]]
    assert found == pytest.approx(expected, rel=1e-4) and min(found) > 1e-4
    pairs_of_a = (d[0, 1] + d[0, 2] + d[1, 2]) / 3
    assert metric.compute()["lpips_diversity"] == pytest.approx((3 * pairs_of_a + 2 * d[3, 4]) / 5, rel=1e-4)
    assert metric.higher_is_better


def test_equal_images_have_none(metric):
    assert scores(metric, [picture(0)] * 3, "aaa") == pytest.approx([0, 0, 0], abs=1e-7)


def test_a_layout_of_one_image_is_not_scored_and_it_is_said(metric):
    found = scores(metric, [picture(0), picture(1), picture(2)], "aab")
    assert math.isnan(found[2]) and not math.isnan(found[0])
    assert "diversity is between several" in metric.records[2].problems[0]
    assert [x.scored for x in metric.records] == [1, 1, 0] and not metric.records[0].problems
    assert metric.compute()["lpips_diversity"] == pytest.approx(found[0])


def test_neither_other_layouts_nor_the_batch_change_a_score(metric, checkpoint):
    images = [picture(0), picture(1), picture(2, 64, 64), picture(3, 64, 64), picture(4), picture(5)]
    together = scores(metric, images, "aabbcc")
    one = LPIPSDiversity(checkpoint, sha256=None, batch_size=1)
    alone = [x for i in (0, 2, 4) for x in scores(one, images[i : i + 2], "xx")]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scores(metric, [images[i] for i in (0, 2, 1, 3)], "abab")[0] == pytest.approx(together[0], abs=1e-5)


def test_images_of_several_sizes_are_compared_at_the_least_height_and_width(metric, library):
    from torchvision.transforms.v2.functional import resize

    tall, wide = picture(0, 120, 70), picture(1, 66, 100)
    expected = distance(library, resize(tall, [66, 70], antialias=True), resize(wide, [66, 70], antialias=True))
    assert scores(metric, [tall, wide], "aa") == pytest.approx([expected, expected], rel=1e-4)


def test_small_images_are_stretched_to_what_the_network_sees(metric, library):
    from torchvision.transforms.v2.functional import resize

    small, other = picture(0, 16, 80), picture(1, 16, 80)
    expected = distance(library, resize(small, [64, 80]), resize(other, [64, 80]))
    assert scores(metric, [small, other], "aa")[0] == pytest.approx(expected, rel=1e-4)
    black, white = (torch.full((3, 1, 1), x, dtype=torch.uint8) for x in (0, 255))
    assert scores(metric, [black, white], "aa")[0] > 1e-3


def test_no_image_is_no_record(metric):
    assert scores(metric, [], []) == []


def test_safetensors_do_as_well(metric, checkpoint, tmp_path):
    save_file(torch.load(checkpoint, weights_only=True), tmp_path / "alexnet.safetensors")
    converted = LPIPSDiversity(str(tmp_path / "alexnet.safetensors"), sha256=None)
    images = [picture(0), picture(1)]
    assert scores(converted, images, "aa") == scores(metric, images, "aa")


def test_missing_or_other_weights_are_refused_before_work_begins(checkpoint, tmp_path):
    missing = LPIPSDiversity(str(tmp_path / "alexnet-owt-7be5be79.pth"))
    with pytest.raises(MissingWeights, match="curl -L -O https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"):
        check({"metric.lpips_diversity": missing})
    with pytest.raises(CheckpointError, match="must begin with 7be5be79"):
        check({"metric.lpips_diversity": LPIPSDiversity(checkpoint)})
    save_file({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match="tensors are missing"):
        scores(LPIPSDiversity(str(tmp_path / "some.safetensors"), sha256=None), [picture(0), picture(1)], "aa")


def test_its_description_names_the_weights(metric):
    assert len(describe(metric)["checkpoints"][0]["sha256"]) == 64
