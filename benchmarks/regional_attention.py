"""The regional layer against its definition, which repeats the pixels for every region, in the same run.

The definition has the published tensors: 30 slots of 77 tokens, whatever the layout. Ours attends to what the layout
says. "made" is with keys and values projected in every call, as in training; "kept" with those of the call before, as
between the steps of a sampler.

Tried on a CPU and left aside, as the time of the grouped attention alone: keys padded to five lengths in place of
three, 0 to 10 % less; scores, softmax and values as three calls, 5 % more than the fused one; queries made contiguous
first, 5 % more. Kept keys and values are contiguous, 15 to 25 % less. What regions begin with in common is projected
once, which halves the keys of ten objects.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from materials.dense_regional_attention import Slots, dense
from materials.layouts import WordTokenizer, random_layout

from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import Grounding, RegionalCrossAttention

#: Height and width of the grid, channels: the two kinds of layers in SDXL at 512 pixels.
LAYERS = [(32, 640), (16, 1280)]
GRIDS = [(32, 32), (16, 16)]
CONTEXT, SLOTS, LENGTH, HEAD = 2048, 30, 77, 64
#: Objects, seed; the first one has about as many regions as the definition has slots.
LAYOUTS = [(10, 1), (1, 0), (5, 0), (20, 0)]
GOALS = {"made": 10, "kept": 30}


def prepared(objects: int, seed: int, device: str, dtype: torch.dtype) -> tuple[Grounding, str]:
    """A layout as the layers need it, and what is in it."""
    one = canvas(random_layout(objects, seed), 512, 512, GRIDS, WordTokenizer())
    grounding = ground([one], lambda ids: torch.randn(*ids.shape, CONTEXT), GRIDS).to(device, dtype)
    grounding.features = grounding.tokens
    grounding.share()
    regions, tokens = ([len(ids.unique()) for ids in one.ids], len(grounding.tokens))
    return grounding, f"{objects:2d} objects, {regions[0]:3d} and {regions[1]:3d} regions, {tokens:4d} tokens"


def published(side: int, device: str, dtype: torch.dtype) -> Slots:
    """Tensors of the definition's shapes; what is in them does not change its time."""
    masks = torch.zeros(1, SLOTS, side * side, dtype=torch.bool, device=device)
    masks[0, 0] = True
    features = torch.randn(1, SLOTS, LENGTH, CONTEXT, device=device, dtype=dtype)
    return Slots(features, torch.zeros(1, SLOTS, LENGTH, device=device, dtype=dtype), masks, masks)


def seconds(call: Callable[[], Any], device: str, clock: Callable[[], float]) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one layout, once, to see that it runs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "processor"],
        help="processor: on one thread, what it computes and not what it waits; for machines that others use too",
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    options = parser.parse_args()
    threads, clock = (1, time.thread_time) if options.clock == "processor" else (options.threads, time.perf_counter)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype, repeats = getattr(torch, options.dtype), 1 if options.smoke else options.repeats
    print(f"{options.device}, {options.dtype}, {threads} threads, {options.clock} time, medians of {repeats}; "
          f"{SLOTS} slots of {LENGTH} tokens, {CONTEXT} channels")  # fmt: skip
    for objects, seed in LAYOUTS[: 1 if options.smoke else None]:
        grounding, about = prepared(objects, seed, options.device, dtype)
        print(about)
        for side, dim in LAYERS:
            timed = partial(seconds, device=options.device, clock=clock)
            measure(side, dim, grounding, published(side, options.device, dtype), repeats, timed)


@torch.inference_mode()
def measure(side: int, dim: int, grounding: Grounding, slots: Slots, repeats: int, seconds: Any) -> None:
    place = {"device": slots.features.device, "dtype": slots.features.dtype}
    layer: Any = RegionalCrossAttention(dim, CONTEXT, dim // HEAD, name=str(dim)).to(**place)
    torch.nn.init.normal_(layer.attn.to_out[0].weight, std=0.02)
    x = torch.randn(1, side * side, dim, **place)

    def ours(reuse: bool) -> None:
        grounding.reuse = reuse
        if not reuse:
            grounding.kept.clear()
        layer(x, grounding)

    ways: dict[str, Callable[[], Any]] = {
        "definition": lambda: dense(layer, x, slots),
        "made": lambda: ours(False),
        "kept": lambda: ours(True),
    }
    for way in ways.values():
        way()
    # the last of several calls each: what is kept is made by the first one, and the short ones are noisy
    rounds = []
    for _ in range(repeats):
        found = {"definition": seconds(ways["definition"])}
        for name in ("made", "kept"):
            found[name] = median(seconds(ways[name]) for _ in range(5))
        rounds.append(found)
    line = "  ".join(f"{name} {median(x[name] for x in rounds) * 1e3:7.1f} ms" for name in ways)
    ratios = "  ".join(
        f"definition / {name} {median(x['definition'] / x[name] for x in rounds):5.1f} (goal {goal})"
        for name, goal in GOALS.items()
    )
    print(f"  {side:2d} x {side:2d}, {dim:4d} channels: {line}  {ratios}", flush=True)


if __name__ == "__main__":
    main()
