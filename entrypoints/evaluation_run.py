"""One run of judging: layouts, images that were drawn from them, and metrics, introduced to each other."""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from more_itertools import chunked
from omegaconf import DictConfig, OmegaConf

from scenewright.annotators.provenance import describe, package_versions
from scenewright.checkpoints import check
from scenewright.entrypoints.command import progress_bar
from scenewright.entrypoints.drawing_run import DrawingRun, Share, check_settings, files_of
from scenewright.entrypoints.judged_images import JudgedImages
from scenewright.entrypoints.run_record import write_whole
from scenewright.entrypoints.sweep import run_folder
from scenewright.evaluation.numbers import entries, table
from scenewright.evaluation.scoring import Record, RecordingMetric, pack, unpack
from scenewright.evaluation.tables import Row, full_name, image_row, object_rows, parquet
from scenewright.layout import Image, Layout, Sample
from scenewright.protocols import RangedDataset

#: Images that are judged, and whose scores are kept, together. A run that is killed loses no more than these.
_TOGETHER = 32

#: Keys that are named when something is not covered; metrics.json has all.
_SHOWN = 10

#: What has its place in the settings of the drawn images, as generate.py knows them.
_DRAWING = (
    *("dataset", "layout_model", "layouts", "checkpoint", "ema", "height", "width"),
    *("images_per_layout", "images_in_all", "seed", "batch_size", "limit", "contact_sheet", "overwrite"),
)


@dataclass(frozen=True, eq=False)
class Judged:
    """One image that there is to judge."""

    sample: Sample
    index: int
    image: Image
    digest: str


class EvaluationRun:
    """A run as a configuration describes it: ``conf/eval.yaml`` with its overrides."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        check_judging(cfg)
        self.process = Accelerator()
        self.places: dict[str, int] = {}
        self.folder = run_folder(cfg.output_dir)
        self.dataset = instantiate(cfg.dataset, _convert_="all")
        self.share = Share.of(cfg, self.dataset)
        self.metrics = {str(name): instantiate(node, _convert_="all") for name, node in cfg.metric.items()}
        check({f"metric.{name}": metric for name, metric in self.metrics.items()})
        self.missing: dict[str, tuple[str, int]] = {}
        self.images: list[Row] = []
        self.objects: list[Row] = []
        self.unscored: dict[str, list[tuple[str, str]]] = {}
        self.layouts: list[tuple[str, int, str]] = []  # key, place in the dataset, digest

    def draw(self) -> None:
        """Draw what is not there yet, unless the images are another's."""
        if self.cfg.images is not None:
            return
        settings = {name: self.cfg[name] for name in _DRAWING}
        drawing = DrawingRun(OmegaConf.create({**settings, "output_dir": str(self.folder / "images")}))
        drawing.draw()
        drawing.conclude()

    def judge(self) -> None:
        """Judge this process's images, those whose scores are not there yet."""
        assert self._pictures  # a folder that is not there is said before anything is judged
        with progress_bar(self.process, "layout", total=self._mine_in_all()) as progress:
            for placed in self._mine():
                self._judge(placed)
                progress.update(len(placed))

    def conclude(self) -> float:
        """Write what was found, once for all processes, and return the objective. Collective.

        Raises:
            ValueError: less was scored than ``require_coverage`` asks for; says what.
        """
        missing = dict(sorted(x for some in gather_object([self.missing]) for x in some.items()))
        layouts = sorted(gather_object(self.layouts))
        if not layouts:
            raise ValueError(f"the dataset {type(self.dataset).__name__} has no layouts: there is nothing to judge")
        expected = sum(self.share.images_of(place) for _, place, _ in layouts)
        if len(missing) == expected:
            raise ValueError(f"none of {expected} images is there: {_listed(missing)}")
        self.places = {key: place for key, place, _ in layouts}
        known = {"split": self.cfg.dataset.get("split"), "n": len(layouts)}
        known["digest"] = _digest([(key, about) for key, _, about in layouts])
        lost = [regions for _, regions in missing.values()]
        document: dict[str, Any] = {
            "metrics": {},
            "made_by": self._made_by,
            "settings": self._settings,
            "coverage": {"expected": expected, "found": expected - len(missing)},
            "unscored": self.unscored,
            "versions": package_versions(),
        }
        document["coverage"]["missing"] = {key: why for key, (why, _) in missing.items()}
        for name, metric in self.metrics.items():
            counted = {"images": expected - len(missing)} if getattr(metric, "biased_by_count", False) else {}
            fingerprint = {"metric": self._fingerprints[name], "layouts": {**known, **counted}}
            shared = {"metric": name, "fingerprint": fingerprint}
            for number, entry in self._numbers(name, metric, lost, expected - len(missing)).items():
                better = None if number in getattr(metric, "undirected", ()) else metric.higher_is_better
                document["metrics"][full_name(name, number)] = {**entry, "higher_is_better": better, **shared}
        images, objects = (sorted(gather_object(x), key=_order) for x in (self.images, self.objects))
        if self.process.is_main_process:
            self._write(document, images, objects)
        self.process.wait_for_everyone()
        self._require_coverage(document)
        return self._objective(document["metrics"])

    def end(self) -> None:
        """Leave the other processes."""
        self.process.end_training()

    def _judge(self, placed: Sequence[tuple[int, Sample]]) -> None:
        found: list[Judged] = []
        for place, sample in placed:
            self.layouts.append((sample.key, place, _about(sample)))
            for index in range(self.share.images_of(place)):
                try:
                    image, digest = self._pictures.read(sample, index)
                    found.append(Judged(sample, index, image.to(self.process.device), digest))
                except (OSError, ValueError) as error:
                    name = sample.key if self.share.most == 1 else f"{sample.key}-{index}"
                    self.missing[name] = (str(error), len(sample.layout))
        if not found:
            return
        every = {name: self._records(name, metric, found) for name, metric in self.metrics.items()}
        for i, x in enumerate(found):
            records = {name: some[i] for name, some in every.items() if some}
            self.images.append(image_row(x.sample, x.index, records))
            self.objects += object_rows(x.sample, x.index, records)

    def _records(self, name: str, metric: Any, found: Sequence[Judged]) -> list[Record]:
        """The records of these images, out of the folder if they were judged before; none of a metric without."""
        images, samples = [x.image for x in found], [x.sample for x in found]
        if not isinstance(metric, RecordingMetric):
            metric.update(images, samples)
            return []
        about = [(x.sample.key, x.index, x.digest, _about(x.sample)) for x in found]
        if isinstance(self.dataset, RangedDataset):  # of the true images
            truth = self.dataset.fingerprint
        else:
            truth = [None if x.image is None else sha256(x.image.numpy().tobytes()).hexdigest() for x in samples]
        digest = _digest([self._fingerprints[name], truth, about])
        path = self.folder / "scores" / name / f"{digest[:32]}.npz"
        stored = None if self.cfg.overwrite else _stored(path)
        if stored is None:
            before = len(metric.records)
            metric.update(images, samples)
            stored = metric.records[before:]
            write_whole(path, pack(stored))
        else:
            metric.records += stored
        return stored

    def _numbers(self, name: str, metric: Any, lost: Sequence[int], judged: int) -> dict[str, dict[str, Any]]:
        """The entries of one metric in ``metrics.json``. Collective."""
        if isinstance(metric, RecordingMetric):
            found, problems = entries(metric, lost, self.cfg.rounds)
            if problems:
                self.unscored[name] = problems
            return found
        whole = {"interval": None, "n": judged, "objects": 0, "expected": judged + len(lost), "scored": judged}
        whole["coverage"] = judged / (judged + len(lost))
        return {number: {"value": float(value), **whole} for number, value in metric.compute().items()}

    def _write(self, document: dict[str, Any], images: list[Row], objects: list[Row]) -> None:
        text = json.dumps(document, indent=1, ensure_ascii=False)
        write_whole(self.folder / "metrics.json", text.encode(errors="surrogateescape") + b"\n")
        write_whole(self.folder / "per_image.parquet", parquet(images))
        write_whole(self.folder / "per_object.parquet", parquet(objects))
        page = self.folder / "report.html"
        if self.cfg.report:
            from scenewright.evaluation.results import write_results

            known = {(row["key"], row["image"]): row for row in images}
            regions = defaultdict(list)
            for row in objects:
                regions[row["key"], row["image"]].append(row)
            write_results(
                page,
                title=self.folder.name,
                results=document,
                images=images,
                objects=objects,
                picture=lambda key, index: self._picture(known[key, index], regions[key, index]),
                count=self.cfg.report,
            )
        print(table(document["metrics"]))
        print(f"{page if self.cfg.report else self.folder}")

    def _picture(self, row: Row, regions: Sequence[Row]) -> tuple[Image, Layout, str, str] | None:
        """An image of the report with its layout, caption and name."""
        key, index = row["key"], row["image"]
        boxes = torch.tensor([[x[side] for side in ("x_min", "y_min", "x_max", "y_max")] for x in regions])
        layout = Layout(boxes.reshape(-1, 4).float(), [x["label"] for x in regions], [x["caption"] for x in regions])
        try:
            image, name = self._pictures.again(key, index) if not self._pictures.truth else (self._true(key), key)
        except (OSError, ValueError):
            return None
        return image, layout, row["caption"], name

    def _true(self, key: str) -> Image:
        place = self.places[key]
        if isinstance(self.dataset, RangedDataset):
            return next(self.dataset.read(place, place + 1)).image
        return next(islice(self.dataset, place, None)).image

    def _require_coverage(self, document: dict[str, Any]) -> None:
        missing = document["coverage"]["missing"]
        count = "1 image is" if len(missing) == 1 else f"{len(missing)} images are"
        sentences = [f"{count} missing: {_listed(missing)}"] if missing else []
        for name, problems in document["unscored"].items():
            sentences.append(f"{name} could not score all: {_listed(dict(problems))}")
        low = [f"{x} {e['coverage']:.4f}" for x, e in document["metrics"].items()
               if e["coverage"] < self.cfg.require_coverage]  # fmt: skip
        if low:
            raise ValueError(
                f"coverage is below require_coverage={self.cfg.require_coverage}: {', '.join(low)}; "
                f"{'; '.join(sentences)}; {self.folder / 'metrics.json'} names all"
            )
        if sentences and self.process.is_main_process:
            print("\n".join(sentences), file=sys.stderr)

    def _objective(self, found: dict[str, dict[str, Any]]) -> float:
        name = self.cfg.objective or next(iter(found))
        if name not in found:
            raise ValueError(f"objective must be one of {', '.join(found)}, got {name!r}")
        value = found[name]["value"]
        return math.nan if value is None else value

    @cached_property
    def _pictures(self) -> JudgedImages:
        images = self.folder / "images" if self.cfg.images is None else self.cfg.images
        return JudgedImages(images, self.share.most)

    @cached_property
    def _fingerprints(self) -> dict[str, Any]:
        return {
            name: {**describe(metric), "version": getattr(metric, "version", 1)}
            for name, metric in self.metrics.items()
        }

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        """What the images depend on."""
        if self.cfg.images is not None:
            return {"images": str(self.cfg.images), **self._counts}
        model = OmegaConf.to_container(self.cfg.layout_model, resolve=True)
        given = {"checkpoint": self.cfg.checkpoint, **{x: self.cfg.layout_model.get(x) for x in ("adapter", "weights")}}
        files = {name: files_of(Path(x).expanduser()) for name, x in given.items() if x and Path(x).exists()}
        names = ("checkpoint", "ema", "seed", "height", "width")
        return {"layout_model": model, "files": files, **{name: self.cfg[name] for name in names}, **self._counts}

    @property
    def _counts(self) -> dict[str, int]:
        names = ("images_per_layout", "images_in_all")
        return {name: self.cfg[name] for name in names if self.cfg[name] is not None}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What tells this run from others in a table, flat."""
        if self.cfg.images is not None:
            return {"layout_model": None, "images": str(self.cfg.images)}
        chosen = HydraConfig.get().runtime.choices.get("layout_model") if HydraConfig.initialized() else None
        flat: dict[str, Any] = {
            "images": None,
            "layout_model": chosen or str(self.cfg.layout_model._target_).rpartition(".")[2],
        }
        for name, value in self._made_by["layout_model"].items():
            if not name.startswith("_") and not isinstance(value, (dict, list)):
                flat[f"layout_model.{name}"] = value
        names = ("checkpoint", "ema", "seed", "height", "width")
        return {**flat, **{name: self.cfg[name] for name in names}, **self._counts}

    def _mine(self) -> Iterator[Sequence[tuple[int, Sample]]]:
        """This process's samples with their places, in groups that are the same for any number of processes."""
        step = max(1, _TOGETHER // self.share.most)
        rank, size = self.process.process_index, self.process.num_processes
        if isinstance(self.dataset, RangedDataset):
            length = self.share.layouts or 0
            starts = range(rank * step, length, size * step)
            groups = (enumerate(self.dataset.read(x, min(x + step, length)), x) for x in starts)
        else:
            groups = islice(chunked(enumerate(islice(self.dataset, self.share.layouts)), step), rank, None, size)
        for some in groups:
            yield [(place, sample) for place, sample in some if not sample.rejected]

    def _mine_in_all(self) -> int | None:
        """How many layouts this process judges, about."""
        known = self.share.layouts if isinstance(self.dataset, RangedDataset) else None
        return None if known is None else -(-known // self.process.num_processes)


def check_judging(cfg: DictConfig) -> None:
    """Refuse what could not work, before anything is built or written.

    Raises:
        ValueError: a setting is out of its range.
    """
    check_settings(cfg)
    if not cfg.get("metric"):
        raise ValueError("name at least one metric: metric=[shapes_accuracy]")
    if not 0 <= cfg.require_coverage <= 1:
        raise ValueError(f"require_coverage must be in [0, 1], got {cfg.require_coverage}")
    if cfg.rounds is not None and cfg.rounds < 0:
        raise ValueError(f"rounds must be a whole number, at least 0, or null, got {cfg.rounds}")


def _stored(path: Path) -> list[Record] | None:
    """Records that were kept; none where there are none, or no whole ones."""
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        return None
    except Exception:  # zipfile, numpy and json have a dozen names for a broken file
        return None


def _about(sample: Sample) -> str:
    """A digest of what an image is judged by."""
    layout = sample.layout
    boxes = layout.boxes.cpu().numpy().astype("<f4").tobytes().hex()
    masks = None if layout.masks is None else [[*x.size, x.counts.hex()] for x in layout.masks]
    plain = json.loads(json.dumps(sample.metadata, default=str))
    known = [sample.key, sample.caption, boxes, layout.labels, layout.captions, masks, plain]
    if layout.points is not None or layout.scribbles is not None:  # digests of all others stay what they were
        known += [repr(None if layout.points is None else layout.points.tolist())]
        known += [None if layout.scribbles is None else [x.tolist() for x in layout.scribbles]]
    if sample.text_feature is not None:
        known += [sample.text_feature.tolist()]
    return _digest(known)


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _order(row: Row) -> tuple[str, int, int]:
    return row["key"], row["image"], row.get("object", 0)


def _listed(problems: dict[str, Any]) -> str:
    shown = [f"{key}: {why[0] if isinstance(why, tuple) else why}" for key, why in islice(problems.items(), _SHOWN)]
    more = len(problems) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
