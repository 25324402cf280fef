"""The judging page asks what it is given, hides the runs, and gives votes that the metric reads: in a real browser."""

import base64
import html
import io
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.evaluation.human_preference import HumanPreference
from scenewright.evaluation.human_preference.correlation import correlations
from scenewright.evaluation.human_preference.judges import judges
from scenewright.evaluation.human_preference.page import Pair, shuffled, write_judging_page
from scenewright.evaluation.human_preference.votes import Place, comparisons, read_votes, win_shares
from scenewright.layout import Layout, Sample

CHROMIUM, DRIVER = shutil.which("chromium") or "", shutil.which("chromedriver") or ""
EVIL = """</script><script>document.title='x'</script><img src=x onerror="document.title=1">&amp;'"--><!--{{ 7 * 7 }}"""


def picture(value: int, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def pair(
    key: str, runs: tuple[str, str] = ("good", "bad"), values: tuple[int, int] = (200, 50), image: int = 0
) -> Pair:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.4, 0.1, 0.9, 0.6]])
    layout = Layout(boxes, ["cup", "dog"], ["a red cup", ""])
    return Pair(Place(key, image), runs, (picture(values[0]), picture(values[1])), f"caption of {key}", layout)


def some_pairs(count: int = 8) -> list[Pair]:
    return [pair(f"layout {i}", values=(150 + i % 99, 50 + i)) for i in range(count)]


def content_of(path: Path) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert text
    return json.loads(text[1])


# what is in the file


def test_equal_arguments_give_equal_bytes_and_another_seed_another_order(tmp_path):
    pages = [write_judging_page(some_pairs(), tmp_path / f"{i}.html", "T", repeats=0.25, seed=i // 2) for i in range(4)]
    assert pages[0].read_bytes() == pages[1].read_bytes() != pages[2].read_bytes()
    assert content_of(pages[0])["id"] == content_of(pages[1])["id"] != content_of(pages[2])["id"]


def test_every_pair_is_asked_once_with_each_run_on_both_sides(tmp_path):
    questions = content_of(write_judging_page(some_pairs(60), tmp_path / "p.html", "T"))["questions"]
    keys = [x["key"] for x in questions]
    assert sorted(keys) == sorted(f"layout {i}" for i in range(60)) and keys != [f"layout {i}" for i in range(60)]
    left = Counter(x["runs"][0] for x in questions)
    assert left["good"] + left["bad"] == 60 and min(left.values()) > 15


def test_pictures_stay_with_their_runs_and_are_stored_once(tmp_path):
    pairs = [pair("k", ("a", "b"), (10, 20)), pair("k", ("a", "c"), (10, 30)), pair("k", ("b", "c"), (20, 30))]
    content = content_of(write_judging_page(pairs, tmp_path / "p.html", "T", seed=3))
    assert len(content["pictures"]) == 3
    for question in content["questions"]:
        for run, number in zip(question["runs"], question["pictures"], strict=True):
            data = base64.b64decode(content["pictures"][number].removeprefix("data:image/webp;base64,"))
            with PILImage.open(io.BytesIO(data)) as opened:
                assert opened.size == (32, 24)
                assert (np.asarray(opened) == {"a": 10, "b": 20, "c": 30}[run]).all()


@pytest.mark.parametrize(("count", "share"), [(20, 0.25), (7, 0.5), (1, 0.5), (2, 0.5), (9, 0.0)])
def test_repeated_questions_come_half_a_page_later_with_changed_sides(count, share):
    questions = [{"key": i, "runs": ["a", "b"], "pictures": [2 * i, 2 * i + 1]} for i in range(count)]
    asked = shuffled(questions, share, seed=1)
    again = [(i, x) for i, x in enumerate(asked) if "again" in x]
    assert len(again) == round(share * count) and len(asked) == count + len(again)
    for i, question in again:
        first = asked[question["again"]]
        assert "again" not in first and first["key"] == question["key"] and i - question["again"] > count // 2
        assert question["runs"] == first["runs"][::-1] and question["pictures"] == first["pictures"][::-1]


def test_large_pictures_are_made_smaller_and_small_ones_kept(tmp_path):
    layout = Layout.empty()
    wide = Pair(Place("k", 0), ("a", "b"), (picture(9, 300, 600), picture(9, 30, 20)), "", layout)
    content = content_of(write_judging_page([wide], tmp_path / "p.html", "T", picture_size=400))
    sizes = set()
    for uri in content["pictures"]:
        with PILImage.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as opened:
            sizes.add(opened.size)
    assert sizes == {(400, 200), (20, 30)} and content["questions"][0]["regions"] == []


def test_the_file_needs_nothing_beside_it_and_leaves_nothing(tmp_path):
    path = write_judging_page(iter(some_pairs()), tmp_path / "deep" / "p.html", "T")
    assert list(path.parent.iterdir()) == [path]
    text = path.read_text("utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text) and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in html.unescape(text)


def test_nothing_that_is_given_can_become_markup(tmp_path):
    layout = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), [EVIL], [EVIL])
    evil = Pair(Place(EVIL, 0), (EVIL, "b"), (picture(1), picture(2)), EVIL, layout)
    path = write_judging_page([evil], tmp_path / "p.html", EVIL, question=EVIL)
    text = path.read_text("utf-8")
    assert text.count("<script") == 2 and "<img src=x" not in text and "<!--" not in text and "49" not in text[:9000]
    (question,) = content_of(path)["questions"]
    assert question["key"] == EVIL and question["regions"][0]["label"] == EVIL and EVIL in question["runs"]


@pytest.mark.parametrize(
    ("pairs", "options", "why"),
    [
        ([], {}, "there are no pairs to judge"),
        (None, {"repeats": 0.6}, "repeats must be a share between 0 and 0.5, got 0.6"),
        (None, {"repeats": -0.1}, "repeats must be a share"),
        (None, {"picture_size": 0}, "picture_size must be 1 or more, got 0"),
    ],
)
def test_what_makes_no_page_is_refused(tmp_path, pairs, options, why):
    with pytest.raises(ValueError, match=why):
        write_judging_page(some_pairs(1) if pairs is None else pairs, tmp_path / "p.html", "T", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_of_one_run_is_refused():
    with pytest.raises(ValueError, match="two runs with different names, got 'a' and 'a'"):
        pair("k", ("a", "a"))


# the page as it is used


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


class Opened:
    """The page in a browser, with what a judge sees and does."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser, self.path, self.script = browser, path, browser.execute_script
        self.folder = path.parent / "downloads"
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(self.folder)})
        self.resize(1280, 800)
        self.load()

    def load(self) -> None:
        self.browser.get(self.path.as_uri())

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def text(self, selector: str) -> str:
        return self.browser.find_element("css selector", selector).text

    @property
    def screen(self) -> str:
        return self.script("return document.body.dataset.screen")

    def brightness(self, side: str) -> int:
        """Of the picture on one side: which of a pair's two it is."""
        draw = """const image = document.querySelector(arguments[0]), canvas = document.createElement("canvas");
            canvas.width = canvas.height = 1;
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0, 1, 1);
            return context.getImageData(0, 0, 1, 1).data[0]"""
        assert wait(lambda: self.script("return document.querySelector(arguments[0]).complete", f"#{side} img"))
        return self.script(draw, f"#{side} img")

    def download(self, selector: str = "#download") -> Path:
        self.click(selector)
        # the browser makes an empty file first
        assert wait(lambda: any(x.stat().st_size for x in self.folder.glob("*.csv")))
        (path,) = self.folder.glob("*.csv")
        kept = self.folder / str(len(list(self.folder.iterdir())))
        kept.mkdir()
        return path.rename(kept / path.name)


def wait(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.02)
    return claim()


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Callable[..., Opened]]:
    """``opened(pairs, **options)``: a new page in the browser; at the end the console must be empty."""

    def page(pairs: list[Pair], **options: Any) -> Opened:
        return Opened(browser, write_judging_page(pairs, tmp_path / "eine Seite.html", "A title", **options))

    yield page
    browser.execute_script("localStorage.clear()")  # pages of equal content share it
    assert browser.get_log("browser") == []


LEFT, RIGHT, ENTER, BACKSPACE, ESCAPE, TAB = "\ue012", "\ue014", "\ue007", "\ue003", "\ue00c", "\ue004"


def test_a_judges_keys_become_votes_and_votes_the_metric(opened):
    page = opened(some_pairs(8), repeats=0.25)
    page.press("Ann, B.", ENTER)
    judged = 0
    while page.screen == "judging":
        assert page.text("#count") == f"{judged + 1} of 10"
        side = LEFT if page.brightness("left") > page.brightness("right") else RIGHT
        page.press(" " if "layout 3" in page.text("#caption") else side)
        judged += 1
    assert judged == 10 and page.screen == "end"
    assert "2 of the pairs were shown to you twice" in page.text("#consistency") and "100 %" in page.text(
        "#consistency"
    )
    path = page.download("#download-again")
    assert path.name == "votes-Ann-B.csv"
    votes = read_votes(path)
    assert len(votes) == 10 and {x.judge for x in votes} == {"Ann, B."} and all(x.seconds < 60 for x in votes)
    (ann,) = judges(votes)
    assert (ann.repeated, ann.same) == (2, 2)

    for run, won in (("good", 1.0), ("bad", 0.0)):
        metric = HumanPreference(str(path), run)
        samples = [Sample(f"layout {i}") for i in range(8)]
        metric.update([picture(0)] * 8, samples)
        shares = [x.image["human_preference"] for x in metric.records]
        assert shares == [won, won, won, 0.5, *[won] * 4]
    scores = {run: {"m": x} for run, x in win_shares(comparisons(votes)).items()}
    numbers = correlations(votes, scores, rounds=0)[0].numbers
    assert numbers["tau"].value == pytest.approx(1) and numbers["agreement"].value == 1


def test_buttons_do_what_keys_do_and_a_clicked_button_does_not_take_the_next_key(opened):
    page = opened(some_pairs(5))
    page.click("#begin")
    page.click("[data-choice=a]")
    page.press(" ")
    page.click("[data-choice=b]")
    page.click("[data-choice=tie]")
    page.click("#undo")
    page.press(RIGHT)
    assert [x.choice for x in read_votes(page.download())] == ["a", "tie", "b", "b"]
    assert re.fullmatch(r"judge-[0-9a-f]{8}", read_votes(page.download())[0].judge)


def test_backspace_takes_the_last_answer_back_even_after_the_last_question(opened):
    page = opened(some_pairs(2))
    page.press("eve", ENTER, BACKSPACE)
    first = page.text("#caption")
    page.press(LEFT)
    assert page.text("#caption") != first
    page.press(BACKSPACE)
    assert page.text("#caption") == first and page.text("#count") == "1 of 2"
    page.press(RIGHT, LEFT)
    assert page.screen == "end"
    page.press(LEFT)  # nothing is asked
    page.press(BACKSPACE)
    assert page.screen == "judging" and page.text("#count") == "2 of 2"
    page.press(" ")
    assert [x.choice for x in read_votes(page.download())] == ["b", "tie"]


def test_answers_are_remembered_and_can_be_forgotten(opened):
    page = opened(some_pairs(4))
    page.press("eve", ENTER, LEFT, RIGHT)
    page.load()
    assert page.text("#begin") == "Continue" and page.text("#count") == "2 of 4 answered"
    page.press(ENTER)
    assert page.text("#count") == "3 of 4"
    page.press(LEFT)
    votes = read_votes(page.download())
    assert [x.choice for x in votes] == ["a", "b", "a"] and {x.judge for x in votes} == {"eve"}
    page.load()
    page.click("#forget")
    page.browser.switch_to.alert.accept()
    assert page.text("#begin") == "Begin" and page.text("#count") == ""
    page.load()
    assert page.text("#begin") == "Begin" and page.script("return document.querySelector('#judge').value") == ""


def test_answers_of_another_page_or_broken_ones_are_not_taken(opened, browser):
    page = opened(some_pairs(3))
    store = f"scenewright-judging-{content_of(page.path)['id']}"
    for broken in ("{", "null", '{"judge": "x", "answers": [{"choice": "z", "seconds": 1}]}', '{"answers": 3}'):
        page.script("localStorage.setItem(arguments[0], arguments[1])", store, broken)
        page.load()
        assert page.text("#begin") == "Begin", broken
    page.press("x", ENTER, LEFT)
    other = opened(some_pairs(3), seed=1)
    assert other.text("#begin") == "Begin"


def test_a_file_is_given_at_any_time_and_holds_what_was_answered(opened):
    page = opened([pair('a "key", so\nlong', image=2), pair("=1+1")])
    assert page.download().read_text() == "key,image,run_a,run_b,choice,judge,seconds\n"
    page.click("#judge")
    page.press('Zoë "Z"', ENTER, LEFT, LEFT)
    votes = read_votes(page.download())
    assert {x.place for x in votes} == {Place('a "key", so\nlong', 2), Place("=1+1", 0)}
    assert {x.judge for x in votes} == {'Zoë "Z"'} and {x.run_a for x in votes} <= {"good", "bad"}


def test_the_runs_are_not_on_the_screen(opened):
    page = opened([pair("k", ("method-one", "method-two"))])
    page.press("eve", ENTER)
    shown = page.script("document.querySelector('#content').remove(); return document.documentElement.outerHTML")
    assert "method-" not in shown and "caption of k" in shown


def test_boxes_stand_where_the_layout_has_them_and_in_the_pictures_on_request(opened):
    page = opened([pair("k")])
    page.press("eve", ENTER)
    place = """const inner = arguments[0].getBoundingClientRect();
        const outer = arguments[0].closest(".frame").getBoundingClientRect();
        return [(inner.left - outer.left) / outer.width, (inner.top - outer.top) / outer.height,
                (inner.right - outer.left) / outer.width, (inner.bottom - outer.top) / outer.height]"""
    for where in ("#plan", "#left", "#right"):
        frame = page.browser.find_element("css selector", f"{where} .frame")
        assert frame.size["width"] / frame.size["height"] == pytest.approx(32 / 24, rel=0.02)
        cup = page.browser.find_element("css selector", f"{where} [data-region='0'].box")
        assert page.script(place, cup) == pytest.approx([0.1, 0.2, 0.5, 0.9], abs=0.02)
        assert cup.is_displayed() == (where == "#plan")
    names = [x.text for x in page.browser.find_elements("css selector", "#plan .word")]
    assert sorted(names) == ["cup", "dog"]
    assert [x.text for x in page.browser.find_elements("css selector", ".regions .region")] == [
        "1\ncup a red cup",
        "2\ndog",
    ]
    page.press("b")
    assert page.browser.find_element("css selector", "#left .box").is_displayed()
    assert page.script("return document.querySelector('#boxes').getAttribute('aria-pressed')") == "true"
    page.click("#boxes")
    assert not page.browser.find_element("css selector", "#left .box").is_displayed()


def test_nothing_that_is_given_runs_in_the_page(opened):
    layout = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), [EVIL], [EVIL])
    page = opened([Pair(Place(EVIL, 0), (EVIL, "b"), (picture(1), picture(2)), EVIL, layout)], question=EVIL)
    page.press(EVIL, ENTER)
    assert page.script("return document.title") == "A title" and page.text("#caption") == " ".join(EVIL.split())
    page.press(LEFT)
    (vote,) = read_votes(page.download())
    assert vote.place.key == EVIL and EVIL in (vote.run_a, vote.run_b) and vote.judge == EVIL[:80].strip()


def test_a_picture_is_enlarged_and_no_key_answers_meanwhile(opened):
    page = opened(some_pairs(2))
    page.press("eve", ENTER)
    page.click("#left .frame")
    assert page.script("return document.querySelector('#large').open")
    page.press(LEFT)
    assert page.text("#count") == "1 of 2"
    page.press(ESCAPE)
    assert wait(lambda: not page.script("return document.querySelector('#large').open"))
    page.press(LEFT)
    assert page.text("#count") == "2 of 2"


def test_a_button_reached_with_the_tab_key_is_pressed_with_space_once(opened):
    page = opened(some_pairs(3))
    page.press("eve", ENTER)
    page.script("document.querySelector('[data-choice=b]').focus()")
    page.press(" ")
    assert page.text("#count") == "2 of 3"
    assert [x.choice for x in read_votes(page.download())] == ["b"]


@pytest.mark.parametrize("size", [(1440, 900), (1024, 700), (390, 844)])
def test_everything_fits_on_wide_and_on_narrow_screens(opened, size):
    page = opened(some_pairs(2))
    page.resize(*size)
    page.press("eve", ENTER)
    assert page.script("return document.documentElement.scrollWidth") <= size[0]
    for selector in ("#left img", "#right img", "[data-choice=a]", "[data-choice=tie]", "[data-choice=b]", "#undo"):
        area = page.script(
            "const x = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [x.left, x.top, x.right, x.bottom]",
            selector,
        )
        assert 0 <= area[0] < area[2] <= size[0] and 0 <= area[1] < area[3] <= size[1], selector
    unnamed = """return [...document.querySelectorAll("button, input")].filter(
        x => !(x.textContent.trim() || x.ariaLabel || x.labels?.length)).map(x => x.outerHTML)"""
    assert page.script(unnamed) == []
