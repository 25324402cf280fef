"""The report counts what it is given and shows it without trusting it."""

import gc
import html
import re
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from scenewright.evaluation.report import write_report
from scenewright.evaluation.report.page import failure_groups
from scenewright.evaluation.report.statistics import kind
from scenewright.layout import EncodedImage, Layout, Sample


def test_reasons_are_grouped_by_kind_and_the_largest_group_comes_first(failures):
    assert failure_groups({}) == []
    groups = failure_groups({**failures, "z": "error:", "w": "bomb"}, most=1)
    assert [(g.reason, g.count, g.hidden) for g in groups] == [
        ("bomb", 2, 1),
        ("cannot read …", 2, 1),
        ("no reason was given", 1, 0),
    ]
    assert groups[0].rows == (("w", ""),)
    assert groups[1].rows == (("x/gone", "cannot read 'x/gone.jpg'"),)
    assert kind("box 3 of\n'a b'  is 0.5 wide") == "box … of … is … wide"


def test_no_samples_give_a_page_that_says_so(report):
    page = report([])
    assert "There is no sample in these shards." in page
    assert "<svg" not in page


def test_equal_input_gives_equal_bytes(report, some_samples, failures):
    first = report(some_samples(), "first.html", failures=failures)
    again = report(list(some_samples()), "again.html", failures=dict(reversed(failures.items())))
    assert first == again


def test_the_page_shows_totals_failures_warnings_and_provenance(report, some_samples, failures):
    samples = [*some_samples(), Sample("streamed", error="it failed on the way")]
    provenance = {"config": {"batch_size": 8, "plugins": [{"name": "Superpixels"}]}, "versions": {"torch": None}}
    page = report(samples, failures=failures, provenance=provenance)
    totals = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.partition("</header>")[0])
    assert totals == [
        ("images", "9"),
        ("regions", "11"),
        ("ok", "4"),
        ("empty", "1"),
        ("error", "4"),
        ("with warnings", "1"),
    ]
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for expected in (
        "cannot read 'x/lost.jpg'",
        "it failed on the way",
        "… boxes were dropped",
        "Superpixels",
        "batch_size",
    ):
        assert expected in text, expected


def test_what_filters_dropped_is_counted_by_reason(report, some_samples):
    box = Layout(torch.tensor([[0.0, 0.0, 0.1, 0.1]]), ["dot"])
    sample = replace(next(iter(some_samples())), dropped=box, reasons=["area 0.01 is below 0.02"])
    page = report([sample], rejected={"b": "dropped: blur 3.1 is below 20"})
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    assert "area … is below …" in text and "blur … is below …" in text
    assert re.findall(r"<dt>dropped</dt><dd>([^<]*)</dd>", page) == ["1"]


def test_nothing_in_a_sample_can_become_markup(report, pixels):
    evil = """<script>alert('x')</script><img src=x onerror="alert(1)">&amp;'"-->]]>{{ 7 * 7 }}$\\frac$"""
    sample = Sample(
        key=f"key {evil}",
        source=EncodedImage.from_image(pixels(), name=f"name {evil}"),
        caption=f"caption {evil}",
        tags=[f"tag {evil}"],
        layout=Layout(torch.tensor([[0.1, 0.1, 0.5, 0.5]]), [f"label {evil}"], [f"rich {evil}"]),
        warnings=[f"warning {evil}"],
    )
    page = report(
        [sample],
        title=f"title {evil}",
        failures={f"failing {evil}": f"error: {evil}"},
        provenance={f"name {evil}": [f"value {evil}"]},
    )
    assert page.count("<script") == 1 == page.count("</script>")
    assert "<img src=x" not in page and 'onerror="' not in page
    assert "{{ 7 * 7 }}" in page  # a template is text, too
    assert html.unescape(page).count(evil) >= 9


def test_names_that_are_no_unicode_can_be_written(report, pixels, layout):
    sample = Sample.from_image("photo \udcff \x00", pixels(), layout=layout(["猫", "\udcff"], False))
    assert "photo \\udcff" in report([sample])


def test_the_page_names_no_other_address(report, some_samples, failures):
    page = report(some_samples(), failures=failures)
    assert not re.search(r"(?:https?:|file:|ftp:)?//[\w.-]+\.\w", re.sub(r"base64,[^\"]*", "", page))
    sources = re.findall(r"\b(?:src|href|xlink:href)=\"([^\"]{0,12})", page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)


def test_samples_are_read_once_and_not_kept(report, pixels, layout):
    alive: list[Any] = []

    def stream() -> Iterator[Sample]:
        for i in range(60):
            sample = Sample.from_image(f"{i:03}", pixels(i), layout=layout(["cup"], False))
            alive.append(weakref.ref(sample))
            yield sample
            del sample
            assert sum(ref() is not None for ref in alive) <= 2

    page = report(iter(stream()), max_pictures=5)
    gc.collect()
    assert len(alive) == 60 and not any(ref() for ref in alive)
    assert page.count("<article") == 5 and ">60<" in page


def test_only_what_is_shown_is_decoded(report, pixels):
    decoded: list[int] = []

    class Watched(EncodedImage):
        @property
        def image(self) -> Any:
            decoded.append(1)
            return super().image

    def stream(keys: range) -> Iterator[Sample]:
        for i in keys:
            yield Sample(f"{i:03}", Watched.from_image(pixels(i)))

    report(stream(range(120)), max_pictures=0)
    assert not decoded
    report(stream(range(120)), max_pictures=4)
    assert 4 <= len(decoded) <= 36  # 4 (1 + ln(120 / 4)) = 18 are expected


def test_which_pictures_are_shown_depends_on_keys_and_seed_alone(report, pixels):
    def keys(numbers: Any, seed: int) -> list[str]:
        samples = (Sample.from_image(f"{i:03}", pixels(i)) for i in numbers)
        return re.findall(r'data-key="([^"]*)"', report(samples, max_pictures=6, seed=seed))

    chosen = keys(range(40), 0)
    assert len(chosen) == 6 and chosen == sorted(chosen)
    assert keys(reversed(range(40)), 0) == chosen != keys(range(40), 1)


@pytest.mark.parametrize("options", [{"max_pictures": -1}, {"thumbnail_size": 0}])
def test_impossible_numbers_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="max_pictures must be 0 or more and thumbnail_size 1 or more"):
        write_report([], tmp_path / "report.html", title="", **options)


def test_a_report_that_breaks_off_leaves_the_old_one(tmp_path, report, pixels):
    def stream() -> Iterator[Sample]:
        yield Sample.from_image("a", pixels())
        raise RuntimeError("the disk is gone")

    before = report([])
    with pytest.raises(RuntimeError, match="the disk is gone"):
        write_report(stream(), tmp_path / "report.html", title="new")
    assert [x.read_text() for x in tmp_path.iterdir()] == [before]


def test_the_configuration_of_the_report_leaves_no_folders_behind(config):
    settings = config("report", "shards=somewhere")
    assert (settings.shards, settings.output, settings.max_pictures, settings.seed) == ("somewhere", None, 200, 0)
