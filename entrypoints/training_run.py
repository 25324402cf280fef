"""One run of training: the data, the model and what is written about them, introduced to each other."""

import os
from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration, set_seed
from hydra.utils import instantiate
from more_itertools import chunked
from omegaconf import DictConfig

from scenewright.datasets.batches import Batches, loader, visit_seed
from scenewright.datasets.held_out import Spans, hold_out
from scenewright.entrypoints.journal import Journal
from scenewright.entrypoints.run_record import RunRecord
from scenewright.entrypoints.training_settings import PRECISIONS, check_settings, due, settings, trackers_of
from scenewright.layout import Batch
from scenewright.layout_models.checkpoint import Run, load_trained, read_weights, resume, save
from scenewright.layout_models.training import optimize, prepare, train, trainable
from scenewright.layout_models.validation import validate
from scenewright.protocols import RangedDataset


class TrainingRun:
    """A run as a configuration describes it: ``conf/train.yaml`` with its overrides."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        check_settings(cfg)
        self.process = accelerator_of(cfg)
        set_seed(cfg.seed)
        dataset = instantiate(cfg.dataset, _convert_="all")
        self.framing = instantiate(cfg.framing, _convert_="all")
        training, self.held_out = split(dataset, cfg.validation)
        self.record = self._record(dataset)
        self.record.check()
        model = self._model()
        optimizer = optimize(model, instantiate(cfg.optimizer, _convert_="all"), decay_vectors=cfg.decay_vectors)
        ema = self._average(model)
        schedule = schedule_of(cfg, optimizer)
        parts = {"batch_size": cfg.batch_size, "max_grad_norm": cfg.max_grad_norm}
        model, optimizer, schedule = prepare(self.process, model, optimizer, schedule, **parts)
        batches = self._batches(training)
        self.run = Run(self.process, model, optimizer, schedule, batches, cfg.batch_size, ema)

    def train(self) -> None:
        """Go on from the newest checkpoint to the last step."""
        cfg, run = self.cfg, self.run
        if self.process.is_main_process:
            self.record.write()
        with Journal(cfg, self.process, run.network) as journal:
            start = resume(run, cfg.output_dir)
            journal.begin(start)
            options = {"ema": run.ema, "max_grad_norm": cfg.max_grad_norm, "max_skipped": cfg.max_skipped}
            steps = train(run.model, run.batches, run.optimizer, run.schedule, self.process, start=start, **options)
            for step in journal.watched(islice(steps, max(0, cfg.steps - start))):
                last = step.number == cfg.steps
                if last or due(step.number, cfg.validation.every):
                    self._validate(journal, step.number)
                if last or due(step.number, cfg.checkpoint_every):
                    save(run, cfg.output_dir, step.number, keep=cfg.keep)
        self.summary = journal.summary

    def conclude(self) -> None:
        """Say how it ended, once for all processes."""
        self.process.wait_for_everyone()
        self.process.end_training()
        if self.process.is_main_process:
            print(self.summary)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # else DeepSpeed's processes sometimes abort at exit

    def _record(self, dataset: Any) -> RunRecord:
        source = {"fingerprint": dataset.fingerprint, "samples": len(dataset)}
        record = {**settings(self.cfg, self.process.mixed_precision), "source": source}
        way_out = "set these back, or choose another output_dir"
        return RunRecord(Path(self.cfg.output_dir, "run.json"), record, way_out)

    def _model(self) -> Any:
        cfg = self.cfg
        model = instantiate(cfg.layout_model, _convert_="all")
        if cfg.start_from:
            load_trained(model, read_weights(cfg.start_from), cfg.start_from)
        if cfg.compile:
            model.compile()
        return model

    def _average(self, model: torch.nn.Module) -> Any:
        if self.cfg.ema is None:
            return None
        from diffusers.training_utils import EMAModel

        return EMAModel(trainable(model).values(), **self.cfg.ema)

    def _batches(self, dataset: RangedDataset) -> Any:
        cfg = self.cfg
        batches = Batches(
            dataset,
            self.framing,
            cfg.batch_size,
            seed=cfg.seed,
            rank=self.process.process_index,
            world_size=self.process.num_processes,
            **cfg.shuffle,
        )
        return loader(batches, cfg.workers)

    def _validate(self, journal: Journal, step: int) -> None:
        if not self._framed:
            return
        held_out = batches_of(self._framed, self.cfg.batch_size)
        wanted = batches_of(self._framed[: self.cfg.validation.layouts], self.cfg.batch_size)
        found = validate(self.run.model, self.process, held_out, wanted, self.run.ema)
        journal.validated(step, found, held_out, wanted)

    @cached_property
    def _framed(self) -> list[Batch]:
        """The held-out samples, each as a batch of one, always framed the same."""
        framed = []
        for sample in self.held_out:
            try:
                seed = visit_seed(0, 0, sample.key)
                shown, frame = self.framing(sample, seed)
                framed.append(Batch.collate([shown], frames=[frame], seeds=[seed]))
            except (OSError, ValueError):  # training skips such images too, and says so
                continue
        return framed


def accelerator_of(cfg: DictConfig) -> Accelerator:
    """What Accelerate needs to know before anything is built."""
    trackers: list[Any] = [*trackers_of(cfg)]
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, says that it looked
    group: dict[str, Any] = {"timeout": timedelta(hours=6)}  # the others wait while one draws or writes
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and not torch.cuda.is_available():
        import deepspeed

        group["backend"] = "gloo"  # else each process believes that it is alone
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it calls a compiler
    return Accelerator(
        mixed_precision=PRECISIONS[cfg.precision],
        gradient_accumulation_steps=cfg.accumulate,
        log_with=trackers or None,
        project_config=ProjectConfiguration(cfg.output_dir, logging_dir=str(Path(cfg.output_dir, "logs"))),
        kwargs_handlers=[InitProcessGroupKwargs(**group)],
    )


def schedule_of(cfg: DictConfig, optimizer: Any) -> Any:
    """The learning rate's schedule, by its name in diffusers."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(cfg.lr_schedule, optimizer, num_warmup_steps=cfg.warmup, num_training_steps=cfg.steps)


def split(dataset: Any, validation: DictConfig) -> tuple[RangedDataset, RangedDataset]:
    """What is trained on and what is validated on: samples that are held out, or those of another dataset.

    Raises:
        ValueError: the dataset cannot be shared out, or is too small for that.
    """
    if not isinstance(dataset, RangedDataset):
        raise ValueError(f"{type(dataset).__name__} cannot start anywhere; write its samples into shards first")
    if not len(dataset):
        raise ValueError("the dataset is empty: nothing to train on")
    if validation.dataset is not None:
        other = instantiate(validation.dataset, _convert_="all")
        return dataset, Spans(other, [(0, min(validation.count, len(other)))])
    count = min(validation.count, len(dataset) // 10)
    if validation.count and not count:
        raise ValueError(
            f"the dataset has {len(dataset)} samples, too few to hold some out; "
            "name a validation.dataset, or go without: validation.count=0"
        )
    return hold_out(dataset, count)


def batches_of(framed: Sequence[Batch], batch_size: int) -> list[Batch]:
    """Batches of one image, put together with others of their size, in order."""
    by_size: dict[tuple[int, ...], list[Batch]] = {}
    for one in framed:
        by_size.setdefault(tuple(one.images.shape[-2:]), []).append(one)
    return [_joined(some) for same in by_size.values() for some in chunked(same, batch_size)]


def _joined(batches: Sequence[Batch]) -> Batch:
    lists = {x.name: [y for b in batches for y in getattr(b, x.name)] for x in fields(Batch) if x.name != "images"}
    return Batch(images=torch.cat([b.images for b in batches]), **lists)
