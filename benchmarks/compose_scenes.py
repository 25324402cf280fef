"""Composing scenes with cut-outs that stay in memory, against decoding each for every paste as the reference does.

Drawn things, placed by rules, pasted, blended over a photo and written, all by ``dataset=gen4gen``: cut-outs are made
before the clock starts. Scenes per second are those of this machine; the ratio is of the same code with a store that
remembers nothing. Photos have twelve megapixels, as those of a telephone, of which the thing is a third.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.datasets.gen4gen import Gen4Gen
from scenewright.datasets.gen4gen.cutout_store import CutoutStore
from scenewright.datasets.gen4gen.cutouts import Cutter
from scenewright.datasets.gen4gen.paster import Paster
from scenewright.datasets.gen4gen.planner.rules import RulesPlanner
from scenewright.datasets.gen4gen.repainter.blend import Blend


def photos(folder: Path, size: tuple[int, int]) -> None:
    """Four things in front of grey walls, and two places."""
    width, height = size
    random = np.random.default_rng(0)
    for i, colour in enumerate(((200, 40, 30), (30, 90, 200), (40, 160, 60), (220, 170, 30))):
        pixels = np.full((height, width, 3), 205, np.uint8)
        cv2.ellipse(pixels, (width // 2, height // 2), (width // 4, height // 3), 20 * i, 0, 360, colour, -1)
        pixels = (pixels + random.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        target = folder / f"concepts/table/{('cup', 'ball', 'vase', 'book')[i]}"
        target.mkdir(parents=True)
        Image.fromarray(pixels).save(target / "photo.jpg", quality=92)
    for place in ("garden", "room"):
        (folder / "places" / place).mkdir(parents=True)
        noise = cv2.resize(random.integers(40, 220, (12, 16, 3)).astype(np.uint8), (1280, 960))
        Image.fromarray(noise).save(folder / "places" / place / "photo.jpg")


def scenes(folder: Path, work: str, side: int, count: int, remembered: int) -> float:
    """Scenes per second."""
    dataset = Gen4Gen(
        str(folder / "concepts"),
        Cutter(GrabCut(side=192)),
        RulesPlanner(),
        Paster(),
        Blend(),
        str(folder / work),
        length=count,
        height=side,
        width=side,
        objects=(2, 4),
        backgrounds=str(folder / "places"),
    )
    store = CutoutStore(folder / "cutouts", dataset.cutter, dataset.directory, max_pixels=remembered)
    failed = store.fill([x for scene in dataset.scenes for concept in scene.concepts for x in concept.photos])
    assert not failed, failed
    dataset.__dict__["_store"] = store
    start = time.perf_counter()
    made = [x for x in dataset if not x.error]
    assert len(made) == count
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few small scenes")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    count, side = (4, 128) if options.smoke else (options.scenes, options.side)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos(folder, (400, 300) if options.smoke else (4000, 3000))
        few = max(count // 10, 4)
        kept = scenes(folder, "kept", side, count, 32_000_000)
        decoded = scenes(folder, "decoded", side, few, 0)
        again = scenes(folder, "again", side, few, 32_000_000)
    print(f"{count} scenes of {side} px: {kept:.2f} scenes/s")
    print(
        f"decoding for every paste: {decoded:.2f}, then kept again: {again:.2f} scenes/s  ratio {again / decoded:.2f}"
    )


if __name__ == "__main__":
    main()
