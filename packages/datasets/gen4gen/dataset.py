"""The source: composed scene number i, made once and kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from more_itertools import batched

from scenewright.checkpoints import CheckpointError
from scenewright.datasets.files import fingerprint_of, key_of
from scenewright.datasets.gen4gen.album import Album, Kept
from scenewright.datasets.gen4gen.background_photos import BACKDROP, BackgroundPhotos, backdrop
from scenewright.datasets.gen4gen.concepts import Scene, read_concepts
from scenewright.datasets.gen4gen.cutout_store import CutoutStore, settings_of
from scenewright.datasets.gen4gen.cutouts import Cutter
from scenewright.datasets.gen4gen.paster import Paster
from scenewright.datasets.gen4gen.planner.phrase import object_phrase
from scenewright.datasets.gen4gen.records import (
    Composition,
    Concept,
    Cutout,
    LayoutPlan,
    LayoutRequest,
    Planner,
    Repainter,
    RepaintJob,
)
from scenewright.datasets.gen4gen.repainter.preparing import psnr_inside, repaint_prompt
from scenewright.layout import EncodedImage, Image, Layout, RunLengths, Sample

#: Raised whenever the same settings compose something else than before.
VERSION = 1


@dataclass(eq=False)
class _Draft:
    """A scene that is being made; what each step adds is there for the next ones, unless it failed."""

    number: int
    things: list[tuple[Concept, Cutout]] = field(default_factory=list)
    plan: LayoutPlan = field(init=False)
    composition: Composition = field(init=False)
    place: dict[str, str] = field(init=False)
    job: RepaintJob = field(init=False)
    failure: str = ""

    @property
    def concepts(self) -> list[Concept]:
        return [concept for concept, _ in self.things]

    @property
    def cutouts(self) -> list[Cutout]:
        return [cutout for _, cutout in self.things]


class Gen4Gen:
    """Composes scenes of personal concepts: photos become cut-outs, are placed, pasted and given a background.

    Scene ``i`` is a pure function of the settings, the photos and ``i``, as far as planner and repainter are.
    Everything on the way is kept in ``work``, so that people can look at it and a run that was stopped goes on: see
    ``Album``. A mask holds the pixels of which the object makes up at least half; a box is the tight box of its mask.
    A scene that cannot be made is a sample with an error: it is tried again in the next run.

    Args:
        directory: the concepts, ``<scene>/<object>/<photos>``; the objects of one scene may occur together.
        cutter: cuts things out of their photos.
        planner: says where they go.
        paster: puts them there.
        repainter: paints what is around them.
        work: the folder of everything on the way.
        length: how many scenes there are to be.
        height: of the images, in pixels.
        width: of the images, in pixels.
        objects: fewest and most things in a scene; where a folder has fewer, all of them.
        backgrounds: a folder of photos, ``<place>/<photos>``; None: noise is painted over, or things are before a plain
            backdrop where the repainter does not paint.
        caption: "template" ("one cat and one dog in a garden"), or "none", to leave it to a captioner.
        seed: another seed composes other scenes; not negative.
        compat_prompt: repaint with the published prompt, which does not say what is in the scene.
        batch_size: scenes that are planned and painted together; results do not depend on it.
        workers: threads that paste and write.

    Raises:
        ValueError: a setting is out of its range.

    Source: Yeh et al. 2024, arXiv 2402.15504.
    """

    def __init__(
        self,
        directory: str,
        cutter: Cutter,
        planner: Planner,
        paster: Paster,
        repainter: Repainter,
        work: str,
        length: int = 100,
        height: int = 1024,
        width: int = 1024,
        objects: Sequence[int] = (2, 5),
        backgrounds: str | None = None,
        caption: str = "template",
        seed: int = 0,
        compat_prompt: bool = False,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        for name, value, least in (
            ("length", length, 0),
            ("height", height, 64),
            ("width", width, 64),
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("workers", workers, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if len(objects) != 2 or not 1 <= objects[0] <= objects[1]:
            raise ValueError(f"objects must be the fewest and the most, from 1 on, got {list(objects)}")
        if caption not in ("template", "none"):
            raise ValueError(f"caption must be template or none, got {caption!r}")
        self.directory, self.work, self.length, self.height, self.width = directory, work, length, height, width
        self.cutter, self.planner, self.paster, self.repainter = cutter, planner, paster, repainter
        self.objects, self.backgrounds, self.caption = (objects[0], objects[1]), backgrounds, caption
        self.seed, self.compat_prompt, self.batch_size, self.workers = seed, compat_prompt, batch_size, workers

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, len(self))

    def read(self, start: int, stop: int) -> Iterator[Sample]:
        """The scenes from ``start`` up to ``stop``; those that the album has are not made again.

        Raises:
            FileNotFoundError: there are no concepts, or no photos of one.
            ValueError: the album was made with other settings.
        """
        album = self._album
        with ThreadPoolExecutor(self.workers) as pool:
            for numbers in batched(range(start, stop), self.batch_size):
                missing = [i for i in numbers if not album.has(i)]
                failures = dict(zip(missing, self._make(missing, pool), strict=True)) if missing else {}
                for i in numbers:
                    failure = failures.get(i, "")
                    yield Sample(key=self._key(i), error=failure) if failure else self._sample(album.read(i))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of([json.dumps(self._settings, sort_keys=True)])

    @cached_property
    def scenes(self) -> list[Scene]:
        """The concepts, by scene."""
        return read_concepts(self.directory)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """All that scenes depend on."""
        root = Path(self.directory).expanduser()
        photos = [p for scene in self.scenes for concept in scene.concepts for p in concept.photos]
        backgrounds = [] if self._backgrounds is None else self._backgrounds.photos
        return {
            "version": VERSION,
            **{name: settings_of(getattr(self, name)) for name in ("cutter", "planner", "paster", "repainter")},
            **{name: getattr(self, name) for name in ("height", "width", "seed", "caption", "compat_prompt")},
            "objects": list(self.objects),
            "photos": [[p.relative_to(root).as_posix(), p.stat().st_size] for p in photos],
            "backgrounds": [[p.parent.name, p.name, p.stat().st_size] for p in backgrounds],
        }

    @cached_property
    def _album(self) -> Album:
        return Album(Path(self.work).expanduser(), self._settings)

    @cached_property
    def _store(self) -> CutoutStore:
        return CutoutStore(Path(self.work).expanduser() / "cutouts", self.cutter, self.directory)

    @cached_property
    def _backgrounds(self) -> BackgroundPhotos | None:
        return None if self.backgrounds is None else BackgroundPhotos(self.backgrounds)

    def _key(self, number: int) -> str:
        return f"{number:06d}-{key_of(self._scene(number).name)}"

    def _scene(self, number: int) -> Scene:
        return self.scenes[number % len(self.scenes)]

    def _make(self, numbers: Sequence[int], pool: ThreadPoolExecutor) -> list[str]:
        """Make these scenes; why each could not be made, empty where it was."""
        drafts = [_Draft(i) for i in numbers]

        def sound() -> list[_Draft]:
            return [x for x in drafts if not x.failure]

        for draft in drafts:
            self._choose(draft)
        planned = sound()
        for draft, plan in zip(planned, self.planner.plan([self._request(x) for x in planned]), strict=True):
            draft.plan = plan
        list(pool.map(self._compose, planned))
        for draft in sound():
            self._place(draft)
        placed = sound()
        images = self.repainter.repaint([x.job for x in placed])
        list(pool.map(self._keep, placed, images))
        return [x.failure for x in drafts]

    def _choose(self, draft: _Draft) -> None:
        """The things of a scene, each cut out of the first of its photos that gives something."""
        random = np.random.default_rng([self.seed, draft.number])
        concepts = self._scene(draft.number).concepts
        fewest, most = (min(x, len(concepts)) for x in self.objects)
        picked = random.permutation(len(concepts))[: random.integers(fewest, most + 1)]
        for concept in (concepts[i] for i in picked):
            reasons = []
            for photo in random.permutation(len(concept.photos)):
                try:
                    draft.things.append((concept, self._store.get(concept.photos[photo])))
                    break
                except CheckpointError:  # of all photos alike
                    raise
                except (ValueError, OSError) as error:
                    reasons.append(f"{concept.photos[photo].name}: {error}")
            else:
                draft.failure = f"no photo of {concept.key} can be cut out: {'; '.join(reasons)}"
                return

    def _request(self, draft: _Draft) -> LayoutRequest:
        return LayoutRequest(
            names=tuple(x.name for x in draft.cutouts),
            aspects=tuple(x.alpha.shape[1] / x.alpha.shape[0] for x in draft.cutouts),
            height=self.height,
            width=self.width,
            backgrounds=self._phrases,
            seed=self._seed(draft.number, 1),
        )

    @property
    def _phrases(self) -> tuple[str, ...]:
        """What may be around things; none where the planner is to say."""
        if self._backgrounds is not None:
            return tuple(self._backgrounds.phrases)
        return () if getattr(self.repainter, "paints", True) else (BACKDROP,)

    def _seed(self, number: int, purpose: int) -> int:
        return int(np.random.default_rng([self.seed, number, purpose]).integers(2**31))

    def _compose(self, draft: _Draft) -> None:
        """Paste the things where they are planned; the album keeps what was planned of a scene that fails here."""
        plan = draft.plan
        try:
            if plan.error or plan.boxes is None:
                raise ValueError(f"planner: {plan.error or 'it gave no boxes'}")
            draft.composition = self._pasted(draft)
        except ValueError as error:
            draft.failure = str(error)
            self._album.note(draft.number, plan, draft.failure)

    def _pasted(self, draft: _Draft) -> Composition:
        """Raises: ValueError, nothing can be pasted so, or a thing could not be seen."""
        try:
            made = self.paster.compose(draft.plan, draft.cutouts, self.height, self.width, self._seed(draft.number, 2))
        except ValueError as error:
            raise ValueError(f"paster: {error}") from error
        hidden = [c.name for c, x in zip(draft.concepts, made.pasted, strict=True) if not (x.visible >= 0.5).any()]
        if hidden:
            raise ValueError(f"paster: {', '.join(hidden)} cannot be seen")
        return made

    def _place(self, draft: _Draft) -> None:
        """What is to be around the things."""
        try:
            draft.place, photo = self._background(draft.plan.background, self._seed(draft.number, 3))
        except (ValueError, OSError) as error:
            draft.failure = f"background: {error}"
            return
        said = object_phrase([c.name for c in draft.concepts])
        prompt = repaint_prompt(said, draft.place["background"], compat=self.compat_prompt)
        draft.job = RepaintJob(draft.composition, photo, prompt, self._seed(draft.number, 4))

    def _keep(self, draft: _Draft, image: Image) -> None:
        about = {
            "key": self._key(draft.number),
            "scene": self._scene(draft.number).name,
            "directory": self.directory,
            "photos": [x.photo for x in draft.cutouts],
            "concepts": [c.key for c in draft.concepts],
            "prompt": draft.job.prompt,
            **draft.place,
            "psnr": _decibels(psnr_inside(draft.composition, image)),
        }
        layout = _layout(draft.concepts, draft.composition)
        self._album.write(draft.number, draft.plan, draft.composition, image, layout, about)

    def _background(self, phrase: str, seed: int) -> tuple[dict[str, str], Image | None]:
        """What is around the things, and a photo of it; the photo's own phrase where none shows what was planned."""
        if self._backgrounds is None:
            paints = getattr(self.repainter, "paints", True)
            photo = None if paints else backdrop(self.height, self.width, seed)
            return {"background": phrase, "background_photo": ""}, photo
        said, path = self._backgrounds.choose(phrase, seed)
        return {"background": said, "background_photo": f"{path.parent.name}/{path.name}"}, self._backgrounds.read(path)

    def _sample(self, kept: Kept) -> Sample:
        names = kept.layout.labels
        caption = f"{object_phrase(names)} {kept.about['background']}".strip() if self.caption == "template" else ""
        return Sample(
            key=kept.about["key"],
            source=EncodedImage(kept.image.read_bytes, "png", str(kept.image)),
            caption=caption,
            layout=kept.layout,
            metadata={"gen4gen": {k: v for k, v in kept.about.items() if k not in ("instances", "directory")}},
        )


def _layout(concepts: Sequence[Concept], composition: Composition) -> Layout:
    """What is seen of each thing."""
    masks = RunLengths.encode(torch.stack([x.visible >= 0.5 for x in composition.pasted]))
    names = [c.name for c in concepts]
    return Layout(
        boxes=torch.stack([x.box for x in masks]), labels=names, captions=[_article(x) for x in names], masks=masks
    )


def _decibels(psnr: float) -> float | None:
    """For JSON, which knows no infinity: 99 where nothing has changed, None where there is nothing to compare."""
    return None if math.isnan(psnr) else round(min(psnr, 99.0), 2)


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
