"""The multi-instance sampler with all instances in one batch against one at a time, and packed tokens against padding.

The sampler: the tiny model, one image of so many instances, 20 steps of which 7 are made apart; it evaluates the same
whatever is drawn at once, so images are the same but for rounding, and the largest difference is printed. The baseline
is the same code with ``max_batch=1``, which is how the released code goes about it.

Gated attention: the layer of InstanceDiffusion at the published sizes, with the tokens that the same layout has,
against the 184 that the released weights were trained with: 30 slots of boxes, points, scribbles and polygons, and 64
of masks. Pixels are most of what it attends to, and all of what asks, so there is little to gain.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from scenewright.layout import Layout, RunLengths
from scenewright.layout_models.instance_diffusion.attach import adapter_parameters
from scenewright.layout_models.instance_diffusion.gated_attention import GatedSelfAttention, GroundingTokens
from scenewright.layout_models.tiny_instance_diffusion import TinyInstanceDiffusion

GOAL = 2.0
#: Side of the grid and channels of three kinds of layers in Stable Diffusion 1.5 at 512 pixels, and of its text.
LAYERS, CONTEXT, HEADS = [(64, 320), (32, 640), (16, 1280), (8, 1280)], 768, 8
PADDED = 4 * 30 + 64


def scene(instances: int, masks: bool) -> Layout:
    """Boxes of a grid; their masks are the boxes without a border."""
    side = -(-(instances**0.5) // 1)
    corners = [(i % side / side, i // side / side) for i in range(instances)]
    boxes = torch.tensor([[x, y, x + 0.9 / side, y + 0.9 / side] for x, y in corners])
    planes = torch.zeros(instances, 32, 32, dtype=torch.bool)
    for plane, (left, top, right, bottom) in zip(planes, (boxes * 32).int().tolist(), strict=True):
        plane[top + 1 : bottom, left + 1 : right] = True
    labels = [f"{colour} circle" for colour in ("red", "blue", "green", "white")] * -(-instances // 4)
    return Layout(boxes=boxes, labels=labels[:instances], masks=RunLengths.encode(planes) if masks else None)


def model(steps: int) -> TinyInstanceDiffusion:
    """One whose layers say something."""
    made = TinyInstanceDiffusion(base="twin", num_inference_steps=steps, mis=0.36, object_attention=False).eval()
    random = torch.Generator().manual_seed(0)
    for parameter in adapter_parameters(made.unet).values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=random)
    return made


def seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def rounds(ways: Mapping[str, Callable[[], Any]], repeats: int, timed: Any) -> list[dict[str, float]]:
    """The seconds of each way, there and back, after once without a clock."""
    for way in ways.values():
        way()
    orders = [list(ways), list(ways)[::-1]]
    return [{name: timed(ways[name]) for name in orders[i % 2]} for i in range(repeats)]


def told(found: list[dict[str, float]], slow: str, fast: str) -> str:
    ratios = sorted(x[slow] / x[fast] for x in found)
    times = "  ".join(f"{name} {median(x[name] for x in found) * 1e3:7.1f} ms" for name in (slow, fast))
    return f"{times}  {slow} / {fast} {median(ratios):.2f} ({ratios[0]:.2f} – {ratios[-1]:.2f})"


def sampler(instances: int, steps: int, repeats: int, timed: Any) -> None:
    network, layout = model(steps), scene(instances, masks=True)

    def draw(max_batch: int | None) -> torch.Tensor:
        network.max_batch = max_batch
        return network.sample(["A red circle."], [layout], [0], height=32, width=32).int()

    difference = (draw(None) - draw(1)).abs().max().item()
    found = rounds({"one at a time": lambda: draw(1), "batched": lambda: draw(None)}, repeats, timed)
    print(f"sampler, {instances} instances, {steps} steps: {told(found, 'one at a time', 'batched')} (goal {GOAL}); "
          f"largest difference {difference} of 255", flush=True)  # fmt: skip


@torch.inference_mode()
def attention(side: int, dim: int, tokens: int, repeats: int, timed: Any) -> None:
    layer = GatedSelfAttention(dim, CONTEXT, HEADS, dim // HEADS).eval()
    layer.alpha_attn.data.fill_(1.0)
    x = torch.randn(1, side * side, dim)
    packed, padded = (GroundingTokens(torch.randn(1, count, CONTEXT)) for count in (tokens, PADDED))
    ways = {"padded": lambda: layer(x, padded), "packed": lambda: layer(x, packed)}
    found = rounds(ways, repeats, timed)
    print(f"gated attention, {side:2d} x {side:2d}, {dim:4d} channels, {tokens:3d} tokens of {PADDED}: "
          f"{told(found, 'padded', 'packed')}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few steps, once, to see that it runs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "processor"],
        help="processor: on one thread, what it computes and not what it waits; for machines that others use too",
    )
    options = parser.parse_args()
    threads, clock = (1, time.thread_time) if options.clock == "processor" else (options.threads, time.perf_counter)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    repeats, steps = (1, 6) if options.smoke else (options.repeats, 20)
    timed = partial(seconds, clock=clock)
    print(f"cpu, {threads} threads, {options.clock} time, medians of {repeats} with their range")
    sampler(options.instances, steps, repeats, timed)
    # of boxes and points, and with scribbles, polygons and masks too
    for side, dim in LAYERS[-1:] if options.smoke else LAYERS:
        for tokens in (2 * options.instances, 4 * options.instances + 64):
            attention(side, dim, tokens, repeats, timed)


if __name__ == "__main__":
    main()
