"""What is in a folder of shards, and whether it is whole.

``NNNNN.tar`` holds the samples; ``NNNNN.json``, its manifest, is written last, so
its being there means that the shard is whole. ``run.json`` says what made them.
"""

import fcntl
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from scenewright.datasets.tars import index_tar

#: The ways in which a sample can end.
STATUSES = ("ok", "empty", "error", "dropped")


@dataclass(frozen=True)
class Manifest:
    """What one shard holds.

    Attributes:
        number: the shard's; its tar is ``NNNNN.tar``.
        length: the tar's, in bytes.
        sha256: the tar's digest.
        samples: every input key in order, and its status: ``ok``, ``empty``, ``error: why`` or
            ``dropped: why`` (by a filter). Those with an error and those dropped are not in the tar.
        warnings: keys whose sample was mended, and how often.
        run: what made it: configuration, plugins, source, package versions.
    """

    number: int
    length: int
    sha256: str
    samples: Mapping[str, str]
    warnings: Mapping[str, int] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many samples ended in each way; they add up to the input."""
        found = Counter(status.split(":")[0] for status in self.samples.values())
        return {kind: found[kind] for kind in STATUSES}

    @property
    def keys(self) -> list[str]:
        """The keys in the tar, in order."""
        return [key for key, status in self.samples.items() if not status.startswith(("error", "dropped"))]

    def to_json(self) -> bytes:
        """One line per sample, for people and for ``grep``."""
        fields = asdict(self)
        samples = fields.pop("samples")
        head = {"tar": f"{self.number:05d}.tar", "counts": self.counts, **fields}
        # sorted: a run read back from its record has its fields in another order
        top = json.dumps(head, ensure_ascii=False, indent=1, sort_keys=True)
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in samples.items())
        return f'{top[:-2]},\n "samples": {{\n{lines}\n }}\n}}\n'.encode("utf-8", errors="backslashreplace")

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is no manifest.
        """
        try:
            fields = json.loads(data)
            return cls(**{name: fields[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"no manifest: {type(error).__name__}: {error}") from None


def manifests(directory: str | Path) -> list[Manifest]:
    """The manifests of a folder or URL, in the order of their numbers.

    Raises:
        FileNotFoundError: there is no whole shard.
    """
    files, root = url_to_fs(str(directory))
    names = sorted(x for x in (files.ls(root, detail=False) if files.isdir(root) else []) if _number_of(x, "json") >= 0)
    if not names:
        raise FileNotFoundError(f"no whole shards in {str(directory)!r}; entrypoints/annotate.py makes them")
    found = []
    for name in names:
        with suppress(FileNotFoundError):  # a process that redoes a shard takes its manifest away first
            found.append(Manifest.from_json(files.cat_file(name)))
    return sorted(found, key=lambda m: m.number)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a folder of shards.

    Attributes:
        number: the shard's; −1 where it is no shard's.
        file: its name.
        what: is wrong with it, for people.
        damaged: whether redoing the shard would mend it; a whole shard of another run is none to redo.
    """

    number: int
    file: str
    what: str
    damaged: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(directory: str | Path) -> Iterator[Fault]:
    """Compare every shard with its manifest, byte by byte.

    Finds a tar that is cut off or changed, a missing tar or manifest, keys that
    disagree with the manifest or occur twice anywhere, shards that are not there yet,
    shards of different runs, and temporary files that a killed process left.

    Raises:
        FileNotFoundError: there is no such folder, or nothing of ours in it.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(directory)!r}")
    tars = {_number_of(x.name, "tar"): x for x in folder.glob("*.tar")}
    sheets = {_number_of(x.name, "json"): x for x in folder.glob("*.json")}
    run = recorded_run(folder) or {}
    numbers = sorted((tars.keys() | sheets.keys() | set(range(run.get("source", {}).get("shards", 0)))) - {-1})
    if not numbers:
        raise FileNotFoundError(f"no shards in {str(directory)!r}; entrypoints/annotate.py makes them")
    if not (folder / "run.json").exists():
        yield Fault(-1, "run.json", "missing: the manifests say what made the shards")
    seen: dict[str, int] = {}
    for number in numbers:
        name = f"{number:05d}.tar"
        if number not in tars and number not in sheets:
            yield Fault(number, name, "missing: the run has not come to it yet, or it was removed")
        elif number not in sheets:
            yield Fault(number, name, "no manifest: the shard was never finished")
        elif number not in tars:
            yield Fault(number, name, "no tar, only a manifest")
        else:
            yield from _verify_shard(number, tars[number], sheets[number], seen, run)
    for path in left_behind(folder):
        yield Fault(-1, path.name, "left by a process that was killed")


def _verify_shard(number: int, tar: Path, sheet: Path, seen: dict[str, int], run: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        manifest = Manifest.from_json(sheet.read_bytes())
    except ValueError as error:
        yield Fault(number, sheet.name, str(error))
        return
    if manifest.number != number:
        yield Fault(number, sheet.name, f"it is the manifest of {manifest.number:05d}.tar")
        return
    size = tar.stat().st_size
    if size != manifest.length:
        yield Fault(number, tar.name, f"{size} bytes, its manifest says {manifest.length}")
        return
    if (digest := _sha256(tar)) != manifest.sha256:
        yield Fault(
            number, tar.name, f"its bytes changed: sha256 {digest[:12]}…, its manifest says {manifest.sha256[:12]}…"
        )
        return
    if (keys := [e.key for e in index_tar(str(tar))]) != manifest.keys:
        odd = sorted(set(keys) ^ set(manifest.keys)) or keys
        yield Fault(number, tar.name, f"its keys are not its manifest's, first {odd[0]!r}")
    for key in manifest.samples:
        if seen.setdefault(key, number) != number:
            yield Fault(number, tar.name, f"the key {key!r} is in {seen[key]:05d}.tar too")
    if identity(manifest.run) != identity(run):
        differing = differences(json.loads(identity(manifest.run)), json.loads(identity(run)))
        yield Fault(
            number, sheet.name, f"made with other settings than run.json: {'; '.join(differing)}", damaged=False
        )


def stats(directory: str | Path) -> dict[str, Any]:
    """Totals over all manifests: shards, bytes, statuses, warnings, and the errors by reason."""
    totals, reasons, size, warnings = Counter[str](), Counter[str](), 0, 0
    found = manifests(directory)
    for manifest in found:
        totals.update(manifest.counts)
        size += manifest.length
        warnings += sum(manifest.warnings.values())
        reasons.update(s.removeprefix("error: ") for s in manifest.samples.values() if s not in ("ok", "empty"))
    return {
        "shards": len(found),
        "bytes": size,
        "images": sum(totals.values()),
        **{kind: totals[kind] for kind in STATUSES},
        "warnings": warnings,
        "reasons": dict(reasons.most_common()),
    }


def identity(run: Mapping[str, Any]) -> str:
    """What must be equal for shards to belong together: all but the package versions."""
    return json.dumps({k: v for k, v in run.items() if k != "packages"}, sort_keys=True)


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where two nested records differ, as ``field: theirs → ours`` lines."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = sorted(ours.keys() | theirs.keys())
        deeper = [differences(ours.get(n), theirs.get(n), f"{at}.{n}" if at else n) for n in names]
        return [line for lines in deeper for line in lines]
    return [] if ours == theirs else [f"{at}: was {json.dumps(theirs)}, is {json.dumps(ours)}"]


def hold(file: IO[bytes]) -> None:
    """Hold a temporary file for as long as it is open: what nobody holds was left by a process that is no more."""
    with suppress(OSError):  # a file system without locks: then nothing is ever taken for left behind
        fcntl.flock(file, fcntl.LOCK_EX)


def left_behind(directory: Path) -> Iterator[Path]:
    """The temporary files that no living process holds."""
    for path in sorted(directory.glob(".*.tmp")):
        with suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path


def recorded_run(folder: Path) -> dict[str, Any] | None:
    """What made a folder's shards, by ``run.json`` or else the first manifest; None where there is neither."""
    for path, part in [(folder / "run.json", ""), *((x, "run") for x in sorted(folder.glob("[0-9]*.json")))]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_bytes())
            return record[part] if part else record
    return None


def _number_of(name: str, kind: str) -> int:
    """The number of ``NNNNN.kind``; −1 for any other file."""
    match = re.fullmatch(rf"(?:.*/)?(\d{{5,}})\.{kind}", name)
    return int(match[1]) if match else -1


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
