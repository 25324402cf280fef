"""FDDINO: the Frechet distance of DINOv2's features."""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from scenewright.checkpoints import check, checkpoints_of
from scenewright.evaluation.fd_dino import FDDINO
from scenewright.evaluation.feature_networks import DINOv2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Dinov2Model(config)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.2)
    network.save_pretrained(folder)
    return str(folder)


def test_it_is_the_distance_of_two_gaussians(checkpoint, scenes):
    """Independent of torch-fidelity: by the symmetric square root of the covariances' product."""
    drawn, samples = scenes(40, shift=30), scenes(40, seed=1)
    metric = FDDINO(DINOv2(checkpoint, size=28))
    check({"metric.fd_dino": metric})
    metric.update([x.image for x in drawn], samples)
    x, y = (metric.network.features([s.image for s in some]).double() for some in (drawn, samples))
    values, vectors = torch.linalg.eigh(x.T.cov())
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ y.T.cov() @ root).clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * cross
    assert metric.compute()["fd_dino"] == pytest.approx(float(expected), rel=1e-4) and expected > 0.05


def test_the_distance_of_a_set_from_itself_is_none(checkpoint, scenes):
    metric = FDDINO(DINOv2(checkpoint, size=28))
    metric.update([x.image for x in scenes(20)], scenes(20))
    assert abs(metric.compute()["fd_dino"]) < 1e-4 and not metric.higher_is_better


def test_one_image_is_not_enough(checkpoint, scenes):
    metric = FDDINO(DINOv2(checkpoint, size=28))
    metric.update([scenes(1)[0].image], scenes(1))
    assert math.isnan(metric.compute()["fd_dino"])


def test_batch_size_changes_nothing(checkpoint, scenes):
    found = []
    for n in (1, 7):
        metric = FDDINO(DINOv2(checkpoint, size=28, batch_size=n))
        metric.update([x.image for x in scenes(9, shift=30)], scenes(9, seed=1))
        found.append(metric.compute()["fd_dino"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_its_weights_are_pinned():
    path = Path(__file__).parents[2] / "conf" / "metric" / "fd_dino.yaml"
    metric = instantiate(OmegaConf.load(path).fd_dino)
    (weights,) = checkpoints_of(metric)
    assert weights.name == "facebook/dinov2-large" and len(weights.revision) == 40
