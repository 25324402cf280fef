"""One run of drawing: layouts, a model and the files that come of them, introduced to each other."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image as PILImage
from tqdm import tqdm

from scenewright.datasets.batches import visit_seed
from scenewright.datasets.formats.folder import file_stem
from scenewright.entrypoints.command import progress_bar
from scenewright.entrypoints.run_record import RunRecord, write_whole
from scenewright.evaluation.contact_sheet import boxed, contact_sheet, picture, plate
from scenewright.layout import Image, Sample, decode
from scenewright.layout_models.checkpoint import FOLDER, load_trained, newest, read_weights
from scenewright.layout_models.drawing import draw
from scenewright.protocols import RangedDataset

#: Settings that leave each image as it is.
_FREE = (
    *("output_dir", "images_per_layout", "images_in_all", "batch_size", "limit", "contact_sheet"),
    *("overwrite", "layouts"),
)

#: Warnings that are printed at the end of a run; images.jsonl has all.
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Wanted:
    """One image that is to be there at the end.

    Attributes:
        sample: whose caption and layout it shows.
        path: of the image.
        seed: its own.
    """

    sample: Sample
    path: Path
    seed: int

    @property
    def overlay(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-overlay.png")


@dataclass(frozen=True)
class Share:
    """How many images each layout gets.

    Attributes:
        layouts: how many of the dataset's, the first ones; None: all, of a dataset that does not know how many.
        each: images of every layout.
        more: so many of the first layouts get one more.
    """

    layouts: int | None
    each: int
    more: int = 0

    @classmethod
    def of(cls, cfg: DictConfig, dataset: Any) -> "Share":
        """As ``limit``, ``images_per_layout`` and ``images_in_all`` say; the latter is spread evenly.

        Raises:
            ValueError: ``images_in_all`` of a dataset whose length is not known, or of none.
        """
        known = len(dataset) if isinstance(dataset, RangedDataset) else None
        layouts = cfg.limit if known is None else min(known, cfg.limit or known)
        if cfg.images_in_all is None:
            return cls(layouts, cfg.images_per_layout)
        if not known or not layouts:
            raise ValueError(f"images_in_all={cfg.images_in_all} needs a dataset with a length, of one layout at least")
        return cls(min(layouts, cfg.images_in_all), *divmod(cfg.images_in_all, layouts))

    @property
    def most(self) -> int:
        """Of one layout."""
        return self.each + bool(self.more)

    def images_of(self, place: int) -> int:
        """How many images the layout at this place has."""
        return self.each + (place < self.more)


class DrawingRun:
    """A run as a configuration describes it: ``conf/generate.yaml`` with its overrides."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        check_settings(cfg)
        self.process = Accelerator()
        self.folder = Path(cfg.output_dir)
        self.dataset = instantiate(cfg.dataset, _convert_="all")
        self.share = Share.of(cfg, self.dataset)
        self.record = self._record()
        if not cfg.overwrite:
            self.record.check()
        self.drawn = 0

    def draw(self) -> None:
        """Draw this process's images, those that are not there yet."""
        if self.cfg.overwrite:
            self._clear()
        with self._progress() as progress:
            waiting: dict[tuple[int, int], list[Wanted]] = {}
            for wanted in self._missing(progress):
                size = self._size(wanted.sample)
                waiting.setdefault(size, []).append(wanted)
                if len(waiting[size]) == self.cfg.batch_size:
                    self._draw(waiting.pop(size), size, progress)
            for size, some in waiting.items():
                self._draw(some, size, progress)

    def _clear(self) -> None:
        """Remove what is to be drawn anew, so that a run that is killed leaves no old image among the new."""
        assert self.model is not None  # what cannot be built removes nothing
        for wanted in self._mine():
            wanted.path.unlink(missing_ok=True)
            wanted.overlay.unlink(missing_ok=True)
        self.process.wait_for_everyone()
        if self.process.is_main_process:
            self.record.write()

    def conclude(self) -> None:
        """Write the list and the contact sheet, and say how it ended, once for all processes."""
        self.process.wait_for_everyone()
        if not self.process.is_main_process:
            return
        for left in self.folder.glob(".*.png.*.tmp"):  # of processes that were killed
            left.unlink()
        warnings: list[str] = []
        found = self._listed(warnings)
        for warning in warnings[:_SHOWN]:
            print(f"  {warning}", file=sys.stderr)
        if len(warnings) > _SHOWN:
            print(f"  … and {len(warnings) - _SHOWN} more warnings: images.jsonl has them", file=sys.stderr)
        if not found:
            print("there are no layouts: nothing to draw")
            return
        shown = found[: self.cfg.contact_sheet]
        if shown:
            sheet = contact_sheet([small(wanted) for wanted in shown])
            write_whole(self.folder / "contact_sheet.png", png(sheet))
        print(f"{len(found)} images in {self.folder}" + (f" · {self.folder / 'contact_sheet.png'}" if shown else ""))

    def end(self) -> None:
        """Leave the other processes."""
        self.process.end_training()

    @cached_property
    def model(self) -> Any:
        """Built when the first image is missing."""
        # a checkpoint holds all that was learnt: what it takes the place of need not be there
        replaced = {"weights": None} if self.cfg.checkpoint and "weights" in self.cfg.layout_model else {}
        model = instantiate(self.cfg.layout_model, **replaced, _convert_="all")
        if self.cfg.checkpoint:
            load_trained(model, read_weights(self.cfg.checkpoint, ema=self.cfg.ema), self.cfg.checkpoint)
        elif getattr(model, "untrained", False):
            raise ValueError(
                f"{type(model).__name__} has not learnt to draw layouts: give checkpoint=RUN, or weights of its own "
                "(layout_model.adapter or layout_model.weights)"
            )
        return model.to(self.process.device).eval()

    def _missing(self, progress: "tqdm[Any]") -> Iterator[Wanted]:
        """What this process has to draw; only an overlay that lacks is made at once."""
        for wanted in self._mine():
            if not wanted.path.exists():
                yield wanted
                continue
            if not wanted.overlay.exists():
                write_whole(wanted.overlay, png(large(wanted, decode(wanted.path.read_bytes()))))
            # what was there before says nothing of how long the rest takes
            if not progress.disable:  # a bar that is not shown has no such numbers
                progress.initial += 1
                progress.last_print_n += 1
            progress.n += 1

    def _mine(self) -> Iterator[Wanted]:
        """This process's images."""
        for number, (place, sample) in enumerate(self._samples()):
            if number % self.process.num_processes == self.process.process_index:
                yield from self._wanted(sample, place)

    def _draw(self, some: Sequence[Wanted], size: tuple[int, int], progress: "tqdm[Any]") -> None:
        height, width = size
        images = draw(
            self.model,
            [x.sample.caption for x in some],
            [x.sample.layout.to(self.process.device) for x in some],
            [x.seed for x in some],
            [x.sample.text_feature for x in some],
            height=height,
            width=width,
        ).cpu()
        if not self.drawn and self.process.is_main_process:
            self.record.write()
        for wanted, image in zip(some, images, strict=True):
            write_whole(wanted.overlay, png(large(wanted, image)))
            write_whole(
                wanted.path, png(PILImage.fromarray(image.permute(1, 2, 0).numpy()))
            )  # last: it says all is done
            self.drawn += 1
            progress.update()

    def _samples(self) -> Iterator[tuple[int, Sample]]:
        """What can be drawn, with its place in the dataset."""
        every = enumerate(islice(self.dataset, self.share.layouts))
        return ((place, x) for place, x in every if not x.error and not x.rejected)

    def _wanted(self, sample: Sample, place: int) -> Iterator[Wanted]:
        for index in range(self.share.images_of(place)):
            path = self.folder / f"{file_stem(sample.key)}-{index}.png"
            yield Wanted(sample, path, visit_seed(self.cfg.seed, index, sample.key))

    def _size(self, sample: Sample) -> tuple[int, int]:
        """Height and width: as asked, else the canvas that a layout without a picture names, else the model's."""
        if self.cfg.height is not None:
            return self.cfg.height, self.cfg.width
        if sample.source is None and sample.metadata.get("height") and sample.metadata.get("width"):
            return int(sample.metadata["height"]), int(sample.metadata["width"])
        height, width = getattr(self.model, "height", None), getattr(self.model, "width", None)
        if height is None or width is None:
            raise ValueError(
                f"neither the layout {sample.key!r} nor {type(self.model).__name__} says how large an image is; "
                "set height and width"
            )
        return height, width

    def _listed(self, warnings: list[str]) -> list[Wanted]:
        """All images, with ``images.jsonl`` written of them; what there is to warn of comes into ``warnings``."""
        found, lines = [], []
        for place, sample in enumerate(islice(self.dataset, self.share.layouts)):
            why = sample.error or sample.rejected
            warnings += [f"{sample.key}: {x}" for x in ([f"left out: {why}"] if why else sample.warnings)]
            for wanted in [] if why else self._wanted(sample, place):
                found.append(wanted)
                lines.append(json.dumps(described(wanted), ensure_ascii=False) + "\n")
        if found:
            write_whole(self.folder / "images.jsonl", "".join(lines).encode(errors="surrogateescape"))
        return found

    def _record(self) -> RunRecord:
        config = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(config, dict)
        record = {str(name): value for name, value in config.items() if name not in _FREE}
        if isinstance(self.dataset, RangedDataset):
            record["source"] = self.dataset.fingerprint
        given = {"checkpoint": self.cfg.checkpoint, **{x: self.cfg.layout_model.get(x) for x in ("adapter", "weights")}}
        record["files"] = {name: files_of(Path(x).expanduser()) for name, x in given.items() if x}
        way_out = "set these back, choose another output_dir, or draw all anew: overwrite=true"
        return RunRecord(self.folder / "generate.json", record, way_out)

    def _progress(self) -> "tqdm[Any]":
        """A bar over this process's images."""
        rank, step = self.process.process_index, self.process.num_processes
        known = self.share.layouts if isinstance(self.dataset, RangedDataset) else None
        total = None if known is None else sum(map(self.share.images_of, range(rank, known, step)))
        return progress_bar(self.process, "image", smoothing=0.1, total=total)


def check_settings(cfg: DictConfig) -> None:
    """Refuse what could not work, before anything is built or written.

    Raises:
        ValueError: a setting is out of its range.
    """
    for name, bound in {"images_per_layout": 1, "batch_size": 1, "contact_sheet": 0, "seed": 0}.items():
        if not isinstance(cfg[name], int) or cfg[name] < bound:
            raise ValueError(f"{name} must be a whole number, at least {bound}, got {cfg[name]}")
    for name in ("limit", "images_in_all", "height", "width"):
        if cfg[name] is not None and (not isinstance(cfg[name], int) or cfg[name] < 1):
            raise ValueError(f"{name} must be a whole number, at least 1, or null, got {cfg[name]}")
    if (cfg.height is None) != (cfg.width is None):
        raise ValueError(f"height and width must be given together, got {cfg.height} and {cfg.width}")


def whole_checkpoint(path: Path) -> Path:
    """The checkpoint that a run's folder stands for."""
    return (newest(path) or path) if (path / FOLDER).is_dir() else path


def files_of(path: Path) -> list[str]:
    """The files of weights that a path stands for, with what changes when they do; none of what is on the hub."""
    whole = whole_checkpoint(path).resolve()
    files = [whole] if whole.is_file() else sorted(x for x in whole.rglob("*") if x.is_file())
    about = [(x, x.stat()) for x in files]
    return [f"{x}: {stat.st_size} bytes of {stat.st_mtime_ns}" for x, stat in about]


def large(wanted: Wanted, image: Image) -> PILImage.Image:
    """The overlay: boxes in the image, and below it the whole caption and every region's."""
    layout = wanted.sample.layout
    shown = boxed(picture(image, least=512, most=2048), layout)
    lines = 4 if len(layout) <= 40 else 2
    caption = wanted.sample.caption
    return plate([shown], layout, caption, text_size=14, lines_per_region=lines, lines_of_caption=30)


def small(wanted: Wanted) -> PILImage.Image:
    """The plate on the contact sheet, made of the file."""
    image, layout = picture(decode(wanted.path.read_bytes())), wanted.sample.layout
    return plate([image, boxed(image, layout)], layout, wanted.sample.caption, most_regions=12)


def described(wanted: Wanted) -> dict[str, Any]:
    """One line of ``images.jsonl``; its layout reads as a layout file."""
    sample, layout = wanted.sample, wanted.sample.layout
    with PILImage.open(wanted.path) as opened:
        width, height = opened.size
    boxes = [[round(x, 6) for x in box] for box in np.asarray(layout.boxes, np.float64).tolist()]
    known = {"boxes": boxes, "labels": layout.labels, "captions": layout.captions}
    if layout.points is not None:
        known["points"] = [None if x[0] != x[0] else [round(v, 6) for v in x] for x in layout.points.tolist()]
    if layout.scribbles is not None:
        known["scribbles"] = [[[round(v, 6) for v in pair] for pair in x.tolist()] for x in layout.scribbles]
    about = {"key": sample.key, "file": wanted.path.name, "overlay": wanted.overlay.name, "seed": wanted.seed}
    words = {"caption": sample.caption, "height": height, "width": width, "layout": known}
    return {**about, **words, **({"warnings": sample.warnings} if sample.warnings else {})}


def png(image: PILImage.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
