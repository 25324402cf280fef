"""A small evaluation run: eight images of one to four regions, one of none, with scores of every sort."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewright.evaluation.results import write_results
from scenewright.layout import Layout


class SmallRun:
    """What ``write_results`` is given; tests change it as they like."""

    def __init__(self) -> None:
        self.layouts = {f"scene-{i}": self._layout(i % 5) for i in range(9)}
        self.images: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.asked: list[tuple[str, int]] = []
        for i, (key, layout) in enumerate(self.layouts.items()):
            count = len(layout)
            right = [float((i + j) % 3 > 0) for j in range(count)]
            row = {"key": key, "image": 0, "caption": f"scene number {i}", "regions": count, "overall": 20.0 + i}
            self.images.append({**row, "right": sum(right) / count if count else None})
            for j in range(count):
                known = {"key": key, "image": 0, "object": j, "label": f"thing {j}", "caption": layout.captions[j]}
                traits = {"area": 0.04 * (j + 1), "count": count, "overlap": 0.1 * j, "words": 3 + j}
                self.objects.append({**known, **traits, "right": right[j]})
        self.results: dict[str, Any] = {
            "metrics": {
                "right": self.entry(0.63, [0.55, 0.71], n=7, objects=16, fingerprint={"checkpoint": "abc"}),
                "right/AP50": self.entry(None, None, n=0, scored=12, expected=16, coverage=0.75),
                "overall": self.entry(24.0, [22.5, 25.5], n=9, higher_is_better=False),
            },
            "made_by": {"layout_model": {"guidance_scale": 7.125}, "seed": 5},
            "coverage": {"expected": 10, "found": 9, "missing": {"scene-9": "there is no file scene-9.png"}},
            "unscored": {"right": [["scene-3", "region 2 has no pixel"]]},
            "versions": {"torch": "2.99"},
        }

    @staticmethod
    def entry(value: float | None, interval: list[float] | None, **known: Any) -> dict[str, Any]:
        usual = {"n": 9, "objects": 0, "expected": 9, "scored": 9, "coverage": 1.0, "higher_is_better": True}
        return {"value": value, "interval": interval, "fingerprint": {}, **usual, **known}

    @staticmethod
    def _layout(count: int) -> Layout:
        starts = torch.arange(count, dtype=torch.float32)[:, None] / 8
        labels = [f"thing {j}" for j in range(count)]
        return Layout(torch.cat([starts, starts, starts + 0.25, starts + 0.5], 1), labels, [f"a {x}" for x in labels])

    def picture(self, key: str, index: int) -> tuple[torch.Tensor, Layout, str, str]:
        self.asked.append((key, index))
        number = int(key.rpartition("-")[2])
        image = torch.full((3, 24, 32), 20 * number, dtype=torch.uint8)
        return image, self.layouts[key], f"scene number {number}", f"images/{key}.png"

    def write(self, path: Path, **changed: Any) -> str:
        given = {"results": self.results, "images": self.images, "objects": self.objects, "picture": self.picture}
        assert write_results(path, **{"title": "a run", **given, **changed}) == path
        return path.read_text(encoding="utf-8")


@pytest.fixture
def small_run() -> Callable[[], SmallRun]:
    return SmallRun
