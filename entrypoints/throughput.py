"""How fast a run is: images, floating-point operations and memory."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scenewright.layout_models.training import Step

#: Dense peak in teraFLOP/s, as the makers state it: half precision (fp16, bf16) and fp32 (TF32 where a device has it).
PEAKS = {
    "H200": (989, 495),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 418),
    "H100": (989, 495),
    "GH200": (989, 495),
    "B200": (2250, 1100),
    "A100": (312, 156),
    "A800": (312, 156),
    "A10G": (70, 35),
    "A40": (150, 75),
    "A6000": (155, 77),
    "L40S": (362, 183),
    "L40": (181, 90),
    "L4": (121, 60),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
    "RTX 4090": (165, 83),
    "RTX 3090": (71, 36),
}


def peak_flops(name: str, half: bool) -> float | None:
    """What a device can do at most, in FLOP/s; None where its name is not known.

    Args:
        name: as CUDA gives it: "NVIDIA H100 80GB HBM3".
        half: in fp16 or bf16.
    """
    matches = [key for key in PEAKS if all(word in name.replace("-", " ").split() for word in key.split())]
    if not matches:
        return None
    return PEAKS[max(matches, key=len)][0 if half else 1] * 1e12


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use, for people: of the accelerator, or else of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB on {torch.cuda.get_device_name(device)}"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{used * (1 if sys.platform == 'darwin' else 1024) / 2**30:.2f} GiB"


class Throughput:
    """Sums up steps until it is asked.

    Args:
        peak: of the device, in FLOP/s; None where it is not known.
        recomputes: activations are computed anew in the backward pass, which is counted: the utilization is then the
            hardware's (HFU) and not the model's (MFU).

    Source: the two are told apart as in Chowdhery et al. 2022, arXiv 2204.02311, appendix B.
    """

    def __init__(self, peak: float | None = None, recomputes: bool = False) -> None:
        self.peak, self.flops = peak, 0
        self.measure = "HFU" if recomputes else "MFU"
        self.reset()

    def reset(self) -> None:
        self.steps = self.images = self.skipped = 0
        self.seconds = self.waited = self.loss = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what one step needs, forward and backward, on this process; only where its peak is known."""
        if self.peak is None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()

    def add(self, step: Step) -> None:
        self.steps += 1
        self.images += step.images
        self.seconds += step.seconds
        self.waited += step.waited
        self.skipped += step.skipped
        self.loss += 0.0 if step.skipped else step.loss

    @property
    def mean_loss(self) -> float:
        made = self.steps - self.skipped
        return self.loss / made if made else float("nan")

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def utilization(self) -> float | None:
        """``measure``, in [0, 1]; None where the device or the step's FLOPs are not known."""
        if not self.peak or not self.flops or not self.seconds:
            return None
        return self.flops * self.steps / (self.seconds * self.peak)
