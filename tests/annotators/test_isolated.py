import gc
import math
import os
import sys
import time
import venv
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from scenewright.annotators.isolated import Isolated
from scenewright.annotators.isolation import wire
from scenewright.annotators.isolation.process import WorkerDied, WorkerError
from scenewright.annotators.isolation.worker import verb_of
from scenewright.annotators.pipeline import annotate
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Layout, RunLengths, Sample
from scenewright.protocols import Captioner, Detector, Segmenter, Tagger

BOX = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.5, 1.0]])

#: A plugin as it runs in the other environment: what it does depends on the first pixel of an image.
FAKE = """
import os, sys, time
from pathlib import Path
import numpy as np

def load(settings):
    print("loading", settings)
    os.system("echo from a child process")
    if settings.get("broken"):
        raise OSError("no such weights: \\u732b")
    if settings.get("starts"):
        Path(settings["starts"]).open("a").write("x")
    return settings

def tag(settings, images, device):
    print("tagging", len(images))
    for image in images:
        mark = int(image[0, 0, 0])
        if mark == 200:
            os._exit(7)
        if mark == 201:
            time.sleep(60)
        if mark == 202:
            raise ValueError("a mark of 202 is not liked: \\u00e9")
        if mark == 203:
            return [["one"]] * (len(images) + 2)
        if mark == 204:
            sys.exit("a library that leaves")
        if mark == 205 and not os.path.exists(settings["once"]):
            Path(settings["once"]).touch()
            os._exit(1)
        if mark == 206:
            raise MemoryError("too much")
        if mark == 207:
            return [object()]
        if mark == 208:
            sys.stdin.read()
            return ["not a list of texts"] * len(images)
    return [[str(int(x[0, 0, 0])), str(x.sum(dtype=np.int64)), device] for x in images]

def detect(settings, images, tags, device):
    found = []
    for image, names in zip(images, tags):
        boxes = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]]), (len(names), 1))
        found.append({"boxes": boxes, "labels": names, "scores": np.linspace(0.9, 0.1, len(names))})
    return found

def segment(settings, images, layouts, device):
    masks = []
    for image, layout in zip(images, layouts):
        full = np.zeros((len(layout["boxes"]),) + image.shape[1:], dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(full, layout["boxes"]):
            h, w = image.shape[1:]
            mask[int(y0 * h):int(y1 * h), int(x0 * w):int(x1 * w)] = True
        masks.append(full if settings.get("stacked") else list(full))
    return masks

def caption(settings, images, layouts, device):
    return [["a %s, \\u732b" % label for label in layout["labels"]] for layout in layouts]
"""

#: A plugin as ours are: a class that takes tensors and returns what looks like our nouns.
CLASS = """
from types import SimpleNamespace
import torch

class Finds:
    def __init__(self, score=0.5):
        self.score = score

    def detect(self, images, tags):
        assert all(x.dtype == torch.uint8 and x.shape[0] == 3 for x in images)
        return [SimpleNamespace(boxes=torch.tensor([[0.0, 0.0, 0.5, 1.0]] * len(t)).reshape(-1, 4), labels=list(t),
                                scores=torch.full((len(t),), self.score)) for t in tags]

    def segment(self, images, layouts):
        return [[SimpleNamespace(size=i.shape[1:], counts=b"0P3") for _ in x.labels] for i, x in zip(images, layouts)]

    def caption(self, images, layouts):
        return [["%s %.2f" % (n, b[2]) for n, b in zip(x.labels, x.boxes.tolist())] for x in layouts]
"""


def image_of(value: int, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def samples(*values: int) -> list[Sample]:
    return [Sample.from_image(f"k{i}", image_of(v)) for i, v in enumerate(values)]


def segments() -> set[str]:
    return {x for x in os.listdir("/dev/shm") if x.startswith("psm_")} if os.path.isdir("/dev/shm") else set()


def workers() -> list[psutil.Process]:
    return [
        p for p in psutil.Process().children(recursive=True) if "worker.py" in " ".join(p.cmdline() or ["worker.py"])
    ]


@pytest.fixture
def plugin(tmp_path):
    """``plugin(verb, **settings)``: the fake plugin, isolated in this very interpreter's environment."""
    before = segments()
    (tmp_path / "fake_plugin.py").write_text(FAKE)
    made = []

    def isolated(verb="tag", *, timeout=30.0, source="fake_plugin.py", environment=sys.executable, **settings):
        log = str(tmp_path / "logs" / "fake.log")
        made.append(Isolated(str(tmp_path / source), verb, environment, settings, timeout, 30.0, log, "Mend it."))
        return made[-1]

    yield isolated
    for x in made:
        x.close()
    assert segments() <= before, "shared memory was left behind"
    assert workers() == [], "a process was left behind"


def test_no_images_start_no_process(plugin):
    assert plugin().tag([]) == [] and workers() == []


@pytest.mark.parametrize(
    "verb,door", [("tag", Tagger), ("detect", Detector), ("segment", Segmenter), ("caption", Captioner)]
)
def test_it_stands_behind_the_door_of_its_verb_and_no_other(plugin, verb, door):
    isolated = plugin(verb)
    assert [d for d in (Tagger, Detector, Segmenter, Captioner) if isinstance(isolated, d)] == [door]


def test_an_unknown_verb_is_refused():
    with pytest.raises(ValueError, match="verb must be one of tag, detect"):
        Isolated("x", "paint", "y")


def test_images_of_all_sizes_arrive_whole_and_in_order(plugin):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = [
            torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((1, 1), (7, 5), (300, 200), (2, 900))
        ]
    images.append(images[2].transpose(1, 2))  # not contiguous
    images.append(images[2].permute(1, 2, 0).contiguous().permute(2, 0, 1))
    isolated = plugin()
    expected = [[str(int(x[0, 0, 0])), str(int(x.sum())), "cpu"] for x in images]
    assert isolated.tag(images) == expected
    assert [isolated.tag([x])[0] for x in images] == expected


def test_images_are_sent_as_arrays_where_there_is_no_shared_memory(plugin, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wire.os, "posix_fallocate", full)
    assert plugin().tag([image_of(3), image_of(4)]) == [["3", "864", "cpu"], ["4", "1152", "cpu"]]


def test_every_verb_gives_what_it_promises(plugin):
    images, tags = [image_of(1, 40, 60), image_of(2, 20, 20)], [["cat", "猫"], []]
    layouts = plugin("detect").detect(images, tags)
    assert [x.labels for x in layouts] == tags and layouts[1].boxes.shape == (0, 4)
    assert layouts[0].boxes.dtype == torch.float32 and torch.allclose(
        layouts[0].boxes[1], torch.tensor([0.1, 0.2, 0.3, 0.4])
    )
    assert layouts[0].scores is not None and torch.allclose(layouts[0].scores, torch.tensor([0.9, 0.1]))
    layouts = [Layout(BOX, ["a", "é"]), Layout.whole()]
    for stacked in (False, True):
        masks = plugin("segment", stacked=stacked).segment(images, layouts)
        assert [x.area for x in masks[0]] == [20 * 30, 40 * 30] and masks[1][0].decode().all()
        assert [x.size for m in masks for x in m] == [(40, 60), (40, 60), (20, 20)]
    assert plugin("caption").caption(images, layouts) == [["a a, 猫", "a é, 猫"], ["a image, 猫"]]


@pytest.mark.slow
def test_a_class_is_given_tensors_and_may_return_look_alikes(plugin, tmp_path):
    (tmp_path / "finds.py").write_text(CLASS)
    images, source = [image_of(1), image_of(2)], "finds.py:Finds"
    found = plugin("detect", source=source, score=0.25).detect(images, [["a", "b"], []])
    assert found[0].labels == ["a", "b"] and found[0].scores.tolist() == [0.25, 0.25] and len(found[1]) == 0
    layout = Layout(BOX, ["x", "y"], scores=torch.ones(2), masks=RunLengths.encode(torch.ones(2, 8, 12).bool()))
    assert plugin("caption", source=source).caption(images[:1], [layout]) == [["x 0.75", "y 0.50"]]
    assert plugin("segment", source=source).segment(images[:1], [layout])[0][0] == layout.masks[0]


def test_points_and_scribbles_reach_the_other_side(plugin, tmp_path):
    points = torch.tensor([[0.5, 0.25], [math.nan] * 2])
    layout = Layout(BOX, ["x", "y"], points=points, scribbles=[torch.rand(3, 2), torch.zeros(0, 2)])
    body = "return [[str((p, len(s))) for p, s in zip({0}, {1})] for x in layouts]"
    table = body.format("x['points'].tolist()", "x['scribbles']")
    (tmp_path / "table.py").write_text(
        f"def load(_): ...\ndef caption(network, images, layouts, device):\n    {table}\n"
    )
    wanted = [["([0.5, 0.25], 3)", "([nan, nan], 0)"]]
    assert plugin("caption", source="table.py").caption([image_of(1)], [layout]) == wanted
    attributes = body.format("x.points.tolist()", "x.scribbles")
    (tmp_path / "kind.py").write_text(f"class Kind:\n    def caption(self, images, layouts):\n        {attributes}\n")
    fields = {"boxes": BOX.numpy(), "labels": ["x", "y"], "captions": [], "scores": None, "masks": None}
    fields |= {"points": points.numpy(), "scribbles": [x.numpy() for x in layout.scribbles]}
    told = verb_of(f"{tmp_path / 'kind.py'}:Kind", {}, "caption")([image_of(1).numpy()], [fields], device="cpu")
    assert told == wanted


def test_one_of_our_own_plugins_runs_isolated_as_it_does_here(tmp_path):
    from scenewright.annotators.taggers.appearance import AppearanceTagger

    name = "scenewright.annotators.taggers.appearance:AppearanceTagger"
    isolated = Isolated(name, "tag", sys.executable, {"max_tags": 3}, log=str(tmp_path / "log"))
    images = [image_of(v, 64, 64) for v in (0, 128, 255)]
    assert isolated.tag(images) == AppearanceTagger(3).tag(images)
    isolated.close()


def test_what_libraries_print_goes_to_the_log(plugin, tmp_path):
    isolated = plugin(name="Ö")
    isolated.tag([image_of(1)])
    isolated.close()
    log = (tmp_path / "logs" / "fake.log").read_text()
    assert "loading {'name': 'Ö'}" in log and "from a child process" in log and "tagging 1" in log


def test_the_log_is_kept_somewhere_if_nobody_says_where(plugin, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plugin()
    isolated = Isolated(str(tmp_path / "fake_plugin.py"), "tag", sys.executable)
    isolated.tag([image_of(1)])
    isolated.close()
    (log,) = tmp_path.glob("scenewright-fake_plugin-*.log")
    assert "tagging 1" in log.read_text()


def test_only_the_image_that_ends_the_worker_is_lost(plugin, tmp_path):
    starts = tmp_path / "starts"
    found = list(annotate(samples(1, 2, 200, 4, 5), tagger=plugin(starts=str(starts)), batch_size=4, workers=1))
    assert [x.tags[:1] for x in found] == [["1"], ["2"], [], ["4"], ["5"]]
    assert [x.error for x in found] == [
        "",
        "",
        "tagger: WorkerDied: the worker of fake_plugin.py ended with status 7",
        "",
        "",
    ]
    # the first start, and one for each of 4, 2 and 1 images that died, and one for each second try
    assert len(starts.read_text()) == 1 + 3 + 3


def test_only_the_image_that_never_ends_is_lost(plugin):
    start = time.monotonic()
    found = list(annotate(samples(1, 201), tagger=plugin(timeout=1.0), batch_size=2, workers=1))
    assert [x.tags[:1] for x in found] == [["1"], []]
    assert found[1].error == "tagger: WorkerDied: the worker of fake_plugin.py did not answer within 1 s"
    assert time.monotonic() - start < 20


def test_a_worker_that_dies_once_is_asked_again(plugin, tmp_path):
    found = list(annotate(samples(1, 205), tagger=plugin(once=str(tmp_path / "once")), batch_size=2, workers=1))
    assert [(x.tags[:1], x.error) for x in found] == [(["1"], ""), (["205"], "")]


@pytest.mark.parametrize(
    "mark,error",
    [
        (202, "tagger: WorkerError: ValueError: a mark of 202 is not liked: é"),
        (203, "tagger: WorkerError: {} returned 3 results for 1 images"),
        (204, "tagger: WorkerError: SystemExit: a library that leaves"),
        (206, "tagger: MemoryError: too much"),
        (207, "tagger: WorkerError: TypeError: only plain values and arrays of numbers can be sent, got object"),
        (208, "the result for an image must be a list of strings, got 'not a list of texts'"),
    ],
)
def test_an_error_of_the_plugin_costs_one_image_and_no_start(plugin, tmp_path, mark, error):
    starts = tmp_path / "starts"
    found = list(annotate(samples(1, mark, 3), tagger=plugin(starts=str(starts)), batch_size=3, workers=1))
    assert [x.tags[:1] for x in found] == [["1"], [], ["3"]]
    assert found[1].error.endswith(error.format("fake_plugin.py"))
    assert starts.read_text() == "x"


def test_an_interrupted_batch_is_not_answered_to_the_next_one(plugin, monkeypatch):
    isolated = plugin()
    assert isolated.tag([image_of(1)])[0][0] == "1"
    with monkeypatch.context() as patched:
        patched.setattr(wire, "read", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            isolated.tag([image_of(2)])
    assert isolated.tag([image_of(3)])[0][0] == "3"


def test_the_worker_ends_with_its_plugin(plugin, tmp_path):
    plugin()
    isolated = Isolated(str(tmp_path / "fake_plugin.py"), "tag", sys.executable, log=str(tmp_path / "log"))
    isolated.tag([image_of(1)])
    assert len(workers()) == 1
    del isolated
    gc.disable()  # not the collector's doing
    try:
        assert workers() == []
    finally:
        gc.enable()


def test_what_the_plugin_started_ends_with_it(plugin, tmp_path):
    (tmp_path / "parent.py").write_text(
        "import subprocess\n"
        "def load(settings):\n    return subprocess.Popen(['sleep', '1000']).pid\n"
        "def tag(pid, images, device):\n    return [[str(pid)] for _ in images]\n"
    )
    isolated = plugin(source="parent.py")
    pid = int(isolated.tag([image_of(1)])[0][0])
    assert psutil.pid_exists(pid)
    isolated.close()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _refused(isolated, *words):
    with pytest.raises(CheckpointError) as error:
        list(annotate(samples(1), tagger=isolated, workers=1))
    for word in ("the environment", "cannot be used", "Mend it.", *words):
        assert word in str(error.value)


def test_an_environment_that_is_not_there_ends_the_run(plugin, tmp_path):
    _refused(plugin(environment=str(tmp_path / "nowhere")), "nowhere", "it is not there")


def test_an_environment_without_numpy_says_so(plugin, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    _refused(plugin(environment=str(tmp_path / "bare")), "ended with status 1", "No module named 'numpy'")


@pytest.mark.parametrize(
    "script,words",
    [
        ("#!/bin/sh\nexit 3\n", ["ended with status 3", "(nothing was printed)"]),
        ("#!/bin/sh\necho no library >&2; kill -SEGV $$\n", ["was ended by SIGSEGV", "its log ends: no library"]),
        ("#!/bin/sh\necho hello\n", ["expected a message, got b'hello"]),
        ("", ["cannot be started"]),
    ],
)
def test_a_broken_python_says_what_it_said(plugin, tmp_path, script, words):
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755)
    _refused(plugin(environment=str(python)), *words)


def test_a_plugin_that_cannot_be_loaded_ends_the_run(plugin, tmp_path):
    _refused(plugin(broken=True), "OSError: no such weights: 猫")
    _refused(plugin(source="absent.py"), "there is no file")
    (tmp_path / "typo.py").write_text("import a_package_that_is_not_there")
    _refused(plugin(source="typo.py"), "No module named 'a_package_that_is_not_there'")
    (tmp_path / "verbless.py").write_text("def load(settings): pass")
    _refused(plugin(source="verbless.py"), "has no tag")


def test_messages_come_back_as_they_were_sent(tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (40, 1000, 1000), dtype=np.uint8)
    sent = {
        "a": [None, True, 2, 0.1, "é猫\ud800"],
        "b": {"c": big, "d": np.zeros((0, 4), np.float32)},
        "e": torch.eye(3),
    }
    with open(tmp_path / "pipe", "w+b") as file:
        wire.write(file, sent)
        wire.write(file, np.float32(1.5))
        file.seek(0)
        got = wire.read(file)
        assert wire.read(file) == 1.5
        with pytest.raises(EOFError):
            wire.read(file)
    assert got["a"] == sent["a"] and np.array_equal(got["b"]["c"], big)
    assert got["b"]["d"].shape == (0, 4) and got["b"]["d"].dtype == np.float32 and np.array_equal(got["e"], np.eye(3))


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["text"]), {1, 2}, b"bytes"])
def test_only_plain_values_are_sent(tmp_path, value):
    with open(tmp_path / "pipe", "wb") as file, pytest.raises(TypeError, match="only plain values"):
        wire.write(file, [value])
    assert (tmp_path / "pipe").stat().st_size == 0


def test_a_message_that_breaks_off_is_no_message(tmp_path):
    with open(tmp_path / "pipe", "w+b") as file:
        wire.write(file, {"a": np.arange(10)})
        whole = file.tell()
        for length in (3, 12, 20, whole - 1):
            file.truncate(length)
            file.seek(0)
            with pytest.raises(wire.WireError):
                wire.read(file)


def test_the_far_side_imports_nothing_that_may_be_missing_there():
    import ast

    folder = Path(wire.__file__).parent
    for path in [folder / "wire.py", folder / "worker.py"]:
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
        names |= {(n.module or "").split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
        assert names <= sys.stdlib_module_names | {"numpy"}, path


def test_a_dead_worker_is_an_error_of_one_image():
    assert issubclass(WorkerDied, WorkerError) and not issubclass(WorkerError, CheckpointError)
