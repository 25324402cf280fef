"""Samples out into a format, and corrections back over them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from scenewright.datasets.files import fingerprint_of
from scenewright.datasets.formats.folder import mark, new_folder
from scenewright.datasets.formats.overlay import Correction, Tally, overlay
from scenewright.datasets.shards import Shards, ShardWriter, manifests, write_shards
from scenewright.layout import Sample


@runtime_checkable
class Format(Protocol):
    """Writes samples as others want them."""

    def write(self, samples: Iterable[Sample], folder: Path) -> Mapping[str, int]:
        """Write samples into an empty folder; returns what there is to tell, each with its number."""
        ...


@runtime_checkable
class Correctable(Protocol):
    """Reads what people made of what it wrote."""

    def corrections(self, source: str) -> dict[str, Correction]:
        """The corrected images, by key."""
        ...


def export(
    samples: Iterable[Sample],
    kind: Format,
    output: str | Path,
    *,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write samples in a format, but those that failed or that a filter dropped; the folder appears when it is whole.

    Args:
        overwrite: replace what an earlier export wrote there.
        about: what to note in the folder.

    Returns:
        ``images``, ``regions``, and what the format tells.

    Raises:
        FileExistsError: ``output`` is not empty.
        ValueError: a sample cannot be written in this format.
    """
    counts = {"images": 0, "regions": 0}

    def counted() -> Iterator[Sample]:
        for sample in samples:
            if not sample.error and not sample.rejected:
                counts["images"] += 1
                counts["regions"] += len(sample.layout)
                yield sample

    with new_folder(output, overwrite) as folder:
        told = kind.write(counted(), folder)
        mark(folder, {**(about or {}), "counts": {**counts, **told}})
    return {**counts, **told}


def lay_over(
    samples: Shards,
    kind: Correctable,
    source: str,
    output: str | Path,
    missing: str = "keep",
    samples_per_shard: int = 1000,
    on_sample: Callable[[Sample], None] | None = None,
) -> Tally:
    """Write shards without images: the samples' records with the corrections in them.

    Args:
        source: the corrected file or folder.
        missing: what becomes of samples that ``source`` does not speak of.
        on_sample: called with each sample as it is written.

    Raises:
        ValueError: ``source`` speaks of images that the shards do not have, or cannot be read.
    """
    if missing not in ("keep", "empty"):
        raise ValueError(f"missing must be keep or empty, got {missing!r}")
    if Path(output).resolve() == Path(samples.directory).resolve():
        raise ValueError(f"output must be another folder than the shards', got {output}")
    corrections, tally = kind.corrections(source), Tally()
    _check_keys(corrections, samples, source)
    run = {
        "corrections": {"format": type(kind).__name__, "sha256": _digest(source), "missing": missing},
        "samples_per_shard": samples_per_shard,
        "source": {
            "samples": len(samples),
            "fingerprint": samples.fingerprint,
            "shards": math.ceil(len(samples) / samples_per_shard),
        },
    }
    with ShardWriter(output, run, images="none") as writer:
        write_shards(
            samples,
            writer,
            lambda some: overlay(some, corrections, missing, tally),
            samples_per_shard=samples_per_shard,
            on_sample=on_sample,
        )
    return tally


def _check_keys(corrections: Mapping[str, Correction], samples: Shards, source: str) -> None:
    known = {key for manifest in manifests(samples.directory) for key in manifest.keys}
    unknown = sorted(corrections.keys() - known)
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(
            f"{len(unknown)} of {len(corrections)} images in {source} are not in {samples.directory}: {shown}"
        )


def _digest(source: str) -> str:
    """Of a file, or of all text files of a folder."""
    path = Path(source)
    files = [x for x in sorted(path.rglob("*")) if x.suffix in (".json", ".txt", ".yaml")] if path.is_dir() else [path]
    return fingerprint_of(x.read_bytes() for x in files if x.is_file())
