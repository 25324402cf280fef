"""Data extrapolation in small, without weights: what detectors find, how far text features are off, what it is worth.

The originals are a few captioned pictures of one drawn thing, in classes such as "red star". The pool is what a search
for the classes' names may bring: more of the class, things of other classes, and pieces of photographs. Of the pool no
caption is known; here they are kept aside as the truth. Two small RAT models are trained for equally many steps:

    originals       on the originals alone
    extrapolated    first on the pool that the detectors left, with extrapolated text features, then on the originals

Both draw captions that were held out. A linear probe, trained on many other pictures of the classes, says whether a
drawing is of its class; the kernel distance (KID's, of the same features) says how far the drawings are from the
held-out pictures. Intervals are of Student's t over the seeds, each of which draws all data and weights anew.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from materials.photographs import write_photographs
from omegaconf import OmegaConf
from PIL import Image as PILImage
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch_fidelity.metric_kid import kid_features_to_metric

from scenewright.datasets.extrapolated.detectors import ClassAgreement, ClusterDetector, Probe, leave_one_out
from scenewright.datasets.extrapolated.encoders import HistogramFeatures
from scenewright.datasets.extrapolated.keywords import keyword_of
from scenewright.datasets.extrapolated.ledger import Ledger
from scenewright.datasets.image_folder import ImageFolder
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Image, Images, Layout
from scenewright.layout_models.rat_dit.text_features import HashedWords
from scenewright.layout_models.tiny_rat_dit import TinyRatDiT

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "star", "cross", "square")
CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]

SIZES = ("large", "huge")

#: Grey levels.
WALLS = {"dark": (20, 70), "grey": (100, 150), "light": (190, 240)}

#: Sides of the files, and of what the models draw, in pixels.
FILE, SIDE = 32, 16

#: What is in a pool, as shares.
RIGHT, WRONG, PHOTOS = 0.6, 0.25, 0.15

#: Images of a cluster and percentile of the originals' distances; the first are the defaults.
CLUSTERS = ((50, 95.0), (10, 95.0), (10, 75.0), (5, 50.0))

RECIPE = ROOT / "conf" / "experiment" / "train" / "rat_small.yaml"


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn thing: its pixels, its class, what is said of it."""

    pixels: Tensor
    keyword: str
    caption: str


def pictures(count: int, seed: int, split: str = "train") -> list[Picture]:
    """So many of each class, each in front of a plain wall."""
    found: dict[str, list[Picture]] = defaultdict(list)
    random = np.random.default_rng([seed, len(split)])
    for sample in Shapes(10**9, FILE, FILE, seed, split, "easy", objects=[1, 1], turn=0.0):
        word = sample.tags[0] if sample.tags else ""
        if word not in CLASSES or len(found[word]) == count or sample.metadata["objects"][0]["size"] not in SIZES:
            continue
        wall = str(random.choice(list(WALLS)))
        assert sample.layout.masks is not None
        thing = sample.layout.masks[0].decode()
        pixels = torch.where(thing, sample.image, torch.tensor(random.integers(*WALLS[wall]), dtype=torch.uint8))
        caption = f"a {sample.metadata['objects'][0]['size']} {word} in front of a {wall} wall"
        found[word].append(Picture(pixels, word, caption))
        if len(found) == len(CLASSES) and min(map(len, found.values())) == count:
            break
    return [picture for word in CLASSES for picture in found[word]]


def write(folder: Path, rows: Sequence[tuple[str, Tensor, str | None]]) -> list[str]:
    """``<keyword>/<number>.png``, with captions beside them; the keys of their samples."""
    names = []
    for i, (keyword, pixels, caption) in enumerate(rows):
        path = folder / keyword.replace(" ", "_") / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
        names.append(f"{path.parent.name}__{path.stem}")
    return names


def collect(folder: Path, seed: int, each: int, pool: int) -> dict[str, tuple[str, str]]:
    """Write the originals and the pool; what each of the pool's files really is, and its true caption."""
    for name in ("originals", "pool", "photographs"):  # runs stay, and go on where they were stopped
        shutil.rmtree(folder / name, ignore_errors=True)
    drawn = pictures(each + round(pool * (RIGHT + WRONG)), seed)
    per_class = len(drawn) // len(CLASSES)
    of = {word: drawn[i * per_class : (i + 1) * per_class] for i, word in enumerate(CLASSES)}
    write(folder / "originals", [(w, x.pixels, x.caption) for w in CLASSES for x in of[w][:each]])

    random, rows, truth = np.random.default_rng(seed), [], []
    write_photographs(folder / "photographs", round(pool * PHOTOS) * len(CLASSES), FILE)
    photographs = iter(sorted((folder / "photographs").iterdir()))
    strays = [x for word in CLASSES for x in of[word][each + round(pool * RIGHT) :]]
    strays = [strays[i] for i in random.permutation(len(strays))]
    for word in CLASSES:
        mine = [x for x in strays if x.keyword != word][: round(pool * WRONG)]
        strays = [x for x in strays if x not in mine]
        for picture in (*of[word][each : each + round(pool * RIGHT)], *mine):
            rows.append((word, picture.pixels, None))
            truth.append(("right" if picture.keyword == word else "wrong", picture.caption))
        for _ in range(round(pool * PHOTOS)):
            with PILImage.open(next(photographs)) as opened:
                rows.append((word, torch.from_numpy(np.array(opened)).permute(2, 0, 1), None))
            truth.append(("photo", ""))
    order = random.permutation(len(rows))
    names = write(folder / "pool", [rows[i] for i in order])
    return dict(zip(names, [truth[i] for i in order], strict=True))


def train(output: Path, steps: int, *overrides: str) -> Path:
    """A run of ``experiment=rat_small``."""
    command = [sys.executable, "entrypoints/train.py", "experiment=rat_small", f"output_dir={output}", f"steps={steps}"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training in {output} failed:\n{done.stderr}")
    return output


def judge_detectors(work: Path, truth: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Precision and recall of both detectors at their defaults, and what they make of a pool."""
    stages = {row.decision.key: row.decision.stage for row in Ledger(work, _settings(work)).rows}
    numbers = left_out({key for key, stage in stages.items() if stage in ("cluster", "class")}, truth)
    kinds = Counter(truth[key][0] for key, stage in stages.items() if stage == "kept")
    numbers["right, share of the pool"] = sum(kind == "right" for kind, _ in truth.values()) / len(truth)
    numbers["right, share of what is kept"] = kinds["right"] / max(kinds.total(), 1)
    numbers["kept images"] = kinds.total()
    return numbers


def judge_clusters(folder: Path, truth: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Precision and recall of the cluster detector alone, at several settings."""
    originals, pool = (measured(folder / name) for name in ("originals", "pool"))
    numbers: dict[str, float] = {}
    for size, percentile in CLUSTERS:
        detector, out = ClusterDetector(images_per_cluster=size, percentile=percentile), set[str]()
        for word, (keys, features) in pool.items():
            own = originals[word][1]
            found = detector.cluster(features, own, detector.threshold(leave_one_out(own)))
            out |= {k for k, i in zip(keys, found.labels, strict=True) if found.distances[i] > found.threshold}
        name = f"{size} images each, {percentile:.0f} %"
        numbers |= {f"{name}: {what}": number for what, number in left_out(out, truth).items()}
    return numbers


def left_out(out: set[str], truth: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Which share of each kind is among these keys, and how many of them should be."""
    numbers: dict[str, float] = {}
    for kind in ("wrong", "photo", "right"):
        of = [key for key in truth if truth[key][0] == kind]
        numbers[f"left out of {kind}"] = sum(key in out for key in of) / len(of)
    return numbers | {"precision": sum(truth[key][0] != "right" for key in out) / max(len(out), 1)}


def measured(folder: Path) -> dict[str, tuple[list[str], Tensor]]:
    """Keys and features of each class."""
    found: dict[str, list[tuple[str, Image]]] = defaultdict(list)
    for sample in ImageFolder(folder):
        found[keyword_of(sample, "folder")].append((sample.key, sample.image))
    encoder = HistogramFeatures()
    return {
        word: ([key for key, _ in rows], encoder.encode_images([image for _, image in rows]))
        for word, rows in found.items()
    }


def judge_texts(work: Path, truth: dict[str, tuple[str, str]]) -> dict[str, float]:
    """How far the text features of kept images of the right class are from their true captions'."""
    ledger, encoder = Ledger(work, _settings(work)), HashedWords()
    rows = [x for x in ledger.rows if x.text >= 0 and truth[x.decision.key][0] == "right"]

    def texts(said: Sequence[str]) -> Tensor:
        return encoder.encode(said, torch.device("cpu"))

    true = texts([truth[x.decision.key][1] for x in rows])
    captions = {path.stem: path.read_text() for path in (work.parent / "originals").rglob("*.txt")}
    answers = {
        "extrapolated": ledger.texts([x.text for x in rows]),
        "nearest original's caption": texts([captions[x.decision.neighbours[0].split("__")[-1]] for x in rows]),
        "keyword as caption": texts([f"a {x.decision.keyword}" for x in rows]),
    }
    return {
        f"{name}: {what}": float(value.mean())
        for name, found in answers.items()
        for what, value in (
            ("cosine", cosine_similarity(found, true)),
            ("relative error", (found - true).norm(dim=1) / true.norm(dim=1)),
        )
    }


def draw(run: Path, captions: Sequence[str]) -> Images:
    """One drawing per caption, seeds 0, 1, 2, …, by a run's average."""
    model = TinyRatDiT(weights=str(run), **OmegaConf.load(RECIPE).layout_model).eval()
    none = [Layout.empty()] * len(captions)
    return model.sample(captions, none, range(len(captions)), height=SIDE, width=SIDE)


def judge_drawings(drawn: Tensor, real: Tensor, keywords: Sequence[str], probe: Probe) -> dict[str, float]:
    """Whether drawings are of their captions' classes, and how far they are from real pictures; of features of both."""
    rows, classes = probe.probabilities(drawn)
    pairs = [(classes[i].split(), word.split()) for i, word in zip(rows.argmax(1).tolist(), keywords, strict=True)]
    kid = kid_features_to_metric(drawn, real, kid_subsets=1, kid_subset_size=len(real), rng_seed=0, verbose=False)
    return {
        "class is right": float(np.mean([a == b for a, b in pairs])),
        "colour is right": float(np.mean([a[0] == b[0] for a, b in pairs])),
        "form is right": float(np.mean([a[1] == b[1] for a, b in pairs])),
        "kernel distance x 1000": 1000 * kid["kernel_inception_distance_mean"],
    }


def small(picture: Picture) -> Image:
    """At the size of the drawings."""
    pixels = np.ascontiguousarray(picture.pixels.permute(1, 2, 0).numpy())
    image = PILImage.fromarray(pixels).resize((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def proof(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All numbers of one seed."""
    truth = collect(folder, seed, arguments.originals, arguments.pool)
    first = round(arguments.steps * arguments.first)
    originals = ("dataset=image_folder", f"dataset.directory={folder / 'originals'}", f"seed={seed}")
    pool = (
        *("dataset=extrapolated", "dataset/extrapolated/encoder=histogram", f"dataset.work={folder / 'work'}"),
        "layout_model/text_encoder@dataset.text_encoder=hashed_words",
        f"dataset.originals.directory={folder / 'originals'}",
        f"dataset.retrieval.dataset.directory={folder / 'pool'}",
        f"seed={seed}",
    )
    runs = {"originals": train(folder / "alone", arguments.steps, *originals)}
    stage = train(folder / "stage1", first, *pool)
    runs["extrapolated"] = train(folder / "stage2", arguments.steps - first, *originals, f"start_from={stage}")

    known, held_out = pictures(60, seed, "val"), pictures(arguments.drawings // len(CLASSES), seed, "test")
    encoder, keywords = HistogramFeatures(), [x.keyword for x in held_out]
    probe = ClassAgreement().fit(encoder.encode_images([small(x) for x in known]), [x.keyword for x in known])
    drawings = {"held-out pictures": torch.stack([small(x) for x in held_out])}
    drawings |= {name: draw(run, [x.caption for x in held_out]) for name, run in runs.items()}
    seen = {name: encoder.encode_images(list(images)) for name, images in drawings.items()}
    for name, images in drawings.items():
        sheet(folder / f"{name}.png", images)
    return {
        "detectors": judge_detectors(folder / "work", truth),
        "cluster detector alone": judge_clusters(folder, truth),
        "text features": judge_texts(folder / "work", truth),
        **{name: judge_drawings(x, seen["held-out pictures"], keywords, probe) for name, x in seen.items()},
    }


def sheet(path: Path, images: Images, columns: int = 16, scale: int = 3) -> None:
    """Drawings side by side, a row of each class."""
    from torchvision.utils import make_grid

    grid = make_grid(images, columns, padding=1).permute(1, 2, 0).numpy()
    PILImage.fromarray(grid).resize((grid.shape[1] * scale, grid.shape[0] * scale), PILImage.Resampling.NEAREST).save(
        path
    )


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds."""
    middle, count = float(np.mean(values)), len(values)
    if count < 2:
        return f"{middle:.3f}"
    half = float(student.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)
    return f"{middle:.3f} ({middle - half:.3f} to {middle + half:.3f})"


def _settings(work: Path) -> dict[str, Any]:
    return json.loads((work / "settings.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of 64 pictures, in all stages of a model together")
    parser.add_argument("--first", type=float, default=2 / 3, help="share of the steps that is on the pool")
    parser.add_argument("--originals", type=int, default=10, help="of each class")
    parser.add_argument("--pool", type=int, default=150, help="retrieved for each class")
    parser.add_argument("--drawings", type=int, default=256)
    parser.add_argument("--output", default="runs/extrapolation", help="data, runs, drawings and numbers.json")
    parser.add_argument("--at-once", type=int, default=2, help="seeds that are worked on side by side")
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.seeds, arguments.steps, arguments.originals, arguments.pool, arguments.drawings = 1, 6, 4, 20, 16
    folder = Path(arguments.output).resolve()
    with ThreadPoolExecutor(arguments.at_once) as workers:
        seeds = range(arguments.seeds)
        found = list(workers.map(lambda seed: proof(folder / f"seed{seed}", seed, arguments), seeds))
    (folder / "numbers.json").write_text(json.dumps({"settings": vars(arguments), "seeds": found}, indent=1))
    for part, numbers in found[0].items():
        print(f"\n{part}")
        for name in numbers:
            print(f"  {name:44}{interval([x[part][name] for x in found])}")
    print("\nextrapolated minus originals, by seed")
    for name in found[0]["originals"]:
        print(f"  {name:44}{interval([x['extrapolated'][name] - x['originals'][name] for x in found])}")


if __name__ == "__main__":
    main()
