"""Small photos of three plain classes, with captions, and a pool that was retrieved for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.datasets.extrapolated import Extrapolated
from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector
from scenewright.datasets.extrapolated.duplicates import NearDuplicates
from scenewright.datasets.extrapolated.encoders import HistogramFeatures
from scenewright.datasets.extrapolated.extrapolation import LinearExtrapolation
from scenewright.datasets.extrapolated.retrieval.folder import Folder
from scenewright.datasets.image_folder import ImageFolder

COLOURS = {"red bird": (200, 30, 30), "green bird": (30, 170, 40), "blue bird": (30, 40, 200)}


def _bird(path: Path, colour: tuple[int, int, int], seed: int, side: int = 48) -> Path:
    """A disc of a colour on grey, somewhere, with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side]
    middle = side / 2 + random.uniform(-5, 5, 2)
    disc = np.hypot(y - middle[0], x - middle[1]) < side * random.uniform(0.28, 0.4)
    pixels = np.where(disc[..., None], np.array(colour), 170 + random.integers(-25, 25)) + random.normal(
        0, 9, (side, side, 3)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def words(texts: list[str], width: int = 8) -> Tensor:
    """A vector of each text: the sum of its words'."""
    rows = [sum(np.random.default_rng(list(w.encode())).normal(size=width) for w in x.split()) for x in texts]
    return torch.tensor(np.array(rows)).float().reshape(-1, width)


class Words:
    """A text encoder that counts the texts that it was given."""

    def __init__(self) -> None:
        self.texts = 0

    def fingerprint(self) -> str:
        return "words"

    def encode(self, texts, device):
        self.texts += len(texts)
        return words(list(texts)).to(device)


class Colours:
    """An image encoder of mean colours, which names them too."""

    def __init__(self) -> None:
        self.images = 0

    def fingerprint(self) -> str:
        return "colours"

    def encode_images(self, images):
        self.images += len(images)
        return torch.stack([normalize(x.float().mean((1, 2)) - 100, dim=0) for x in images])

    def encode_texts(self, texts):
        colours = [next(c for name, c in COLOURS.items() if name in x) for x in texts]
        return normalize(torch.tensor(colours).float() - 100)


@pytest.fixture
def bird() -> Callable[..., Path]:
    """``bird(path, colour, seed)``: writes a picture of one."""
    return _bird


@pytest.fixture
def page() -> Callable[..., Path]:
    """``page(path, seed)``: writes a picture of text."""
    return _page


@pytest.fixture
def colours() -> Colours:
    """An image encoder that knows texts, too."""
    return Colours()


@pytest.fixture
def photos(tmp_path) -> Path:
    """``birds``: 8 captioned originals of each class. ``web``: for each keyword 12 of it, and 6 pictures of text."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(8):
            path = _bird(
                tmp_path / "birds" / f"00{number}.{name.replace(' ', '_')}" / f"{i}.png", colour, 100 * number + i
            )
            path.with_suffix(".txt").write_text(f"a {name}\nbird number {i}\n")
        for i in range(12):
            _bird(tmp_path / "web" / name / f"{i:02d}.png", colour, 1000 + 100 * number + i)
        for i in range(6):
            _page(tmp_path / "web" / name / f"page{i}.png", 10 * number + i)
    return tmp_path


def _page(path: Path, seed: int) -> Path:
    """White, with black lines: what search engines find beside birds."""
    random = np.random.default_rng(seed)
    pixels = np.full((48, 48, 3), 250, np.uint8)
    pixels[4:44:5, 3 : random.integers(35, 45)] = 10
    pixels[:, : random.integers(2, 6)] = 240
    pixels[0, 0] = random.integers(0, 255, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path)
    return path


@pytest.fixture
def extrapolated(photos) -> Callable[..., Extrapolated]:
    """``extrapolated(**settings)``: of the photos, with weights-free encoders."""

    def made(**settings: Any) -> Extrapolated:
        given = {
            "originals": ImageFolder(photos / "birds"),
            "retrieval": Folder(ImageFolder(photos / "web")),
            "encoder": HistogramFeatures(),
            "text_encoder": Words(),
            "work": str(photos / "work"),
            "extrapolation": LinearExtrapolation(neighbours=4, among="class"),
            "clusters": ClusterDetector(),
            "agreement": ClassAgreement(folds=2),
            "duplicates": NearDuplicates(cosine=0.999),
            "examples": 0,
        }
        return Extrapolated(**{**given, **settings})

    return made
