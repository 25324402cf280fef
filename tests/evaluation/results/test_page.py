"""The page of a run shows its numbers, says what they do not cover, and trusts nothing that it is given."""

import base64
import html
import io
import math
import re

import pytest
import torch
from PIL import Image as PILImage

from scenewright.evaluation.results.page import write_results
from scenewright.layout import Layout


def text_of(page: str) -> str:
    return " ".join(
        html.unescape(re.sub(r"<(style|script).*?</\1>|<wbr>|<[^>]*>", _blank, page, flags=re.DOTALL)).split()
    )


def _blank(found: re.Match) -> str:
    return "" if found[0] == "<wbr>" else " "


def row_of(page: str, name: str) -> str:
    rows = re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
    return next(x for x in map(text_of, rows) if x.startswith(f"{name} "))


def cards_of(page: str, group: str) -> list[str]:
    """Keys of the cards that are shown under a heading before anything is selected."""
    part = page.partition(f'id="{group}">')[2].partition("<h3" if group == "best" else 'id="store"')[0]
    return re.findall(r'<article class="card" data-card="\d+" aria-label="([^"]*)"', part)


def test_a_run_without_anything_gives_a_page_that_says_so(tmp_path):
    path = write_results(tmp_path / "x.html", title="t", results={}, images=[], objects=[], picture=lambda *_: None)
    page = path.read_text()
    assert "Nothing was measured." in page and "<article" not in page and "<svg" not in page


def test_numbers_stand_with_interval_counts_and_coverage(small_run, tmp_path):
    page = small_run().write(tmp_path / "report.html")
    assert row_of(page, "right") == "right ↑ 0.63 0 1 0.55 – 0.71 7 16 100 %"
    assert row_of(page, "overall") == "overall ↓ 24.0 0 50 22.5 – 25.5 9 – 100 %"
    assert row_of(page, "right/AP50") == "right/AP50 ↑ – – 0 – 75 % 12 of 16 scores"
    assert re.findall(r'class="(low|whole)"', page) == ["whole", "low", "whole"]
    # dot and whisker of 0.63 (0.55 – 0.71), on an axis from 0 to 1
    assert 'style="left: 55.00%; width: 16.00%"></i><b style="left: 63.00%"' in page


def test_what_is_missing_or_not_scored_is_named_with_its_reason(small_run, tmp_path):
    text = text_of(small_run().write(tmp_path / "report.html"))
    for expected in (
        "of 10 images missing 1",
        "Images that are missing key why scene-9 there is no file scene-9.png",
        "Not scored by right key why scene-3 region 2 has no pixel",
    ):
        assert expected in text, expected
    whole = small_run()
    whole.results |= {"coverage": {"expected": 9, "found": 9, "missing": {}}, "unscored": {}}
    assert "Not scored" not in text_of(whole.write(tmp_path / "whole.html"))


def test_a_long_list_of_what_is_missing_is_cut_and_counted(small_run, tmp_path):
    run = small_run()
    run.results["unscored"] = {"right": [[f"key-{i:04}", "why"] for i in range(507)]}
    text = text_of(run.write(tmp_path / "report.html"))
    assert "key-0499" in text and "key-0500" not in text and "and 7 lines more" in text


def test_settings_and_fingerprints_are_there_folded_away(small_run, tmp_path):
    page = small_run().write(tmp_path / "report.html")
    folded = text_of("".join(re.findall(r"<details>.*?</details>", page, flags=re.DOTALL)))
    assert "guidance_scale 7.125" in folded and "checkpoint abc" in folded and "torch 2.99" in folded
    assert "right/AP50, overall" in folded  # measured in the same way, said once


def test_the_best_and_the_worst_images_come_first_in_the_metrics_own_direction(small_run, tmp_path):
    run = small_run()
    run.results["metrics"] = {"overall": run.results["metrics"]["overall"]}  # lower is better
    page = run.write(tmp_path / "lower.html", count=5)
    assert cards_of(page, "best") == ["scene-0", "scene-1", "scene-2"]
    assert cards_of(page, "worst") == ["scene-8", "scene-7"]
    run.results["metrics"]["overall"]["higher_is_better"] = True
    page = run.write(tmp_path / "higher.html", count=5)
    assert (cards_of(page, "best"), cards_of(page, "worst")) == (
        ["scene-8", "scene-7", "scene-6"],
        ["scene-0", "scene-1"],
    )


def test_no_image_is_best_and_worst_and_each_is_asked_for_once(small_run, tmp_path):
    run = small_run()
    page = run.write(tmp_path / "report.html", count=24)
    best, worst = cards_of(page, "best"), cards_of(page, "worst")
    assert len(best) == 4 and len(worst) == 3 and not set(best) & set(worst)  # two of nine have no score
    assert len(run.asked) == len(set(run.asked)) == 9
    assert page.count("<article") == 9


def test_a_card_has_picture_boxes_captions_and_scores(small_run, tmp_path):
    page = small_run().write(tmp_path / "report.html")
    card = next(x for x in re.findall(r"<article.*?</article>", page, flags=re.DOTALL) if 'label="scene-2"' in x)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', card)
    assert data
    pixels = PILImage.open(io.BytesIO(base64.b64decode(data[1])))
    assert pixels.size == (32, 24) and pixels.getpixel((3, 3)) == (40, 40, 40)
    assert "left: 12.50%; top: 12.50%; width: 25.00%; height: 50.00%" in card
    text = text_of(card)
    assert "scene number 2" in text and "thing 1 a thing 1" in text and "images/scene-2.png" in text
    assert "right 0.50 overall 22.00" in text
    assert re.findall(r'class="score" data-metric="0">(\w+)<', card) == ["1", "0"]


def test_large_pictures_are_made_smaller_and_kept_as_jpeg(small_run, tmp_path):
    run = small_run()
    large = torch.zeros(3, 400, 1000, dtype=torch.uint8)
    page = run.write(tmp_path / "report.html", picture=lambda key, _: (large, run.layouts[key], "", ""))
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(data) == 9 and PILImage.open(io.BytesIO(base64.b64decode(data[0]))).size == (640, 256)


def test_an_image_that_is_gone_leaves_its_place_empty(small_run, tmp_path):
    page = small_run().write(tmp_path / "report.html", picture=lambda key, index: None)
    assert page.count("no picture") == 9 and "scene number 3" in text_of(page)


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_scores_that_are_none_everywhere_leave_a_page_with_pictures_and_without_plots(small_run, tmp_path, nothing):
    run = small_run()
    for row in run.images + run.objects:
        row |= {name: nothing for name in ("right", "overall") if name in row}
    for entry in run.results["metrics"].values():
        entry |= {"value": nothing, "interval": [nothing, nothing]}
    page = run.write(tmp_path / "report.html", count=3)
    assert page.count("<article") == 3 and "<svg" not in page and "<select" not in page
    assert "nan" not in text_of(page).lower() and row_of(page, "right") == "right ↑ – – 7 16 100 %"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_or_none_are_no_trouble(small_run, tmp_path, count):
    run = small_run()
    run.images, run.objects = run.images[2 : 2 + count], [x for x in run.objects if x["key"] == "scene-2" and count]
    page = run.write(tmp_path / "report.html")
    assert page.count("<article") == count
    assert len(cards_of(page, "best")) == min(count, 1) and len(cards_of(page, "worst")) == (count == 2)


def test_layouts_without_regions_are_shown_with_the_scores_of_images(small_run, tmp_path):
    run = small_run()
    run.objects = []
    run.results["metrics"] = {"overall": run.results["metrics"]["overall"]}
    run.layouts = dict.fromkeys(run.layouts, Layout.empty())
    page = run.write(tmp_path / "report.html")
    assert page.count("<article") == 9 and page.count('<svg class="plot') == 1  # against the count, which is 0


def test_no_pictures_can_be_asked_for_and_fewer_are_refused(small_run, tmp_path):
    run = small_run()
    assert "<article" not in run.write(tmp_path / "report.html", count=0) and not run.asked
    with pytest.raises(ValueError, match="count must be 0 or more, got -1"):
        run.write(tmp_path / "none.html", count=-1)
    assert not (tmp_path / "none.html").exists()


def test_equal_arguments_give_equal_bytes(small_run, tmp_path):
    assert small_run().write(tmp_path / "a.html") == small_run().write(tmp_path / "b.html")


def test_nothing_that_it_is_given_can_become_markup(small_run, tmp_path):
    evil = """<script>alert('x')</script><img src=x onerror="alert(1)">&amp;'"-->]]>{{ 7 * 7 }}$\\frac$"""
    run = small_run()
    name = f"right {evil}"
    run.results["metrics"] = {name: run.entry(0.5, [0.4, 0.6], fingerprint={f"key {evil}": [f"value {evil}"]})}
    run.results["coverage"]["missing"] = {f"missing {evil}": f"why {evil}"}
    run.results["unscored"] = {f"metric {evil}": [[f"unscored {evil}", evil]]}
    run.results |= {"made_by": {evil: evil}, "versions": {evil: None}}
    for row in run.images:
        row[name] = row.pop("right")
    layout = Layout(torch.tensor([[0.1, 0.1, 0.5, 0.5]]), [f"label {evil}"], [f"rich {evil}"])
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    picture = lambda key, _: (image, layout, f"caption {evil}", f"file {evil}")  # noqa: E731
    page = run.write(tmp_path / "report.html", title=f"title {evil}", picture=picture)
    assert page.count("<script") == 1 == page.count("</script>")
    assert "<img src=x" not in page and 'onerror="' not in page and "{{ 7 * 7 }}" in page
    assert html.unescape(page).count(evil) >= 15


def test_the_page_names_no_other_address(small_run, tmp_path):
    page = re.sub(r"base64,[^\"]*", "", small_run().write(tmp_path / "report.html"))
    assert not re.search(r"(?:https?:|file:|ftp:)?//[\w.-]+\.\w", page)
    assert all(x.startswith(("data:", "#")) for x in re.findall(r"\b(?:src|href|xlink:href)=\"([^\"]*)", page))


def test_names_that_are_no_unicode_can_be_written(small_run, tmp_path):
    run = small_run()
    for row in run.images:
        row["key"] += "\udcff"
    page = run.write(tmp_path / "report.html", picture=lambda key, index: None)
    assert "scene-1\\udcff" in page
