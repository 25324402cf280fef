"""Images from a list of URLs, which img2dataset downloads: this only says how, and reads what came."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from scenewright.datasets.extrapolated.keywords import keyword_of, same, spoken
from scenewright.datasets.extrapolated.records import Gauge, Pool, Query
from scenewright.datasets.files import fingerprint_of, join, read_bytes
from scenewright.datasets.img2dataset import Img2dataset

_COLUMNS = ["keyword", "url"]


class URLList:
    """The images of a CSV ``keyword,url``, once img2dataset has downloaded them.

    Nothing is downloaded here. Where the tars are missing, the error holds the command that makes them.

    Args:
        urls: the CSV, with a header; other columns are left alone. See ``write_url_list``.
        shards: the folder that img2dataset writes its tars to, or has written.
        image_size: pixels of the shorter side that img2dataset is to leave.

    Raises:
        ValueError: on use, if the CSV lacks a column or has no row.
        FileNotFoundError: on use, if there is no CSV, or no tar.

    Source: https://github.com/rom1504/img2dataset (MIT), its input format ``csv``.
    """

    def __init__(self, urls: str, shards: str, image_size: int = 512) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        self.urls, self.shards, self.image_size = urls, shards, image_size

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(["url_list", read_bytes(self.urls), self.dataset.fingerprint])

    @property
    def command(self) -> str:
        """What downloads the list, for a shell; in a Python environment that has img2dataset."""
        options = {
            "url_list": self.urls,
            "input_format": "csv",
            "url_col": "url",
            "save_additional_columns": '["keyword"]',
            "output_format": "webdataset",
            "output_folder": self.shards,
            "resize_mode": "keep_ratio",
            "resize_only_if_bigger": "True",
            "image_size": str(self.image_size),
        }
        return shlex.join(["img2dataset", *(x for name, value in options.items() for x in (f"--{name}", value))])

    def retrieve(self, queries: Sequence[Query], gauge: Gauge) -> Pool:
        """All that was downloaded; the notes say how much of the list that is, by keyword."""
        listed = read_url_list(self.urls)
        keywords = [keyword_of(sample, "keyword") for sample in self.dataset]
        asked: dict[str, int] = {}
        for keyword, _ in listed:
            asked[same(keyword)] = asked.get(same(keyword), 0) + 1
        came = [same(x) for x in keywords]
        missing = sorted(x for x in asked if x not in set(came))
        notes = {"urls": len(listed), "images": len(keywords), "keywords without any image": missing}
        return Pool(list(range(len(keywords))), keywords, notes)

    @cached_property
    def dataset(self) -> Img2dataset:
        """What was downloaded."""
        dataset = Img2dataset(join(self.shards, "*.tar"))
        try:
            len(dataset)
        except FileNotFoundError:
            raise FileNotFoundError(f"no tar in {self.shards!r}; this downloads the list: {self.command}") from None
        return dataset


def read_url_list(path: str) -> list[tuple[str, str]]:
    """The keywords and URLs of a CSV, in order.

    Raises:
        ValueError: it lacks a column, has an incomplete row or none.
    """
    rows = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""))
    missing = [x for x in _COLUMNS if x not in (rows.fieldnames or [])]
    if missing:
        raise ValueError(f"{path} must have the columns keyword and url, and lacks {' and '.join(missing)}")
    found = [(spoken(row["keyword"] or ""), (row["url"] or "").strip()) for row in rows]
    broken = [i for i, (keyword, url) in enumerate(found) if not keyword or not url]
    if broken or not found:
        raise ValueError(f"{path}: row {broken[0] + 1} lacks a keyword or a URL" if broken else f"{path} has no row")
    return found


def write_url_list(path: str | Path, urls: Iterable[tuple[str, str]]) -> None:
    """Write a CSV of pairs of keyword and URL, each pair once."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(dict.fromkeys(urls))
