"""ChatPlanner against a real server on this machine that follows a script."""

import asyncio
import inspect
import json
import pickle
import re
import runpy
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from scenewright.annotators.provenance import describe
from scenewright.checkpoints import CheckpointError
from scenewright.datasets.gen4gen.planner import prompts
from scenewright.datasets.gen4gen.planner.chat import ChatPlanner
from scenewright.datasets.gen4gen.records import LayoutRequest

ROOT = Path(__file__).parents[3]
HELP = runpy.run_path(str(ROOT / "tests" / "scripted_chat_server.py"))
said, serving = HELP["said"], HELP["serving"]

PLACES = {"cat": (10, 200, 200, 250), "dog": (300, 210, 200, 240), "house plant": (215, 20, 80, 170)}
BACKGROUNDS = "garden, room, beach\n    Background: in the garden, in the room, at the beach"


def request(*names, seed=0, **more):
    return LayoutRequest(names, (1.0,) * len(names), 1024, 1024, seed=seed, **more)


def kind(asked):
    """What a request asks for."""
    text = asked["messages"][0]["content"]
    starts = {"backgrounds": "scene generator", "layout": "bounding box generator", "ratios": "object ratio generator"}
    return next((name for name, words in starts.items() if words in text[:60]), "verify")


def caption(asked):
    return re.findall(r"Caption: (.*)\.\n", asked["messages"][0]["content"])[-1]


def layout(*names, **changed):
    return repr([(name, list((PLACES | changed)[name])) for name in names])


def fine(asked):
    """Answers as the examples do, all things in alphabetical order."""
    answers = {"backgrounds": BACKGROUNDS, "ratios": "0.8, 1.0", "verify": "Yes."}
    present = [x for x in sorted(PLACES) if x in caption(asked)] if kind(asked) == "layout" else []
    return 200, said(answers.get(kind(asked)) or layout(*present)), 0


def scripted(**answers):
    """Answers of a kind one after the other, the last one for ever; all other kinds well."""
    left = {name: list(some) for name, some in answers.items()}

    def reply(asked):
        some = left.get(kind(asked))
        if not some:
            return fine(asked)
        answer = some.pop(0) if len(some) > 1 else some[0]
        return answer if isinstance(answer, tuple) else (200, said(answer), 0)

    return reply


def planner(server, **options):
    url = server if isinstance(server, str) else server.url
    return ChatPlanner(url, "some-model", **{"timeout": 5.0, "max_retries": 1, **options})


def place(name):
    x, y, w, h = PLACES[name]
    return [x / 512, y / 512, (x + w) / 512, (y + h) / 512]


def test_every_thing_gets_the_box_of_its_name():
    with serving(fine) as server:
        plan = planner(server).plan([request("dog", "house plant", "cat")])[0]
    assert plan.error == ""
    assert torch.equal(plan.boxes, torch.tensor([place("dog"), place("house plant"), place("cat")]))


def test_the_background_that_the_layout_was_made_for_is_recorded():
    with serving(fine) as server:
        plans = planner(server).plan([request("dog", "cat", seed=i) for i in range(12)])
    asked = [x for x in server.requests if kind(x) == "layout"]
    captions = Counter(caption(x) for x in asked)
    assert captions == Counter(f"one cat and one dog {plan.background}" for plan in plans)
    assert {x.background for x in plans} == {"in the garden", "in the room", "at the beach"}
    for plan in plans:
        assert plan.log[-1]["prompt"] == prompts.layout(f"one cat and one dog {plan.background}")


def test_backgrounds_are_asked_for_once_for_the_same_things():
    with serving(fine) as server:
        one = planner(server)
        one.plan([request("dog", "cat", seed=1), request("cat", "dog", seed=2), request("cat", seed=3)])
        one.plan([request("dog", "cat", seed=4)])
        assert Counter(map(kind, server.requests)) == {"backgrounds": 2, "layout": 4}
        one.plan([request("dog", "cat", seed=5, backgrounds=("in the car",))])
    assert Counter(map(kind, server.requests)) == {"backgrounds": 2, "layout": 5}
    assert caption(server.requests[-1]) == "one cat and one dog in the car"


def test_each_canvas_draws_from_its_own_seed_whatever_is_planned_beside_it():
    def echo(asked):  # the answer depends on temperature and seed, as a model's does
        if kind(asked) != "layout":
            return fine(asked)
        x = asked["seed"] % 7 + round(10 * asked["temperature"])
        return 200, said(layout("cat", "dog", cat=(x, 200, 200, 250))), 0

    requests = [request("cat", "dog", seed=i) for i in (3, 2**40, 17)]
    with serving(echo) as server:
        together = planner(server).plan(requests)
        alone = [planner(server, concurrency=1).plan([x])[0] for x in requests]
        layouts = [x for x in server.requests if kind(x) == "layout"]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.boxes, b.boxes) and a.background == b.background and a.log == b.log
    assert len({x["temperature"] for x in layouts}) == 3 and all(0 <= x["temperature"] <= 1 for x in layouts)
    assert {x["seed"] for x in layouts} == {3, 2**40 % 2**31, 17}
    with serving(fine) as server:
        planner(server, temperature=[0.5, 0.5]).plan(requests)
    assert {x["temperature"] for x in server.requests if kind(x) == "layout"} == {0.5}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("I cannot see any picture.", "no list of"),
        (layout("cat"), "exactly these boxes: 1 x 'cat', 1 x 'dog'; got 1 x 'cat'"),
        (layout("cat", "cat"), "got 2 x 'cat'"),
        (layout("cat", "dog", "house plant"), "got 1 x 'cat', 1 x 'dog', 1 x 'house plant'"),
        (layout("cat", "dog", dog=(400, 210, 200, 240)), "x + width = 600"),
        (layout("cat", "dog", dog=(20, 200, 200, 250)), "overlap"),
        (layout("cat", "dog", dog=(300, 210, 20, 240)), "at least 32"),
        ("[('gato', [10, 200, 200, 250]), ('perro', [300, 210, 200, 240])]", "got 1 x 'gato', 1 x 'perro'"),
        ("", "no list of"),
    ],
)
def test_an_answer_that_cannot_be_used_is_asked_for_again_with_the_reason(bad, reason):
    with serving(scripted(layout=[bad, layout("cat", "dog")])) as server:
        plan = planner(server).plan([request("dog", "cat")])[0]
    assert torch.equal(plan.boxes, torch.tensor([place("dog"), place("cat")]))
    first, second = (x for x in server.requests if kind(x) == "layout")
    assert second["messages"][:1] == first["messages"] and len(second["messages"]) == 3
    assert second["messages"][1] == {"role": "assistant", "content": bad or "(no answer)"}
    assert second["messages"][2]["role"] == "user" and reason in second["messages"][2]["content"]
    refused, taken = plan.log[-2:]
    assert reason in refused["refused"] and refused["reply"] == bad and taken["refused"] == ""
    assert (refused["attempt"], taken["attempt"]) == (1, 2) and reason in taken["prompt"]


def test_names_that_stay_unknown_to_the_end_stand_for_the_prompts_order():
    foreign = "[('gato', [10, 200, 200, 250]), ('perro', [300, 210, 200, 240])]"
    with serving(scripted(layout=[foreign])) as server:
        plan = planner(server, attempts=2).plan([request("dog", "cat")])[0]
    assert torch.equal(plan.boxes, torch.tensor([place("dog"), place("cat")]))
    assert [bool(x["refused"]) for x in plan.log if x["call"] == "layout"] == [True, False]


def test_a_canvas_whose_answers_are_all_refused_says_so_and_takes_no_other_with_it():
    def reply(asked):
        lost = kind(asked) == "layout" and "house plant" in caption(asked)
        return (200, said(layout("cat")), 0) if lost else fine(asked)

    with serving(reply) as server:
        lost, found = planner(server, attempts=3).plan([request("cat", "house plant"), request("cat", "dog")])
    assert lost.boxes is None and found.boxes is not None and not found.error
    assert "none of 3 answers of some-model (layout) can be used: there must be exactly these boxes" in lost.error
    assert [x["attempt"] for x in lost.log if x["call"] == "layout"] == [1, 2, 3]
    assert lost.background in BACKGROUNDS


def test_everything_asked_and_answered_is_in_the_log():
    with serving(fine) as server:
        plan = planner(server, obj_ratio=True, verify_backgrounds=True).plan([request("dog", "cat", seed=9)])[0]
    assert [x["call"] for x in plan.log] == ["backgrounds", *["verify background"] * 3, "ratios", "layout"]
    asked = {x["messages"][0]["content"]: x for x in server.requests}
    assert len(asked) == 6
    for entry in plan.log:
        sent = asked[entry["prompt"]]
        settings = {name: sent[name] for name in ("model", "temperature", "seed")}
        assert settings.items() <= entry.items() and said(entry["reply"]) == fine(sent)[1]
    assert plan.log[0]["prompt"] == prompts.backgrounds("one cat and one dog")
    json.dumps(plan.log)


def test_sizes_are_asked_for_once_and_are_in_the_requests_order():
    with serving(fine) as server:
        one = planner(server, obj_ratio=True)
        plans = one.plan([request("dog", "cat", "dog", seed=i, backgrounds=("in a box",)) for i in range(2)])
        alike = one.plan([request("cat", "cat", backgrounds=("in a box",))])[0]
    assert [x.ratios for x in plans] == [(1.0, 0.8, 1.0)] * 2 and alike.ratios == (1.0, 1.0)
    asked = [x for x in server.requests if kind(x) == "ratios"]
    assert [x["messages"][0]["content"] for x in asked] == [prompts.ratios("cat, dog")]
    with serving(fine) as server:
        assert planner(server).plan([request("dog", "cat")])[0].ratios == ()


@pytest.mark.parametrize("call", ["backgrounds", "ratios"])
def test_other_answers_that_cannot_be_used_are_asked_for_again_too(call):
    good = {"backgrounds": BACKGROUNDS, "ratios": "Ratio: 0.8, 1.0"}[call]
    with serving(scripted(**{call: ["I do not know", good]})) as server:
        plan = planner(server, obj_ratio=True).plan([request("dog", "cat")])[0]
    assert plan.boxes is not None and plan.ratios == (1.0, 0.8)
    second = [x for x in server.requests if kind(x) == call][1]
    assert "cannot be used" in second["messages"][2]["content"]
    with serving(scripted(**{call: ["I do not know"]})) as server:
        plan = planner(server, obj_ratio=True, attempts=2).plan([request("dog", "cat")])[0]
    assert plan.boxes is None and f"none of 2 answers of some-model ({call}) can be used" in plan.error


def test_backgrounds_that_do_not_suit_are_left_out():
    def reply(asked):
        unsuited = kind(asked) == "verify" and "in the garden" not in asked["messages"][0]["content"]
        return (200, said("No, hardly."), 0) if unsuited else fine(asked)

    with serving(reply) as server:
        plans = planner(server, verify_backgrounds=True).plan([request("dog", seed=i) for i in range(6)])
    assert {x.background for x in plans} == {"in the garden"}
    assert Counter(map(kind, server.requests)) == {"backgrounds": 1, "verify": 3, "layout": 6}
    with serving(scripted(verify=["no"])) as server:
        plan = planner(server, verify_backgrounds=True).plan([request("dog")])[0]
    assert "none of the backgrounds" in plan.error and plan.boxes is None


def test_a_caption_with_braces_is_sent_as_it_is():
    with serving(
        lambda asked: (200, said(BACKGROUNDS if kind(asked) == "backgrounds" else "[('{cat}', 9, 9, 99, 99)]"), 0)
    ) as server:
        plan = planner(server).plan([request("{cat}", backgrounds=("in {0}",))])[0]
    assert not plan.error and caption(server.requests[-1]) == "one {cat} in {0}"


def test_examples_come_from_coco_where_there_is_one(tmp_path):
    (tmp_path / "annotations").mkdir()
    instances = {
        "images": [{"id": 1, "width": 100, "height": 200}],
        "categories": [{"id": 1, "name": "cow"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
    }
    captions = {"annotations": [{"image_id": 1, "caption": "A {cow}."}]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(captions))
    with serving(fine) as server:
        plan = planner(server, coco=str(tmp_path)).plan([request("cat")])[0]
    exemplars = '\n    Caption: A {cow}.\n    Objects: [["cow", [0, 0, 256, 128]]]\n'
    assert plan.log[-1]["prompt"] == prompts.layout(f"one cat {plan.background}", exemplars)
    with pytest.raises(FileNotFoundError), serving(fine) as server:
        planner(server, coco=str(tmp_path / "x")).plan([request("cat")])
    assert server.requests == []


def test_answers_can_be_held_to_a_schema():
    def reply(asked):
        schema = asked["response_format"]["json_schema"]["schema"]
        boxes = [{"name": name, "box": PLACES[name]} for name in ("cat", "dog")]
        full = {"backgrounds": ["in the garden"], "ratios": [0.8, 1], "answer": "yes", "objects": boxes}
        return 200, said(json.dumps({x: full[x] for x in schema["required"]})), 0

    with serving(reply) as server:
        one = planner(server, json_schema=True, obj_ratio=True, verify_backgrounds=True)
        plan = one.plan([request("dog", "cat")])[0]
    assert torch.equal(plan.boxes, torch.tensor([place("dog"), place("cat")]))
    assert plan.background == "in the garden" and plan.ratios == (1.0, 0.8)
    with serving(fine) as server:
        planner(server).plan([request("cat")])
    assert not any("response_format" in x for x in server.requests)


# ---- servers that fail


def test_no_more_requests_are_under_way_than_allowed():
    def reply(asked):
        deadline = time.monotonic() + 30
        while kind(asked) == "layout" and server.most < concurrency and time.monotonic() < deadline:
            time.sleep(0.001)
        return *fine(asked)[:2], 0.01

    with serving(reply) as server:
        for concurrency in (1, 3):
            server.most = 0
            planner(server, concurrency=concurrency, timeout=60.0).plan([request("cat", seed=i) for i in range(7)])
            assert server.most == concurrency


def test_what_failed_for_a_moment_is_tried_again():
    busy = (503, {"error": "busy"}, 0)
    with serving(scripted(layout=[busy, (429, {}, 0), layout("cat")])) as server:
        plan = planner(server, max_retries=2).plan([request("cat")])[0]
    assert plan.boxes is not None and len([x for x in plan.log if x["call"] == "layout"]) == 1


@pytest.mark.parametrize("status", [400, 500])
def test_a_canvas_that_the_server_refuses_says_so_and_takes_no_other_with_it(status):
    def reply(asked):
        lost = kind(asked) == "layout" and "dog" in caption(asked)
        return (status, {"error": "cannot do dogs"}, 0) if lost else fine(asked)

    with serving(reply) as server:
        lost, found = planner(server).plan([request("dog"), request("cat")])
    assert lost.boxes is None and found.boxes is not None
    assert f"status {status}" in lost.error and "cannot do dogs" in lost.error and server.url in lost.error
    assert [x["call"] for x in lost.log] == ["backgrounds"]


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ((401, {"error": "bad key"}, 0), CheckpointError, r"refuses the key in \$OPENAI_API_KEY"),
        ((404, {"error": "no such model"}, 0), CheckpointError, "knows no model 'some-model'"),
        ((429, {"error": "quota"}, 0), RuntimeError, "status 429: .*quota"),
        ((200, said("late"), 0.5), TimeoutError, "did not answer within 0.1 s, after 1 tries; raise timeout"),
    ],
)
def test_a_failure_that_is_not_about_one_canvas_is_raised(reply, error, message):
    with serving(lambda asked: reply) as server:
        slow = {"timeout": 0.1, "max_retries": 0} if reply[2] else {}
        with pytest.raises(error, match=message):
            planner(server, **slow).plan([request("cat", seed=i) for i in range(3)])


def test_a_server_that_is_down_is_named_at_once_with_what_is_expected_of_it():
    with serving(fine) as server:
        pass
    with pytest.raises(ConnectionError, match="cannot be reached, after 1 tries.*vllm serve some-model"):
        planner(server, max_retries=0).plan([request(f"thing {'abcdefgh'[i % 8]}", seed=i) for i in range(50)])


def test_what_was_answered_before_a_failure_is_not_asked_again():
    down = [True]

    def reply(asked):
        broken = down[0] and kind(asked) == "layout" and asked["seed"] == 1
        return (401, {}, 0) if broken else fine(asked)

    requests = [request("cat", seed=i) for i in range(3)]
    with serving(reply) as server:
        one = planner(server, concurrency=1)
        with pytest.raises(CheckpointError):
            one.plan(requests)
        before = len(server.requests)
        down[0] = False
        assert all(x.boxes is not None for x in one.plan(requests))
    after = server.requests[before:]
    assert {kind(x) for x in after} == {"layout"} and 1 in {x["seed"] for x in after}
    assert 0 not in {x["seed"] for x in after}


def test_the_key_comes_from_its_variable_and_is_told_to_nobody_else(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-secret-key")
    with (
        caplog.at_level("DEBUG", "scenewright"),
        serving(lambda asked: (400, {"error": "sk-secret-key?"}, 0)) as server,
    ):
        one = planner(server, api_key_variable="MY_KEY")
        plan = one.plan([request("cat")])[0]
    assert server.headers[0]["authorization"] == "Bearer sk-secret-key"
    for told in (plan.error, json.dumps(plan.log), json.dumps(describe(one)), caplog.text):
        assert "sk-secret-key" not in told
    assert "status 400" in plan.error
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(fine) as server:
        planner(server).plan([request("cat")])
    assert server.headers[0]["authorization"] == "Bearer EMPTY"
    with pytest.raises(ValueError, match="no user name or password"):
        ChatPlanner("http://me:secret@127.0.0.1/v1")


def test_more_fields_can_be_sent():
    with serving(fine) as server:
        planner(server, extra={"top_k": 20}, max_new_tokens=99).plan([request("cat")])
    assert {(x["top_k"], x["max_tokens"], x["model"]) for x in server.requests} == {(20, 99, "some-model")}


def test_it_works_where_an_event_loop_runs_and_after_a_trip_to_another_process():
    with serving(fine) as server:

        async def main():
            return pickle.loads(pickle.dumps(planner(server))).plan([request("cat")])

        assert asyncio.run(main())[0].boxes is not None


def test_nothing_is_asked_about_nothing():
    assert planner("http://127.0.0.1:9/v1").plan([]) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"attempts": 0}, "attempts must be at least 1, got 0"),
        ({"temperature": [1.0, 0.0]}, r"temperature must be a range, such as \[0, 1\], got \[1.0, 0.0\]"),
        ({"temperature": [1.0]}, "temperature must be a range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        planner("http://127.0.0.1:9/v1", **options).plan([request("cat")])


@pytest.mark.parametrize("name", ["chat", "local_llm", "rules"])
def test_a_configuration_has_every_setting_with_its_default(name):
    node = OmegaConf.load(ROOT / "conf" / "dataset" / "gen4gen" / "planner" / f"{name}.yaml")
    one = instantiate(node)
    defaults = {k: x.default for k, x in inspect.signature(type(one)).parameters.items()}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in OmegaConf.to_container(node).items()}
    assert given == {"_target_": f"{type(one).__module__}.{type(one).__qualname__}", **defaults}
