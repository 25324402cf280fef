"""Samples of all the kinds that a format has to hold."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from scipy import ndimage

from scenewright.layout import EncodedImage, Layout, RunLengths, Sample

LABELS = ["dog", "Straße", "愛 犬", "red, blue (cup)", "a \"quoted\" <b> & 'label'", "dog", "semi;colon\ttab"]


def photo(height: int, width: int, seed: int = 0, kind: str = "JPEG", **save) -> bytes:
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    planes = [127 + 120 * np.sin(x * (i + 1) + y + seed) for i in range(3)]
    file = io.BytesIO()
    PILImage.fromarray(np.stack(planes, -1).astype(np.uint8)).save(file, kind, **save)
    return file.getvalue()


def shape(kind: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    if kind == "blob":
        mask = ndimage.gaussian_filter(rng.random((height, width)), 2) > 0.5
    elif kind == "noise":
        mask = rng.random((height, width)) < 0.4
    elif kind == "hole":
        mask[height // 5 : -height // 5, width // 5 : -width // 5] = True
        mask[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = False
    elif kind == "parts":
        mask[: height // 4, : width // 4], mask[-height // 4 :, -width // 4 :] = True, True
    elif kind == "pixel":
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == "line":
        mask[height // 2, 1:-1] = True
    elif kind == "full":
        mask[:] = True
    return mask


SHAPES = ("blob", "noise", "hole", "parts", "pixel", "line", "full")


def layout_of(kinds: list[str], height: int, width: int, seed: int, **without: bool) -> Layout:
    """Regions with these shapes; boxes are the shapes' own, a little larger, or touch the border."""
    if not kinds:
        return Layout.empty()
    rng = np.random.default_rng(seed)
    masks = RunLengths.encode(torch.from_numpy(np.stack([shape(kind, height, width, rng) for kind in kinds])))
    boxes = torch.stack([mask.box for mask in masks])
    slack = torch.from_numpy(rng.random((len(kinds), 4))).float() * torch.tensor([-0.05, -0.05, 0.05, 0.05])
    boxes = torch.where(torch.arange(len(kinds))[:, None] % 3 == 0, boxes, (boxes + slack).clip(0, 1))
    return Layout(
        boxes=boxes,
        labels=[LABELS[i % len(LABELS)] for i in range(len(kinds))],
        captions=[] if without.get("captions") else [f"caption {i}, of “{kind}”" for i, kind in enumerate(kinds)],
        scores=None if without.get("scores") else torch.from_numpy(rng.random(len(kinds))).float(),
        masks=None if without.get("masks") else masks,
    )


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """``sample("key", ["blob", "hole"], size=(40, 56), masks=False)``."""

    def made(
        key: str = "one",
        kinds: list[str] | None = None,
        size: tuple[int, int] = (40, 56),
        seed: int = 0,
        kind: str = "JPEG",
        save: dict | None = None,
        **fields: bool,
    ) -> Sample:
        without = {name: not kept for name, kept in fields.items()}
        source = EncodedImage(
            photo(*size, seed, kind, **(save or {})), {"JPEG": "jpg"}.get(kind, kind.lower()), f"photos/{key}.jpg"
        )
        layout = layout_of(list(SHAPES) if kinds is None else kinds, *size, seed, **without)
        return Sample(key, source, f"the image {key}", ["a tag"], layout, {"url": f"https://host/{key}"})

    return made


@pytest.fixture
def samples(sample) -> list[Sample]:
    """No region, one, all shapes, more than thirty, without masks, without anything but boxes; odd sizes."""
    return [
        sample("none", []),
        sample("single", ["hole"], (33, 47), 1),
        sample("Übung_愛", seed=2),
        sample("many", ["blob", "pixel", "noise"] * 12, (64, 40), 3),
        sample("bare", ["blob", "full"], (21, 90), 4, masks=False),
        sample("boxes", ["blob", "line", "pixel"], (30, 30), 5, masks=False, captions=False, scores=False),
        sample("png", ["parts"], (25, 31), 6, kind="PNG"),
    ]
