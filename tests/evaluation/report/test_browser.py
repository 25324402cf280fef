"""The report works as a page: nothing is broken, everything can be found, on a wide and on a narrow screen."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scenewright.evaluation.report import write_report

CHROMIUM, DRIVER = shutil.which("chromium") or "", shutil.which("chromedriver") or ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    off = "gpu quic background-networking component-update sync".split()
    for flag in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in off)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def written(tmp_path_factory, some_samples, failures) -> Path:
    path = tmp_path_factory.mktemp("report") / "ein Bericht.html"
    return write_report(some_samples(), path, title="A title", thumbnail_size=320, failures=failures)


@pytest.fixture
def page(browser, written) -> Iterator[Callable[..., Any]]:
    """``page("return …")`` runs a script in the opened report; at the end the console must be empty."""
    _resize(browser, 1440)
    browser.get(written.as_uri())
    yield browser.execute_script
    assert browser.get_log("browser") == []


def _resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser, duration=0).send_keys(*keys).perform()


def wait(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.02)
    return claim()


SHOWN = "return [...document.querySelectorAll('.gallery .card:not([hidden])')].map(x => x.dataset.key)"
ALL = ["a/many", "b/two", "c/nothing", "d/broken", "e/annotations", "x/gone", "x/lost", "y"]


@pytest.mark.parametrize("width", [1440, 390])
def test_every_picture_is_visible_and_nothing_sticks_out(browser, page, width):
    _resize(browser, width)
    page("document.querySelectorAll('.card').forEach(x => { x.style.contentVisibility = 'visible' })")
    page("document.querySelectorAll('img').forEach(x => { x.loading = 'eager' })")
    assert page("return document.querySelectorAll('img.picture').length") == 3
    assert page("return document.querySelectorAll('img.overlay').length") == 3
    assert wait(lambda: page("return [...document.images].every(x => x.complete && x.naturalWidth > 0 && x.width > 0)"))
    assert page("return document.querySelectorAll('svg.plot').length") >= 8
    page("document.querySelectorAll('details').forEach(x => { x.open = true })")
    assert page("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        ("two", ["b/two"]),
        ("STAR blue", ["b/two"]),
        ("thing 6", ["a/many"]),
        ("sky", ["a/many", "c/nothing"]),
        ("empty", ["c/nothing"]),
        ("error", ["x/gone", "x/lost", "y"]),
        ("not an image", ["d/broken"]),
        ("<b>", []),
    ],
)
def test_the_search_box_finds_keys_captions_labels_tags_and_statuses(browser, page, query, expected):
    press(browser, "/", query)
    assert page("return document.activeElement.id") == "search"
    assert page(SHOWN) == expected
    assert page("return document.querySelector('#none').hidden") == bool(expected)
    from selenium.webdriver.common.keys import Keys

    press(browser, Keys.ESCAPE)
    assert page(SHOWN) == ALL


def test_chips_filter_by_status_and_label(page):
    def click(chip: str) -> list[str]:
        page(f"document.querySelector('.chip[{chip}]').click()")
        return page(SHOWN)

    assert click("data-status=empty") == ["c/nothing"]
    assert click("data-status=error") == ["c/nothing", "x/gone", "x/lost", "y"]
    click("data-status=empty")
    assert click("data-status=error") == ALL
    assert click("data-label=cup") == ["d/broken", "e/annotations"]
    assert click("data-label=ring") == ["b/two", "d/broken", "e/annotations"]


def test_the_keyboard_moves_opens_closes_and_toggles(browser, page):
    from selenium.webdriver.common.keys import Keys

    def focused() -> str | None:
        return page("return document.activeElement.closest('.gallery .card')?.dataset.key")

    press(browser, "j")
    assert focused() == "a/many"
    press(browser, "j", Keys.ARROW_RIGHT, "k")
    assert focused() == "b/two"
    press(browser, Keys.ENTER)
    assert page("return document.querySelector('#lightbox').open")
    assert page("return document.querySelector('#enlarged .card').dataset.key") == "b/two"
    assert page("return document.querySelector('#enlarged img').width") > page("return document.images[0].width")
    press(browser, Keys.ARROW_RIGHT)
    assert page("return document.querySelector('#enlarged .card').dataset.key") == "c/nothing"
    press(browser, Keys.ESCAPE)
    assert not page("return document.querySelector('#lightbox').open")
    assert wait(lambda: focused() == "c/nothing")
    press(browser, "o")
    assert wait(lambda: page("return getComputedStyle(document.querySelector('.overlay')).opacity") == "0")
    assert page("return document.querySelector('#toggle').getAttribute('aria-pressed')") == "false"
    press(browser, "?")
    assert page("return document.querySelector('#help').open")
    press(browser, Keys.ESCAPE)
    assert not page("return document.querySelector('#help').open")


def test_pointing_at_a_line_shows_its_box_alone(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains

    line = browser.find_elements("css selector", "[data-key='b/two'] .region")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", line)
    ActionChains(browser, duration=0).move_to_element(line).perform()
    difference = """
      const card = document.querySelector("[data-key='b/two']");
      const frame = card.querySelector(".frame").getBoundingClientRect();
      const spot = card.querySelector(".spot").getBoundingClientRect();
      return [(spot.left - frame.left) / frame.width, (spot.top - frame.top) / frame.height,
              spot.width / frame.width, spot.height / frame.height];
    """
    assert page(difference) == pytest.approx([0.25, 0.25, 0.4, 0.5], abs=0.01)
    ActionChains(browser, duration=0).move_to_element(browser.find_element("id", "search")).perform()
    assert page("return document.querySelector(\"[data-key='b/two'] .spot\").hidden")


def test_long_lists_open_on_request(page):
    visible = (
        "return [...document.querySelectorAll(\"[data-key='a/many'] .region\")].filter(x => x.offsetHeight).length"
    )
    assert page(visible) == 4
    page("document.querySelector(\"[data-key='a/many'] .more\").click()")
    assert page(visible) == 7


def test_pictures_say_what_they_show(page):
    assert page("return document.querySelector(\"[data-key='b/two'] img\").alt") == "A red star beside a blue ring."
    assert page("return document.querySelector(\"[data-key='a/many'] img\").alt").startswith("thing 0, thing 1")
    unnamed = """return [...document.querySelectorAll('button, input')].filter(
        x => !(x.innerText || x.ariaLabel || x.querySelector('img[alt]'))).length"""
    assert page(unnamed) == 0
