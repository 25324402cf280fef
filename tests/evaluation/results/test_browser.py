"""The page of a run works in a browser, wide and narrow."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def written(small_run, tmp_path) -> Path:
    small_run().write(tmp_path / "ein Bericht.html", count=4)
    return tmp_path / "ein Bericht.html"


def wait(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.02)
    return claim()


SHOWN = "return [...document.querySelectorAll('#best .card, #worst .card')].map(x => x.ariaLabel)"
VISIBLE = "return [...document.querySelectorAll('{}')].filter(x => x.offsetParent || x.getClientRects().length)"


@pytest.mark.parametrize("width", [1440, 390])
def test_every_picture_is_visible_and_nothing_sticks_out(page, written, width):
    run = page(written, width)
    run("document.querySelectorAll('.card').forEach(x => { x.style.contentVisibility = 'visible' })")
    run("document.querySelectorAll('img').forEach(x => { x.loading = 'eager' })")
    shown = VISIBLE.format("img") + ".every(x => x.complete && x.naturalWidth > 0 && x.width > 100)"
    assert wait(lambda: run(shown)) and run(VISIBLE.format("img") + ".length") == 4
    assert run(VISIBLE.format("svg.plot") + ".length") == 4
    run("document.querySelectorAll('details').forEach(x => { x.open = true })")
    assert run("return document.documentElement.scrollWidth") <= width


def test_another_metric_shows_other_images_scores_and_plots(page, written):
    run = page(written)
    before = run(SHOWN)
    assert len(before) == 4
    run("const s = document.querySelector('#metric'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    assert run(SHOWN) == ["scene-0", "scene-1", "scene-8", "scene-7"]
    assert run(VISIBLE.format(".big") + ".map(x => x.textContent)") == ["20.00", "21.00", "28.00", "27.00"]
    assert run(VISIBLE.format("#trends h3") + ".map(x => x.textContent)") == ["overall ↓"]
    run("const s = document.querySelector('#metric'); s.value = '0'; s.dispatchEvent(new Event('change'))")
    assert run(SHOWN) == before


def test_boxes_lie_where_they_are_and_can_be_hidden(page, written):
    run = page(written)
    run("document.querySelectorAll('.card').forEach(x => { x.style.contentVisibility = 'visible' })")
    place = """
      const card = [...document.querySelectorAll('#best .card, #worst .card')].find(x => x.querySelector('.boxes i'));
      const image = card.querySelector('img').getBoundingClientRect();
      const box = card.querySelector('.boxes i').getBoundingClientRect();
      return [(box.left - image.left) / image.width, (box.top - image.top) / image.height,
              box.width / image.width, box.height / image.height];
    """
    assert run(place) == pytest.approx([0, 0, 0.25, 0.5], abs=0.01)
    run("document.querySelector('#toggle').click()")
    assert wait(lambda: run("return getComputedStyle(document.querySelector('#best .overlay')).opacity") == "0")
    assert run("return document.querySelector('#toggle').getAttribute('aria-pressed')") == "false"


def test_a_line_of_the_list_shows_its_box_alone(page, written):
    run = page(written)
    run("document.querySelector('#best .region').focus()")
    spot = "return document.querySelector('#best .region').closest('.card').querySelector('.spot').hidden"
    assert run(spot) is False
    run("document.activeElement.blur()")
    assert run(spot) is True


def test_a_page_without_scores_opens_without_errors(page, small_run, tmp_path):
    run = small_run()
    run.results, run.images, run.objects = {}, [], []
    run.write(tmp_path / "empty.html")
    assert page(tmp_path / "empty.html")("return document.querySelector('h1').textContent") == "a run"
