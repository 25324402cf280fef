"""Samples to report on: one of every sort."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewright.evaluation.report import write_report
from scenewright.layout import EncodedImage, Layout, RunLengths, Sample


def _pixels(seed: int = 0, height: int = 60, width: int = 80) -> torch.Tensor:
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    planes = [(down * (seed % 3 + 1) + across * (i + 1)).sin().abs() for i in range(3)]
    return (torch.stack(planes) * 255).to(torch.uint8)


def _layout(labels: list[str], masks: bool = True, size: tuple[int, int] = (60, 80)) -> Layout:
    n = len(labels)
    starts = torch.arange(n, dtype=torch.float32)[:, None] / (2 * n)
    known: dict[str, Any] = {
        "boxes": torch.cat([starts, starts, starts + 0.4, starts + 0.5], dim=1),
        "labels": labels,
        "captions": [f"a rather large {label} with white stripes" for label in labels],
        "scores": torch.linspace(0.9, 0.3, n),
    }
    if masks:
        planes = torch.zeros(n, *size, dtype=torch.bool)
        boxes = Layout(**known).pixel_boxes(*size).int().tolist()
        for plane, (x_min, y_min, x_max, y_max) in zip(planes, boxes, strict=True):
            plane[y_min : y_max - 2, x_min:x_max] = True
        known["masks"] = RunLengths.encode(planes)
    return Layout(**known)


def _samples() -> Iterator[Sample]:
    star_and_ring, many = _layout(["star", "ring"]), _layout([f"thing {i}" for i in range(7)], masks=False)
    yield Sample.from_image("b/two", _pixels(1), caption="A red star beside a blue ring.", layout=star_and_ring)
    yield Sample.from_image("a/many", _pixels(2), tags=["sky"], layout=many)
    yield Sample.from_image("c/nothing", _pixels(3), caption="an empty sky", warnings=["2 boxes were dropped"])
    yield Sample("d/broken", EncodedImage(b"\xff\xd8 no more", "jpg", "d/broken.jpg"), layout=_layout(["cup"], False))
    yield Sample("e/annotations", caption="only words", layout=_layout(["cup"]))


@pytest.fixture(scope="session")
def pixels() -> Callable[..., torch.Tensor]:
    """``pixels(seed, height, width)``: a smooth picture, another one for each seed."""
    return _pixels


@pytest.fixture(scope="session")
def layout() -> Callable[..., Layout]:
    """``layout(labels, masks, size)``: regions along the diagonal with everything a region can have."""
    return _layout


@pytest.fixture(scope="session")
def some_samples() -> Callable[[], Iterator[Sample]]:
    """``some_samples()``: five samples, not in the order of their keys."""
    return _samples


@pytest.fixture(scope="session")
def failures() -> dict[str, str]:
    return {
        "x/gone": "error: cannot read 'x/gone.jpg'",
        "x/lost": "error: cannot read 'x/lost.jpg'",
        "y": "error: bomb",
    }


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., str]:
    """``report(samples, **options)``: the text of a report on them; nothing else was left in its folder."""

    def written(samples: Any, name: str = "report.html", **options: Any) -> str:
        before = set(tmp_path.iterdir()) - {tmp_path / name}
        path = write_report(samples, tmp_path / name, **{"title": "A title", "thumbnail_size": 96, **options})
        assert path == tmp_path / name and set(tmp_path.iterdir()) == {*before, path}
        return path.read_text(encoding="utf-8")

    return written
