"""CutoutStore: cut-outs on disk, made once, and replaced by hand where a person can do better."""

from __future__ import annotations

import inspect
import io
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from scenewright.datasets.files import whole
from scenewright.datasets.gen4gen.concepts import display_name
from scenewright.datasets.gen4gen.cutouts import Cut, Cutter, cut_by_own_alpha
from scenewright.datasets.gen4gen.records import Cutout

#: Of what is stored; another one makes all cut-outs anew, except those made by hand.
FORMAT = 1

#: Under this name a PNG holds its record, by which the store knows its own work.
_CHUNK = "scenewright"


class CutoutStore:
    """The cut-outs of the photos below a folder, in another folder.

    Of ``scene/object/photo.jpg`` it keeps ``scene/object/photo.jpg.png``, straight colour and alpha, and beside it a
    small JSON file: settings and source, confidence, the box in the photo, or why there is no cut-out. Both are made
    anew when the settings or the photo change. What earlier rounds gave lies in ``rounds/0``, ``rounds/1``, ….

    By hand: replace a PNG by a better one, from ``rounds`` for example, or add one where there was none. It needs an
    alpha channel with straight colour. From then on it is used, cropped to what can be seen, and is never overwritten;
    delete it to have the photo cut again. A store that is open notices when it no longer remembers the old one.

    Any number of processes may use one folder: files appear whole or not at all.

    Args:
        folder: made when the first cut-out is written.
        cutter: asked about what is not there.
        concepts_directory: holds ``<scene>/<object>/<photos>``.
        max_pixels: of the cut-outs that are kept in memory, those used last; a pixel takes 7 bytes.
    """

    def __init__(
        self, folder: str | Path, cutter: Cutter, concepts_directory: str | Path, *, max_pixels: int = 32_000_000
    ) -> None:
        self.folder, self.cutter = Path(folder).expanduser(), cutter
        self.concepts_directory, self.max_pixels = Path(concepts_directory).expanduser(), max_pixels
        self._remembered: OrderedDict[str, Cutout] = OrderedDict()
        self._settings = ""

    def get(self, photo: str | Path) -> Cutout:
        """The cut-out of a photo below the folder of the concepts.

        Raises:
            ValueError: there is none, and why; the photo lies elsewhere.
        """
        name = self._name_of(photo)
        if (cutout := self._remembered.pop(name, None)) is None:
            cutout = self._read(name) or self._make([name])[0]
        self._remember(name, cutout)
        if isinstance(cutout, ValueError):
            raise cutout
        return cutout

    def fill(self, photos: Sequence[str | Path], batch_size: int = 4) -> dict[str, str]:
        """Cut out what is not there yet, several photos at a time.

        Returns:
            Why there is no cut-out, by the photo's path below the folder of the concepts; of the others nothing.
        """
        names = [self._name_of(photo) for photo in photos]
        failed: dict[str, str] = {}
        missing: list[str] = []
        for name in names:
            found = self._read(name)
            if found is None:
                missing.append(name)
            elif isinstance(found, ValueError):
                failed[name] = str(found)
        for start in range(0, len(missing), batch_size):
            some = missing[start : start + batch_size]
            made = zip(some, self._make(some), strict=True)
            failed |= {name: str(found) for name, found in made if isinstance(found, ValueError)}
        return {name: failed[name] for name in names if name in failed}

    def path(self, photo: str | Path) -> Path:
        """Where a photo's cut-out is, or would be."""
        return self.folder / f"{self._name_of(photo)}.png"

    def _name_of(self, photo: str | Path) -> str:
        """A photo's path below the folder of the concepts."""
        path = Path(photo).expanduser()
        if not path.is_relative_to(self.concepts_directory):
            raise ValueError(f"the photo {str(photo)!r} does not lie below {str(self.concepts_directory)!r}")
        return path.relative_to(self.concepts_directory).as_posix()

    def _remember(self, name: str, cutout: Cutout | ValueError) -> None:
        if isinstance(cutout, Cutout):
            self._remembered[name] = cutout
        pixels = sum(x.alpha.numel() for x in self._remembered.values())
        while pixels > self.max_pixels:
            pixels -= self._remembered.popitem(last=False)[1].alpha.numel()

    def _read(self, name: str) -> Cutout | ValueError | None:
        """What is on disk for a photo: its cut-out, why there is none, or nothing that still holds."""
        path = self.folder / f"{name}.png"
        if not path.is_file():
            record = _read_json(path.with_suffix(".json"))
            if record is None or not record.get("error") or not self._holds(name, record):
                return None
            return ValueError(record["error"])
        try:
            rgba, record = _read_png(path)
        except (OSError, ValueError, SyntaxError) as error:
            return ValueError(f"the cut-out {str(path)!r} cannot be used: {error}; delete it to have it made again")
        if record is None:  # made by hand
            return self._by_hand(name, path, rgba)
        if not self._holds(name, record):
            return None
        alpha = torch.from_numpy(rgba[..., 3].astype(np.float32) / 255)
        image = torch.from_numpy(np.ascontiguousarray(rgba[..., :3].transpose(2, 0, 1)))
        return _cutout(name, image, alpha, record["confidence"])

    def _by_hand(self, name: str, path: Path, rgba: UInt8[ndarray, "h w 4"]) -> Cutout | ValueError:
        try:
            cut = cut_by_own_alpha(rgba, self.cutter.padding, self.cutter.max_side)
        except ValueError as error:
            return ValueError(f"the cut-out {str(path)!r} cannot be used: {error}; delete it to have it made again")
        return _cutout(name, cut.image, cut.alpha, 1.0)

    def _holds(self, name: str, record: Mapping[str, Any]) -> bool:
        """Whether a record was made with these settings, of this photo."""
        if record.get("settings") != self._settings_digest():
            return False
        photo, source = self.concepts_directory / name, record.get("source", {})
        try:
            status = photo.stat()
            if status.st_size != source.get("bytes"):
                return False
            return status.st_mtime_ns == source.get("modified") or _digest(photo.read_bytes()) == source.get("sha256")
        except OSError:  # what was cut out of a photo outlives it
            return not photo.exists()

    def _make(self, names: Sequence[str]) -> list[Cutout | ValueError]:
        """Cut out and write."""
        results: dict[str, Cutout | ValueError] = {}
        read: dict[str, tuple[bytes, dict[str, Any]]] = {}
        for name in names:
            photo = self.concepts_directory / name
            try:
                status, data = photo.stat(), photo.read_bytes()
            except OSError as error:  # may be over soon, so it is not written down
                results[name] = ValueError(f"the photo {name!r} cannot be read: {error.strerror}")
                continue
            source = {"bytes": status.st_size, "modified": status.st_mtime_ns, "sha256": _digest(data)}
            read[name] = data, {"settings": self._settings_digest(), "source": source}
        cuts = self.cutter.cut([data for data, _ in read.values()])
        for (name, (_, about)), found in zip(read.items(), cuts, strict=True):
            results[name] = self._write(name, about, found)
        return [results[name] for name in names]

    def _write(self, name: str, about: Mapping[str, Any], found: list[Cut] | ValueError) -> Cutout | ValueError:
        path = self.folder / f"{name}.png"
        if isinstance(found, ValueError):
            error = ValueError(f"{name}: {found}")
            with suppress(FileNotFoundError):
                path.unlink()  # of other settings or another photo
            _write_whole(path.with_suffix(".json"), _json({**about, "error": str(error)}))
            return error
        for turn, cut in enumerate(found[:-1]):
            earlier = self.folder / "rounds" / str(turn) / f"{name}.png"
            _write_whole(earlier, _png(cut, {**_record(about, cut), "round": turn}))
        record = _record(about, found[-1])
        _write_whole(path.with_suffix(".json"), _json(record))
        _write_whole(path, png := _png(found[-1], record))
        # as it will be read: eight bits of alpha
        rgba, _ = _decoded(png)
        return _cutout(name, found[-1].image, torch.from_numpy(rgba[..., 3] / np.float32(255)), found[-1].confidence)

    def _settings_digest(self) -> str:
        if not self._settings:
            self._settings = _digest(_json([FORMAT, settings_of(self.cutter)]))
        return self._settings


def settings_of(plugin: Any) -> Any:
    """A plugin's class and the constructor's arguments that it stores, injected plugins in their places."""
    if isinstance(plugin, Mapping):
        return {str(key): settings_of(value) for key, value in plugin.items()}
    if isinstance(plugin, (list, tuple)):
        return [settings_of(x) for x in plugin]
    if plugin is None or isinstance(plugin, (str, int, float, bool)):
        return plugin
    kind = type(plugin)
    try:
        names = inspect.signature(kind).parameters.keys() - {"batch_size"}  # which changes no result
    except (TypeError, ValueError):  # no constructor to look at
        return str(plugin)
    known = {name: getattr(plugin, name) for name in names if hasattr(plugin, name)}
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **{k: settings_of(v) for k, v in known.items()}}


def _cutout(name: str, image: torch.Tensor, alpha: torch.Tensor, confidence: float) -> Cutout:
    concept = name.rpartition("/")[0]
    return Cutout(image, alpha, display_name(concept.rpartition("/")[2]), concept, name, confidence)


def _record(about: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    return {**about, "confidence": cut.confidence, "box": list(cut.box), "size": list(cut.size)}


def _png(cut: Cut, record: Mapping[str, Any]) -> bytes:
    alpha = (cut.alpha.numpy() * 255).round().astype(np.uint8)
    rgba = np.ascontiguousarray(np.dstack([cut.image.permute(1, 2, 0).numpy(), alpha]))
    info = PngInfo()
    info.add_text(_CHUNK, _json({**record, "pixels": _digest(rgba.tobytes())}).decode())
    file = io.BytesIO()
    PILImage.fromarray(rgba).save(file, "PNG", pnginfo=info, compress_level=4)
    return file.getvalue()


def _read_png(path: Path) -> tuple[UInt8[ndarray, "h w 4"], dict[str, Any] | None]:
    return _decoded(path.read_bytes())


def _decoded(png: bytes) -> tuple[UInt8[ndarray, "h w 4"], dict[str, Any] | None]:
    """Pixels, and the record if they are as the store wrote them for its own use.

    Raises:
        OSError: it is broken, or no picture.
        ValueError: it has no alpha channel.
    """
    with PILImage.open(io.BytesIO(png)) as opened:
        text = opened.info.get(_CHUNK)
        if opened.mode not in ("RGBA", "LA", "PA") and "transparency" not in opened.info:
            raise ValueError("it has no alpha channel")
        rgba = np.array(opened.convert("RGBA"))
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        record = None
    own = isinstance(record, dict) and record.get("pixels") == _digest(rgba.tobytes()) and "round" not in record
    return rgba, record if own else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _write_whole(path: Path, data: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
