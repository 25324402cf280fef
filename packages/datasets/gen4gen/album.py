"""Everything on the way to a composed scene, kept for people and for runs that go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from scenewright.datasets.files import whole
from scenewright.datasets.gen4gen.records import Composition, LayoutPlan
from scenewright.layout import Image, Layout, RunLengths

_SETTINGS = "settings.json"


@dataclass(frozen=True, eq=False)
class Kept:
    """A scene as the album has it.

    Attributes:
        image: the file of the finished image.
        layout: what is where.
        about: where all of it came from.
    """

    image: Path
    layout: Layout
    about: dict[str, Any]


class Album:
    """A folder per scene, ``scenes/000012``, beside the settings that all of them were made with.

    ``pasted.png`` is what was pasted, with alpha; ``repainted.png`` the finished image; ``plan.json`` what the planner
    was asked and answered; ``record.json``, written last, what is where and where it came from. A scene without a
    record does not count as made.

    Args:
        folder: of the album; made when the first scene is.
        settings: all that scenes depend on.

    Raises:
        ValueError: the folder's scenes were made with other settings; it says which.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        path = folder / _SETTINGS
        if path.exists():
            found = json.loads(path.read_text())
            names = [x for x in {**found, **self.settings} if found.get(x) != self.settings.get(x)]
            if names:
                raise ValueError(
                    f"the scenes in {folder} were made with other settings ({', '.join(sorted(names))}): set them "
                    f"back, choose another folder (work=…), or delete {folder / 'scenes'} and {path}; cut-outs may stay"
                )

    def has(self, number: int) -> bool:
        """Whether this scene is made."""
        return (self._scene(number) / "record.json").exists()

    def read(self, number: int) -> Kept:
        """A scene that is made."""
        folder = self._scene(number)
        about = json.loads((folder / "record.json").read_text())
        masks = [RunLengths((about["height"], about["width"]), x["mask"].encode()) for x in about["instances"]]
        layout = Layout(
            boxes=torch.tensor([x["box"] for x in about["instances"]]).reshape(-1, 4),
            labels=[x["label"] for x in about["instances"]],
            captions=[x["caption"] for x in about["instances"]],
            masks=masks,
        )
        return Kept(folder / "repainted.png", layout, {**about, "folder": str(folder.relative_to(self.folder))})

    def note(self, number: int, plan: LayoutPlan, error: str) -> None:
        """Keep what the planner said of a scene that could not be made."""
        _write(self._scene(number) / "plan.json", _plan(plan) | {"error": error})

    def write(
        self,
        number: int,
        plan: LayoutPlan,
        composition: Composition,
        image: Image,
        layout: Layout,
        about: Mapping[str, Any],
    ) -> None:
        """Keep a scene; several processes may."""
        path = self.folder / _SETTINGS
        if not path.exists():
            _write(path, self.settings)
        folder = self._scene(number)
        _write(folder / "plan.json", _plan(plan))
        _picture(folder / "pasted.png", _with_alpha(composition))
        _picture(folder / "repainted.png", image)
        height, width = composition.alpha.shape
        instances = [
            {
                "label": label,
                "caption": caption,
                "box": box.tolist(),
                "mask": mask.counts.decode(),
                "corner": list(pasted.corner),
                "size": list(pasted.size),
                "order": pasted.order,
                "flipped": pasted.flipped,
                "angle": pasted.angle,
                "shift": list(pasted.shift),
            }
            for label, caption, box, mask, pasted in zip(
                layout.labels, layout.captions, layout.boxes, layout.masks or [], composition.pasted, strict=True
            )
        ]
        size = {"height": height, "width": width}
        _write(folder / "record.json", {**about, **size, "instances": instances})

    def _scene(self, number: int) -> Path:
        return self.folder / "scenes" / f"{number:06d}"


def _plan(plan: LayoutPlan) -> dict[str, Any]:
    boxes = None if plan.boxes is None else plan.boxes.tolist()
    return {
        "boxes": boxes,
        "background": plan.background,
        "ratios": list(plan.ratios),
        "log": [dict(x) for x in plan.log],
    }


def _with_alpha(composition: Composition) -> Tensor:
    """``(4, H, W)``: straight colours and the union alpha."""
    alpha = composition.alpha.clamp(0, 1)
    straight = (composition.image / alpha.clamp(min=1 / 255)).clamp(0, 255).round()
    return torch.cat([straight, 255 * alpha[None]]).round().to(torch.uint8)


def _picture(path: Path, pixels: Tensor) -> None:
    picture = PILImage.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))
    with whole(path) as part:
        picture.save(part, "PNG", compress_level=1)


def _write(path: Path, content: Any) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
