"""A sample as the members of a tar, and back.

``KEY.<extension>`` the image file's own bytes · ``KEY.json`` what is known of it ·
``KEY.txt`` the caption · ``KEY.source.json`` what the source knew. docs/data.md says
what each field is.
"""

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from scenewright.datasets.files import IMAGE_EXTENSIONS
from scenewright.layout import EncodedImage, Layout, RunLengths, Sample

#: Of the record's form. A reader refuses a later one.
VERSION = 2

#: The point of a region that has none.
_NOWHERE = [math.nan, math.nan]


def encode(sample: Sample, with_image: bool = True) -> dict[str, bytes]:
    """The members of a sample, by extension, image first.

    Raises:
        ValueError: the sample has no image file.
    """
    if sample.source is None:
        raise ValueError(f"sample {sample.key!r} has no image to write")
    height, width = sample.image.shape[1:]
    record = {
        "version": VERSION,
        "key": sample.key,
        "source": sample.source.name,
        "width": width,
        "height": height,
        "border": list(sample.source.border),
        "caption": sample.caption,
        "tags": sample.tags,
        "instances": [
            *_instances(sample.layout),
            *(
                x | {"kept": False, "reason": why}
                for x, why in zip(_instances(sample.dropped), sample.reasons, strict=True)
            ),
        ],
        "status": sample.status,
        "warnings": sample.warnings,
    }
    if sample.text_feature is not None:
        record["text_feature"] = _floats(sample.text_feature)
    members = {_extension(sample.source): sample.source.data} if with_image else {}
    members |= {"json": _json(record), "txt": sample.caption.encode(errors="replace")}
    return members | ({"source.json": _json(sample.metadata)} if sample.metadata else {})


def decode(key: str, members: Mapping[str, bytes], name: str = "", source: EncodedImage | None = None) -> Sample:
    """The sample that members were made of.

    Args:
        name: where the members are, for messages.
        source: the image file, where it is not among them.

    Raises:
        ValueError: the record is none of ours, or a later version's.
    """
    try:
        record = json.loads(members["json"])
        version = record["version"]
        if version > VERSION:
            raise ValueError(f"its version is {version}, this release reads up to {VERSION}; update scenewright")
        extension = next((x for x in members if x not in ("json", "txt", "source.json")), None)
        if extension is not None:
            source = EncodedImage(members[extension], extension, record["source"], tuple(record["border"]))
        dropped = [x for x in record["instances"] if not x.get("kept", True)]
        return Sample(
            key=key,
            source=source,
            caption=record["caption"],
            tags=record["tags"],
            layout=_layout([x for x in record["instances"] if x.get("kept", True)]),
            dropped=_layout(dropped),
            reasons=[x["reason"] for x in dropped],
            metadata=json.loads(members.get("source.json", b"{}")),
            warnings=record["warnings"],
            text_feature=torch.tensor(record["text_feature"]).float() if "text_feature" in record else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{name or key}: the record cannot be read: {what}") from error


def _extension(source: EncodedImage) -> str:
    """The file's own extension if it is an image's; else what the bytes say they are."""
    if source.extension in IMAGE_EXTENSIONS:
        return source.extension
    with PILImage.open(io.BytesIO(source.data)) as image:
        kind = str(image.format).lower()
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(kind, kind)


def _instances(layout: Layout) -> list[dict[str, Any]]:
    boxes = _floats(layout.boxes)
    scores = None if layout.scores is None else _floats(layout.scores)
    instances = []
    for i, label in enumerate(layout.labels):
        instance: dict[str, Any] = {"label": label, "box": boxes[i]}
        if layout.captions:
            instance["caption"] = layout.captions[i]
            # a captioner gives the label where a region is too small to describe, or it found no words
            instance["caption_status"] = "label" if layout.captions[i] == label else "ok"
        if scores is not None:
            instance["score"] = scores[i]
        if layout.masks is not None:
            mask = layout.masks[i]
            instance["mask"] = {"size": list(mask.size), "counts": mask.counts.decode()}
        if layout.points is not None:
            instance["point"] = None if layout.points[i].isnan().any() else _floats(layout.points[i])
        if layout.scribbles is not None:
            instance["scribble"] = _floats(layout.scribbles[i])
        instances.append(instance)
    return instances


def _layout(instances: list[dict[str, Any]]) -> Layout:
    first = instances[0] if instances else {}
    return Layout(
        boxes=torch.tensor([x["box"] for x in instances], dtype=torch.float32).reshape(-1, 4),
        labels=[x["label"] for x in instances],
        captions=[x["caption"] for x in instances] if "caption" in first else [],
        scores=torch.tensor([x["score"] for x in instances], dtype=torch.float32) if "score" in first else None,
        masks=[_run_lengths(x["mask"]) for x in instances] if "mask" in first else None,
        points=_points([x["point"] or _NOWHERE for x in instances]) if "point" in first else None,
        scribbles=[_points(x["scribble"]) for x in instances] if "scribble" in first else None,
    )


def _points(points: list[list[float]]) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def _run_lengths(mask: Mapping[str, Any]) -> RunLengths:
    height, width = mask["size"]
    return RunLengths(size=(height, width), counts=mask["counts"].encode())


def _floats(values: torch.Tensor) -> Any:
    """Nested lists that print as the shortest decimals which read back as the same float32."""
    array = values.detach().cpu().numpy().astype(np.float32)
    return np.array([float(str(x)) for x in array.ravel()], dtype=np.float64).reshape(array.shape).tolist()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_plain).encode("utf-8", errors="backslashreplace")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
