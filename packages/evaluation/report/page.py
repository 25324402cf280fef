"""The page: samples stream by once, are counted, and a chosen few are shown."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenewright.evaluation import html_file
from scenewright.evaluation.report import plots
from scenewright.evaluation.report.pictures import Card, card
from scenewright.evaluation.report.statistics import Statistics, kind, mean, median
from scenewright.layout import Sample

_FOLDER = Path(__file__).parent

#: Keys listed under one reason; a page with half a million rows helps nobody.
MOST_KEYS = 500

#: Failing keys that also get a small card among the pictures, so that the eye meets them.
MOST_FAILED_CARDS = 24

#: Labels that get a button of their own.
MOST_LABELS = 14


@dataclass(frozen=True)
class FailureGroup:
    """The failing keys of one kind of reason, sorted; ``hidden`` of them are counted only."""

    reason: str
    rows: tuple[tuple[str, str], ...]
    hidden: int

    @property
    def count(self) -> int:
        """All keys of the group."""
        return len(self.rows) + self.hidden


def write_report(
    samples: Iterable[Sample],
    path: str | os.PathLike[str],
    *,
    title: str,
    failures: Mapping[str, str] | None = None,
    rejected: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    max_pictures: int = 200,
    thumbnail_size: int = 640,
    seed: int = 0,
) -> Path:
    """Write one HTML file that shows samples, counts them, and lists what failed and why.

    The file needs nothing beside it, and equal arguments give equal bytes. Memory does
    not grow with the number of samples, only with ``max_pictures`` and ``failures``.

    Args:
        samples: read once, in any order; of those not shown, no pixel is decoded.
        path: of the HTML file; its folder is made if it is missing.
        title: the heading.
        failures: the reason for each failing key, with or without a leading ``error: ``.
        rejected: why filters dropped an image, for each such key, with or without a leading ``dropped: ``.
        provenance: nested mappings of plain values: configuration, plugins, versions.
        max_pictures: this many samples at most are shown, chosen by ``seed`` and key alone.
        thumbnail_size: the longer side of a picture, in pixels.
        seed: another seed shows other samples.

    Returns:
        ``path``.

    Raises:
        ValueError: ``max_pictures`` is negative or ``thumbnail_size`` not positive.
    """
    if max_pictures < 0 or thumbnail_size < 1:
        raise ValueError(
            f"max_pictures must be 0 or more and thumbnail_size 1 or more, got {max_pictures} and {thumbnail_size}"
        )
    statistics, failed, chosen = Statistics(), dict(failures or {}), _Chosen(max_pictures, seed)
    for sample in samples:
        statistics.add(sample)
        if sample.error:
            failed[sample.key] = sample.error
        elif chosen.wants(sample.key):
            chosen.add(card(sample, thumbnail_size))
    statistics.statuses["error"] = len(failed)
    refused = {key: why.removeprefix("dropped:").strip() for key, why in (rejected or {}).items()}
    statistics.statuses["dropped"] = len(refused)
    statistics.rejected.update(kind(why) for why in refused.values())
    html = render(statistics, chosen.cards(), failure_groups(failed), title=title, provenance=provenance or {})
    return html_file.write(Path(path), html)


class _Chosen:
    """The cards whose keys have the smallest hashes: a fair draw that needs no count in advance."""

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._seed = most, seed
        self._heap: list[tuple[int, int, Card]] = []  # the largest hash on top, as its negative
        self._arrived = 0

    def wants(self, key: str) -> bool:
        """Whether a sample of this key would be shown, as things stand."""
        return self._most > 0 and (len(self._heap) < self._most or -self._hash(key) > self._heap[0][0])

    def add(self, shown: Card) -> None:
        self._arrived += 1
        entry = (-self._hash(shown.key), -self._arrived, shown)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def cards(self) -> list[Card]:
        return [x for _, _, x in sorted(self._heap, key=lambda entry: (entry[2].key, -entry[1]))]

    def _hash(self, key: str) -> int:
        text = f"{self._seed}:{key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def failure_groups(failures: Mapping[str, str], most: int = MOST_KEYS) -> list[FailureGroup]:
    """Failing keys by kind of reason, the largest group first; ``most`` keys are named in each."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for key, reason in sorted(failures.items()):
        reason = reason.removeprefix("error:").strip() or "no reason was given"
        kinds.setdefault(kind(reason), []).append((key, reason))
    groups = []
    for name, rows in kinds.items():
        if len({reason for _, reason in rows}) == 1:  # one reason word for word: said once, above its keys
            name, rows = rows[0][1], [(key, "") for key, _ in rows]
        groups.append(FailureGroup(name, tuple(rows[:most]), len(rows[most:])))
    return sorted(groups, key=lambda group: (-group.count, group.reason))


def render(
    statistics: Statistics,
    cards: list[Card],
    groups: list[FailureGroup],
    *,
    title: str,
    provenance: Mapping[str, Any],
) -> str:
    """The page as text."""
    shown = Counter(label for x in cards for label in {region.label for region in x.regions} if label)
    return html_file.render(
        _FOLDER / "page.html.j2",
        styles=[_FOLDER / "page.css"],
        script=_FOLDER / "page.js",
        title=title,
        statistics=statistics,
        facts=facts(statistics),
        plots=plots.all_plots(statistics),
        cards=cards,
        labels=sorted(shown.items(), key=lambda item: (-item[1], item[0]))[:MOST_LABELS],
        groups=groups,
        failed=[(key, why or x.reason) for x in groups for key, why in x.rows][:MOST_FAILED_CARDS],
        provenance=provenance,
    )


def facts(statistics: Statistics) -> dict[str, str]:
    """The numbers under each plot, in words, by the plot's name."""
    images, regions = statistics.image_captions, statistics.region_captions
    both = [(name, texts) for name, texts in (("images", images), ("regions", regions)) if texts.total]
    return {
        "objects": f"median {median(statistics.objects):g}, mean {mean(statistics.objects):.1f}, "
        f"at most {max(statistics.objects, default=0):,}",
        "boxes": f"mean {statistics.box_sizes.mean:.2f}",
        "shapes": f"geometric mean {2**statistics.box_shapes.mean:.2f} : 1",
        "fills": f"mean {statistics.fills.mean:.2f}",
        "centres": "strong where many boxes have their centre",
        "labels": f"{len(statistics.labels):,} different labels",
        "lengths": "; ".join(f"{name}: mean {mean(t.lengths):.1f} words" for name, t in both),
        "fog": "; ".join(f"{name}: mean {t.fog.mean:.1f}" for name, t in both),
        "scores": f"mean {statistics.scores.mean:.2f}",
        "aspects": "",
        "sides": "",
    }
