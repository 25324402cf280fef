"""Collect the photographs that scikit-image and scikit-learn bring along, and draw a few things to compose with.

python entrypoints/demo_photos.py demo/photos demo/concepts demo/backgrounds
"""

import colorsys
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

#: With captions where a person wrote one here; the others get theirs from the captioner.
PHOTOS = {
    "astronaut": "an astronaut in an orange suit in front of a flag and a model of a space shuttle",
    "camera": "",
    "cat": "",
    "coffee": "a cup of coffee with a spoon on a wooden table",
    "coins": "",
    "hubble_deep_field": "",
    "retina": "",
    "rocket": "a rocket on its launch pad at night",
}


def main() -> None:
    import sklearn.datasets
    from skimage import data

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in PHOTOS.items():
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg", quality=92)
        if caption:
            (folder / f"{name}.txt").write_text(caption)
    for path in Path(sklearn.datasets.__file__).parent.glob("images/*.jpg"):
        shutil.copy(path, folder)
    print(f"{len(list(folder.glob('*.jpg')))} photographs in {folder}")
    if len(sys.argv) > 2:
        concepts(folder, Path(sys.argv[2]), Path(sys.argv[3]))


def concepts(photos: Path, folder: Path, backgrounds: Path) -> None:
    """Things that may occur together, from photographs and drawn, and places to put them in."""
    for source, target in (
        ("flower.jpg", folder / "still_life/dahlia"),
        ("coffee.jpg", folder / "still_life/coffee_cup"),
        ("china.jpg", backgrounds / "park"),
        ("rocket.jpg", backgrounds / "sky"),
    ):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / source, target)
    drawn = {"ball": _ball, "balloon": _balloon, "mug": _mug}
    for scene, names in {"still_life": ["ball", "mug"], "garden_party": ["ball", "balloon", "mug"]}.items():
        for name in names:
            target = folder / scene / f"{name}1"
            target.mkdir(parents=True, exist_ok=True)
            for i, hue in enumerate((0.02, 0.58)):
                drawn[name](hue).save(target / f"{name}-{i}.png")
    print(f"{len(list(folder.glob('*/*')))} concepts in {folder}, places in {backgrounds}")


def _shaded(inside: ndarray, hue: float, shine: tuple[float, float]) -> Image.Image:
    """A round thing of one colour in front of a pale wall, lit from the upper left."""
    size = inside.shape[0]
    y, x = np.mgrid[0:size, 0:size] / size
    light = 1.15 - 0.9 * np.hypot(y - shine[0], x - shine[1])
    gloss = np.exp(-((y - shine[0]) ** 2 + (x - shine[1]) ** 2) / 0.004)
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.85, 0.85)) * 255
    thing = (colour * light[..., None] * (1 - gloss[..., None]) + 250 * gloss[..., None]).clip(0, 255)
    wall = np.array([226, 224, 218]) * (1.03 - 0.08 * y[..., None])
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0)[..., None]
    return Image.fromarray((soft * thing + (1 - soft) * wall).round().astype(np.uint8))


def _ball(hue: float) -> Image.Image:
    return _shaded(cv2.circle(np.zeros((480, 480)), (240, 250), 130, 1, -1), hue, (0.38, 0.4))


def _balloon(hue: float) -> Image.Image:
    inside = cv2.ellipse(np.zeros((480, 480)), (240, 200), (105, 130), 0, 0, 360, 1, -1)
    cv2.fillPoly(inside, [np.array([[240, 322], [220, 352], [260, 352]])], 1)
    return _shaded(inside, hue, (0.3, 0.42))


def _mug(hue: float) -> Image.Image:
    inside = cv2.rectangle(np.zeros((480, 480)), (150, 150), (310, 360), 1, -1)
    cv2.ellipse(inside, (230, 360), (80, 22), 0, 0, 360, 1, -1)
    cv2.ellipse(inside, (310, 250), (62, 66), 0, -90, 90, 1, 22)
    return _shaded(inside, hue, (0.4, 0.4))


if __name__ == "__main__":
    main()
