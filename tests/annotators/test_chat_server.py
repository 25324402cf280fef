"""ChatServer against a real server on this machine: one that is fine, slow, down, busy, broken or talks nonsense."""

import asyncio
import base64
import io
import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from scenewright.annotators.captioners.chat_server import ChatServer
from scenewright.annotators.pipeline import annotate
from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Layout, Sample
from scenewright.protocols import Captioner

HELP = runpy.run_path(str(Path(__file__).parents[1] / "scripted_chat_server.py"))
Reply, Server, said, serving = (HELP[x] for x in ("Reply", "Server", "said", "serving"))


def prompt_of(request: dict[str, Any]) -> str:
    return request["messages"][0]["content"][1]["text"]


def picture_of(request: dict[str, Any]) -> PILImage.Image:
    url = request["messages"][0]["content"][0]["image_url"]["url"]
    return PILImage.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def label_of(request: dict[str, Any]) -> str:
    return prompt_of(request).removeprefix("Describe ")


def fine(request: dict[str, Any]) -> Reply:
    return 200, said(f"A picture of {label_of(request)}."), 0


def captioner(server: Server | str, **options: Any) -> ChatServer:
    url = server if isinstance(server, str) else server.url
    options = {"prompt": "Describe {label}", "image_prompt": "Describe everything", "timeout": 5.0, **options}
    return ChatServer(url, "some-model", **{"max_retries": 2, **options})


def image(seed: int = 0, height: int = 120, width: int = 160) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def layout(*labels: str) -> Layout:
    """As many boxes side by side."""
    edges = torch.linspace(0, 1, len(labels) + 1)
    rows = [edges[:-1], torch.zeros(len(labels)), edges[1:], torch.ones(len(labels))]
    return Layout(boxes=torch.stack(rows, 1), labels=list(labels))


def test_it_is_a_captioner_and_asks_nothing_about_nothing():
    nowhere = captioner("http://127.0.0.1:9/v1")
    assert isinstance(nowhere, Captioner)
    assert nowhere.caption([], []) == []
    assert nowhere.caption([image()], [Layout.empty()]) == [[]]


def test_every_region_gets_its_own_answer_in_order():
    with serving(lambda r: (200, said(f"A picture of {label_of(r)}."), 0.001 * (7 * len(label_of(r)) % 5))) as server:
        layouts = [layout("dog", "a cat", "tree"), Layout.empty(), layout("cup"), Layout.whole()]
        captions = captioner(server).caption([image(i) for i in range(4)], layouts, seeds=[5, 6, 2**62, 8])
    assert captions == [
        ["A picture of dog.", "A picture of a cat.", "A picture of tree."],
        [],
        ["A picture of cup."],
        ["A picture of everything."],
    ]
    seeds = {label_of(r): r["seed"] for r in server.requests}
    assert seeds["dog"] == seeds["a cat"] == seeds["tree"] == 5 and seeds["everything"] == 8 and 0 <= seeds["cup"]
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in server.requests} == {("some-model", 0, 64)}
    assert {x["path"] for x in server.headers} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("options", "size", "kind"),
    [({}, (160, 120), "JPEG"), ({"max_side": 40}, (40, 30), "JPEG"), ({"image_format": "png"}, (160, 120), "PNG")],
)
def test_the_picture_that_is_sent_is_the_crop(options, size, kind):
    shown = torch.nn.functional.interpolate(image(3, 3, 4)[None].float(), (120, 160))[0].to(torch.uint8)
    with serving(fine) as server:
        captioner(server, **options).caption([shown], [layout("thing")])
    picture = picture_of(server.requests[0])
    assert picture.size == size and picture.format == kind
    seen = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    wanted = torch.nn.functional.interpolate(shown[None].float(), size[::-1], mode="area")[0]
    assert (seen - wanted).abs().mean() < 15


def test_no_more_requests_are_under_way_than_allowed():
    names = [f"thing {i}" for i in range(6)]
    for concurrency in (1, 3):
        with serving(lambda r: (200, said("Fine."), 0.01)) as server:
            one = captioner(server, concurrency=concurrency, min_area=1)
            one.caption([image(i) for i in range(4)], [layout(*names)] * 4)
        assert len(server.requests) == 24 and server.most == concurrency
    with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
        captioner("http://127.0.0.1:9/v1", concurrency=0).caption([], [])


def test_requests_run_at_once_within_one_image_too():
    with serving(lambda r: (200, said("Fine."), 0.05)) as server:
        captioner(server, min_area=1).caption([image()], [layout("a", "b", "c", "d")])
    assert server.most == 4


def test_what_failed_twice_is_tried_again():
    tries: Counter[str] = Counter()
    statuses = {"dog": [429, 429], "cat": [503, 200], "tree": []}

    def reply(request: dict[str, Any]) -> Reply:
        label = label_of(request)
        tries[label] += 1
        left = statuses[label]
        return (left.pop(0) if left else 200), said(f"A picture of {label}."), 0

    with serving(reply) as server:
        captions = captioner(server).caption([image()], [layout("dog", "cat", "tree")])
    assert captions == [["A picture of dog.", "A picture of cat.", "A picture of tree."]]
    assert tries == {"dog": 3, "cat": 2, "tree": 1}


def test_empty_answers_take_the_label():
    with serving(lambda r: (200, said("" if label_of(r) == "dog" else None), 0)) as server:
        assert captioner(server).caption([image()], [layout("dog", "cat")]) == [["dog", "cat"]]
        assert captioner(server, clean=False).caption([image()], [layout("dog", "cat")]) == [["", ""]]


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ((500, {"error": "the GPU is on fire"}, 0), RuntimeError, "status 500: .*the GPU is on fire"),
        ((429, {"error": "too many"}, 0), RuntimeError, "status 429"),
        ((400, {"error": "prompt too long"}, 0), RuntimeError, "status 400: .*prompt too long"),
        ((200, "<html>it works</html>", 0), RuntimeError, "no chat completion"),
        ((200, "{}", 0), RuntimeError, "no chat completion"),
        ((200, "[1, 2]", 0), RuntimeError, "no chat completion"),
        ((200, {"choices": []}, 0), RuntimeError, "no chat completion"),
        (
            (200, {"choices": [{"message": {"content": 3}}]}, 0),
            RuntimeError,
            "no chat completion.*content must be text",
        ),
        ((200, said("late"), 0.4), TimeoutError, r"did not answer within 0.1 s, after 1 tries; raise timeout"),
        ((401, {"error": "bad key"}, 0), CheckpointError, r"refuses the key in \$CHAT_SERVER_API_KEY"),
        ((404, {"error": "no such model"}, 0), CheckpointError, "knows no model 'some-model'.*no such model"),
    ],
)
def test_a_server_that_fails_is_named_with_what_it_said(reply, error, message):
    slow = {"timeout": 0.1, "max_retries": 0} if reply[2] else {}
    with serving(lambda r: reply) as server:
        with pytest.raises(error, match=message) as caught:
            captioner(server, **slow).caption([image()], [layout("dog")])
        assert server.url in str(caught.value)


def test_a_server_that_is_down_is_named_with_what_is_expected_of_it():
    with serving(fine) as server:
        pass
    with pytest.raises(ConnectionError, match="cannot be reached, after 1 tries.*vllm serve some-model") as caught:
        captioner(server, max_retries=0).caption([image()], [layout("dog")])
    assert f"POST {server.url}/chat/completions" in str(caught.value)


def test_an_image_that_fails_takes_no_other_with_it_and_nothing_is_asked_twice():
    def reply(request: dict[str, Any]) -> Reply:
        return (500, {"error": "cannot"}, 0) if label_of(request) == "broken" else fine(request)

    samples = [
        Sample.from_image(f"{i}", image(i), caption="given", layout=layout("dog", "broken" if i == 2 else "cat"))
        for i in range(6)
    ]
    with serving(reply) as server:
        done = list(annotate(samples, captioner=captioner(server, max_retries=1), batch_size=6, workers=1))
    assert [bool(x.error) for x in done] == [False, False, True, False, False, False]
    assert "500" in done[2].error and server.url in done[2].error
    assert done[5].layout.captions == ["A picture of dog.", "A picture of cat."]
    asked = Counter((label_of(r), r["messages"][0]["content"][0]["image_url"]["url"]) for r in server.requests)
    # two tries of the broken region; every other one was answered once
    assert {label: n for (label, _), n in asked.items()} == {"dog": 1, "cat": 1, "broken": 2}
    assert len(server.requests) == 6 + 5 + 2


def test_an_image_is_asked_about_again_after_it_failed():
    down = [True]
    with serving(lambda r: (500, "{}", 0) if down[0] else fine(r)) as server:
        one = captioner(server, max_retries=0)
        with pytest.raises(RuntimeError):
            one.caption([image()], [layout("dog")])
        down[0] = False
        assert one.caption([image()], [layout("dog")]) == [["A picture of dog."]]


# ---- one call per image


def together(request: dict[str, Any]) -> Reply:
    """Answers a structured call, but never about a "ghost"; and any other plainly."""
    numbered = re.findall(r"^(\d+): (.*) \[", prompt_of(request), re.MULTILINE)
    if not numbered:
        return fine(request)
    known = {number: f"Here is {name}, seen." for number, name in numbered if name != "ghost"}
    return 200, said(f"```json\n{json.dumps({k: v[8:].capitalize() for k, v in known.items()})}\n```"), 0


def test_one_call_per_image_asks_again_and_then_alone():
    with serving(together) as server:
        layouts = [layout("dog", "cat", "cup"), layout("dog", "ghost"), layout("tree")]
        captions = captioner(server, calls="image", concurrency=1).caption([image(i) for i in range(3)], layouts)
    assert captions == [
        ["Dog, seen.", "Cat, seen.", "Cup, seen."],
        ["Dog, seen.", "A picture of ghost."],
        ["A picture of tree."],
    ]
    regions = Counter(len(re.findall(r"^\d+: ", prompt_of(r), re.MULTILINE)) for r in server.requests)
    assert regions == {3: 1, 2: 1, 1: 1, 0: 2}


def test_the_reply_is_held_to_its_schema_where_that_is_asked_for():
    with serving(together) as server:
        captioner(server, calls="image", json_schema=True).caption([image()], [layout("dog", "cat")])
        captioner(server, calls="image").caption([image()], [layout("dog", "cat")])
    held, free = (r.get("response_format") for r in server.requests)
    assert held["type"] == "json_schema" and held["json_schema"]["schema"]["required"] == ["1", "2"] and free is None
    assert server.requests[0]["max_tokens"] > 2 * 64


def test_boxes_are_in_pixels_of_the_picture_that_is_sent_if_asked_for():
    with serving(together) as server:
        for coordinates in ("thousandths", "pixels"):
            one = captioner(server, calls="image", coordinates=coordinates, max_side=80)
            one.caption([image()], [layout("dog", "cat")])
    first, second = (prompt_of(r) for r in server.requests)
    assert "2: cat [500, 0, 1000, 1000]" in first and "2: cat [40, 0, 80, 60]" in second


# ---- what is told to whom


def test_the_key_comes_from_its_variable_and_is_told_to_nobody_else(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-secret-key")
    with caplog.at_level("DEBUG", "scenewright"), serving(lambda r: (400, {"error": "sk-secret-key?"}, 0)) as server:
        one = captioner(server, api_key_variable="MY_KEY")
        with pytest.raises(RuntimeError) as caught:
            one.caption([image()], [layout("dog")])
    assert server.headers[0]["authorization"] == "Bearer sk-secret-key"
    for told in (str(caught.value), json.dumps(describe(one)), caplog.text):
        assert "sk-secret-key" not in told
    assert describe(one)["settings"]["api_key_variable"] == "MY_KEY"
    with serving(fine) as server:
        captioner(server).caption([image()], [layout("dog")])
    assert server.headers[0]["authorization"] == "Bearer EMPTY"
    with pytest.raises(ValueError, match="no user name or password"):
        ChatServer("http://me:secret@127.0.0.1/v1")


def test_more_fields_can_be_sent():
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    with serving(fine) as server:
        captioner(server, extra=extra).caption([image()], [layout("dog")])
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_it_works_where_an_event_loop_runs():
    with serving(fine) as server:

        async def main() -> list[list[str]]:
            return captioner(server).caption([image()], [layout("dog")])

        assert asyncio.run(main()) == [["A picture of dog."]]


@pytest.mark.parametrize("setting", ["calls", "image_format", "coordinates"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be one of .*, got 'x'"):
        captioner("http://127.0.0.1:9/v1", **{setting: "x"}).caption([], [])
