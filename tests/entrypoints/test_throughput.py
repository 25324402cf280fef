"""Numbers about speed."""

import pytest
import torch

from scenewright.entrypoints.throughput import Throughput, peak_flops, peak_memory
from scenewright.layout_models.training import Step


def step(number: int, **known) -> Step:
    options = {"loss": 1.0, "images": 8, "grad_norm": 1.0, "skipped": False, "learning_rate": 1e-3}
    return Step(number, **{**options, "seconds": 2.0, "waited": 0.5, **known})


@pytest.mark.parametrize(
    ("name", "half", "expected"),
    [
        ("NVIDIA H200", True, 989e12),
        ("NVIDIA H100 80GB HBM3", False, 495e12),
        ("NVIDIA H100 PCIe", True, 756e12),
        ("NVIDIA A100-SXM4-80GB", True, 312e12),
        ("NVIDIA GeForce RTX 4090", True, 165e12),
        ("NVIDIA L40S", True, 362e12),
        ("NVIDIA L4", True, 121e12),
        ("Tesla V100-SXM2-16GB", False, 15.7e12),
        ("Some Other Device", True, None),
    ],
)
def test_a_known_device_has_a_peak(name, half, expected):
    assert peak_flops(name, half) == expected


def test_nothing_done_has_no_speed():
    speed = Throughput(peak=1e12)
    assert speed.images_per_second == 0 and speed.utilization is None and speed.mean_loss != speed.mean_loss


def test_a_window_sums_up_steps_and_leaves_skipped_losses_out():
    speed = Throughput()
    for made in (step(1), step(2, loss=3.0), step(3, loss=float("nan"), skipped=True)):
        speed.add(made)
    assert speed.images_per_second == 4 and speed.mean_loss == 2 and speed.skipped == 1 and speed.waited == 1.5
    assert speed.utilization is None
    speed.reset()
    assert speed.images == speed.steps == speed.seconds == 0


def test_utilization_is_what_is_needed_by_what_would_be_possible():
    weight = torch.ones(16, 32, requires_grad=True)
    speed = Throughput(peak=1e6)
    with speed.counting():
        (torch.ones(4, 16) @ weight).sum().backward()
    assert speed.flops == 2 * (2 * 4 * 16 * 32)  # forward, and the gradient of the weight
    speed.add(step(1))
    assert speed.utilization == pytest.approx(8192 / (2.0 * 1e6))
    assert speed.measure == "MFU" and Throughput(peak=1e6, recomputes=True).measure == "HFU"
    idle = Throughput()
    with idle.counting():
        (torch.ones(4, 16) @ weight).sum().backward()
    assert idle.flops == 0


def test_memory_is_said_for_people():
    assert peak_memory(torch.device("cpu")).endswith(" GiB")
