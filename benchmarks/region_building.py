"""From boxes to regions, their texts and the packed groups that the layers read, beside a cell by cell way.

The baseline compares the memberships of all cells as rows, as the published code does (its union masks left out).
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from materials.layouts import WordTokenizer, random_layout

from scenewright.layout import Layout
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.region_text import region_text
from scenewright.layout_models.rich_context.regions import partition, partition_grids

SIDE = 512
#: On which UNets attend to text at 512 pixels.
GRIDS = {"SD 1.5": [(64, 64), (32, 32), (16, 16), (8, 8)], "SDXL": [(32, 32), (16, 16)]}
GOAL = 3.0  # ms, regions of 30 boxes on 64 x 64 cells


def by_cells(boxes: Any) -> Any:
    """The partition as the distinct rows of all cells' memberships, and each region's weights in a loop."""
    cells = np.zeros((SIDE // 8, SIDE // 8, len(boxes)), dtype=bool)
    for number, (left, top, right, bottom) in enumerate((boxes / 8).tolist()):
        cells[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right)), number] = True
    regions, ids = np.unique(cells.reshape(-1, len(boxes)), axis=0, return_inverse=True)
    areas = cells.sum((0, 1))
    return regions, ids, [areas[row].min() / areas[row] if row.any() else [] for row in regions]


def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def steps(layout: Layout) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    boxes, tokenizer = layout.pixel_boxes(SIDE, SIDE), WordTokenizer()
    found: dict[str, Callable[[], Any]] = {
        "cell by cell": lambda: by_cells(boxes.numpy()),
        "regions": lambda: partition(boxes, SIDE, SIDE).weights,
    }
    for name, grids in GRIDS.items():
        regions, _ = partition_grids(boxes, SIDE, SIDE, grids)
        one = canvas(layout, SIDE, SIDE, grids, tokenizer)
        found |= {
            f"regions on all grids, {name}": lambda grids=grids: partition_grids(boxes, SIDE, SIDE, grids)[0].weights,
            f"texts, {name}": lambda regions=regions: region_text(regions, layout.labels, tokenizer),
            f"all of a layout, {name}": lambda grids=grids: canvas(layout, SIDE, SIDE, grids, tokenizer),
            f"packing it, {name}": lambda one=one, grids=grids: ground(
                [one], lambda ids: torch.zeros(*ids.shape, 8), grids
            ),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="30 boxes, once, to see that it runs")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--words", type=int, default=15, help="in a label")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 1 if options.smoke else options.repeats
    for count in (30,) if options.smoke else (30, 5, 12, 20):
        layout = random_layout(count, 0, options.words)
        regions = len(partition(layout.pixel_boxes(SIDE, SIDE), SIDE, SIDE))
        print(
            f"{count} boxes, {regions} regions on 64 x 64 cells, labels of {options.words} words; medians of {repeats}"
        )
        calls = steps(layout)
        for call in calls.values():
            call()
        rounds = [{name: milliseconds(call) for name, call in calls.items()} for _ in range(repeats)]
        for name in calls:
            goal = f"  (goal {GOAL:g})" if name == "regions" and count == 30 else ""
            print(f"  {name:<29} {median(x[name] for x in rounds):7.2f} ms{goal}")
        print(
            f"  cell by cell / regions {median(x['cell by cell'] / x['regions'] for x in rounds):.1f} times", flush=True
        )


if __name__ == "__main__":
    main()
