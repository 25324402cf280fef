"""One run of annotation: the dataset, the annotators and the writer, introduced to each other."""

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import islice
from typing import Any

from accelerate import Accelerator, InitProcessGroupKwargs
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from scenewright.annotators.pipeline import Timings, annotate
from scenewright.annotators.provenance import describe, package_versions
from scenewright.checkpoints import MissingWeights, check
from scenewright.datasets.shards import Counts, ShardWriter, manifests, shard_numbers, stats, write_shards
from scenewright.entrypoints.command import progress_bar
from scenewright.layout import Sample
from scenewright.protocols import Accounting, Dataset, RangedDataset

#: Reasons that are printed at the end of a run; `stats` has all.
_SHOWN = 10


class Annotating:
    """A run as a configuration describes it: ``conf/annotate.yaml`` with its overrides."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        check_numbers(cfg)
        # processes wait for each other only at the very end, however long the slowest takes
        self.process = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=365))])
        self.annotators: dict[str, Any] = instantiate(cfg.get("annotator") or {}, _convert_="all")
        self.filters: dict[str, Any] = instantiate(cfg.get("filter") or {}, _convert_="all")
        check_weights({**self.annotators, **self.filters})
        self.dataset = instantiate(cfg.dataset, _convert_="all")
        check({"dataset": self.dataset})  # one that composes has networks of its own
        self.length = len(self.dataset) if isinstance(self.dataset, RangedDataset) else None
        self.timings = Timings()
        self.rank = cfg.job_index * self.process.num_processes + self.process.process_index
        self.world_size = cfg.num_jobs * self.process.num_processes

    def write(self, redo: Iterable[int] = ()) -> None:
        """Write this process's shards, those that are not there yet.

        Args:
            redo: shards that count as not there.
        """
        cfg = self.cfg
        writer = ShardWriter(cfg.output_dir, self.record, cfg.images, cfg.allow_mixed)
        for number in redo:
            writer.forget(number)
        sizes = self._shard_sizes()
        if cfg.retry_errors:
            forget_failed(writer, self.rank, self.world_size)
        with writer, self._progress(writer, sizes) as progress:
            counts = Counts()

            def on_sample(sample: Sample) -> None:
                counts.add(sample)
                progress.set_postfix({k: v for k, v in vars(counts).items() if v or k != "dropped"}, refresh=False)
                progress.update()

            write_shards(
                self.dataset,
                writer,
                self._annotate,
                samples_per_shard=cfg.samples_per_shard,
                rank=self.rank,
                world_size=self.world_size,
                on_sample=on_sample,
            )

    def conclude(self) -> None:
        """Say how it ended, once for all processes; exit with 1 where too many images failed."""
        self.process.wait_for_everyone()
        self.process.end_training()
        if not self.process.is_main_process:
            return
        if isinstance(self.dataset, Accounting):
            print(self.dataset.account)
        found = stats(self.cfg.output_dir)
        reasons = list(found["reasons"].items())
        for reason, times in reasons[:_SHOWN]:
            print(f"  {times} × {reason}")
        if len(reasons) > _SHOWN:
            rest = sum(times for _, times in reasons[_SHOWN:])
            print(f"  {rest} × {len(reasons) - _SHOWN} other reasons: entrypoints/shards.py stats lists them")
        dropped = f"{found['dropped']} dropped, " if found["dropped"] else ""
        print(
            f"{found['images']} images: {found['ok']} ok, {found['empty']} empty, {dropped}{found['error']} failed · "
            f"{found['shards']} shards, {found['bytes'] / 1e6:.1f} MB in {self.cfg.output_dir}"
        )
        if too_many(found["error"], found["images"], self.cfg.max_errors):
            print(f"more images failed than max_errors={self.cfg.max_errors} allows", file=sys.stderr)
            sys.exit(1)

    def estimate(self, images: int) -> None:
        """Annotate a few images into a folder that is thrown away, and print what all would take."""
        if not self.process.is_main_process:
            return
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            with ShardWriter(folder, images=self.cfg.images) as writer:
                write_shards(_First(self.dataset, images), writer, self._annotate, samples_per_shard=images)
            seconds = time.perf_counter() - start
            if not self.timings.images:
                raise ValueError("the dataset is empty: nothing to measure")
            size = stats(folder)["bytes"]
        print_estimate(self.timings, seconds, size, self.length, self.world_size)

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """What makes these shards, for their manifests: nothing that leaves their bytes as they are."""
        source = {}
        if isinstance(self.dataset, RangedDataset) and self.length is not None:
            source = {"samples": self.length, "fingerprint": self.dataset.fingerprint}
            source["shards"] = len(shard_numbers(self.length, self.cfg.samples_per_shard))
        config = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(config, dict)
        kept = ("dataset", "annotator", "filter", "purge", "clip_boxes", "samples_per_shard", "images", "seed")
        return {
            "config": {name: config[name] for name in kept if name in config},
            "plugins": {name: describe(plugin) for name, plugin in self.annotators.items()},
            "filters": {name: describe(judge) for name, judge in self.filters.items()},
            "source": source,
            "packages": package_versions(),
        }

    def _annotate(self, samples: Iterable[Sample], /) -> Iterator[Sample]:
        return annotate(
            samples,
            **self.annotators,
            filters=list(self.filters.values()),
            purge=self.cfg.get("purge", False),
            clip_boxes=self.cfg.get("clip_boxes", True),
            batch_size=self.cfg.batch_size,
            workers=self.cfg.workers,
            device=self.process.device,
            seed=self.cfg.seed,
            timings=self.timings,
        )

    def _shard_sizes(self) -> dict[int, int]:
        """How many images each shard of this process has; none where the dataset does not say its length."""
        if self.length is None:
            return {}
        per_shard = self.cfg.samples_per_shard
        numbers = shard_numbers(self.length, per_shard, self.rank, self.world_size)
        return {n: min(per_shard, self.length - n * per_shard) for n in numbers}

    def _progress(self, writer: ShardWriter, sizes: Mapping[int, int]) -> "tqdm[Any]":
        """A bar over this process's images, begun at those that are done."""
        return progress_bar(
            self.process,
            "image",
            total=None if self.length is None else sum(sizes.values()),
            initial=sum(size for n, size in sizes.items() if writer.has(n)),
        )


def check_numbers(cfg: DictConfig) -> None:
    """Refuse numbers that could not work, before anything is written.

    Raises:
        ValueError: a setting is out of its range.
    """
    for name in ("batch_size", "workers", "samples_per_shard", "num_jobs"):
        if cfg[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {cfg[name]}")
    if not 0 <= cfg.job_index < cfg.num_jobs:
        raise ValueError(f"job_index must be in [0, num_jobs={cfg.num_jobs}), got {cfg.job_index}")
    if cfg.max_errors < 0:
        raise ValueError(f"max_errors must be 0 or more, got {cfg.max_errors}")


def check_weights(plugins: Mapping[str, Any]) -> None:
    """Make sure, before anything is done, that all weights are there.

    Raises:
        MissingWeights: some are not; it says which, where to put them, and what works without.
    """
    try:
        check(plugins)
    except MissingWeights as error:
        raise MissingWeights(f"{error}. Or annotate without any weights: experiment=embedded") from error


def forget_failed(writer: ShardWriter, rank: int, world_size: int) -> None:
    """Make this process's shards in which an image failed count as not done."""
    with suppress(FileNotFoundError):  # nothing is done yet
        found = manifests(writer.directory)
        for number in [m.number for m in found if m.counts["error"] and m.number % world_size == rank]:
            writer.forget(number)


def too_many(errors: int, images: int, max_errors: float | int) -> bool:
    """Whether more failed than is allowed: a share of the images below 1, a number of them from 1 on."""
    return errors > (max_errors * images if max_errors < 1 else max_errors)


@dataclass(frozen=True)
class _First:
    """The first samples of a dataset."""

    dataset: Dataset
    count: int

    def __iter__(self) -> Iterator[Sample]:
        return islice(self.dataset, self.count)


def print_estimate(timings: Timings, seconds: float, size: int, length: int | None, processes: int) -> None:
    """Print the speed of each stage, and what the whole source would take."""
    images = timings.images
    print(f"measured on {images} images, the first batches and model loading included")
    for stage, spent in {**timings.seconds, "all": seconds}.items():
        rate = images / spent if spent else float("inf")
        print(f"  {stage:<10} {spent / images * 1e3:9.1f} ms/image {rate:9.1f} images/s {spent / seconds:6.0%}")
    if length is None:
        print("the dataset does not say how long it is, so there is no estimate for all of it")
        return
    duration = timedelta(seconds=round(seconds / images * length / processes))
    print(f"all {length} images: {duration} with {processes} processes, {size / images * length / 1e9:.3f} GB")
