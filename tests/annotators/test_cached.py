import json
import math
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.cache import layout_from_json, layout_to_json
from scenewright.annotators.captioners.cached import CachedCaptioner
from scenewright.annotators.detectors.cached import CachedDetector
from scenewright.annotators.segmenters.cached import CachedSegmenter
from scenewright.annotators.taggers.cached import CachedTagger
from scenewright.annotators.taggers.vocabulary import Vocabulary
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import Captioner, Detector, Segmenter, Tagger

LAYOUT = Layout(
    torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]]),
    ["dog", "größe"],
    scores=torch.tensor([0.123456789, 1.0]),
)


class Counting:
    """All four verbs; counts the images that it was given."""

    def __init__(self, word="a", checkpoint=None, inner=None):
        self.word, self.seen, self.inner = word, [], inner
        if checkpoint is not None:
            self.checkpoint = checkpoint

    def _see(self, images):
        self.seen.append([int(x[0, 0, 0]) for x in images])

    def tag(self, images):
        self._see(images)
        return [[self.word, str(int(x[0, 0, 0]))] for x in images]

    def detect(self, images, tags):
        self._see(images)
        masks = [RunLengths.encode(torch.rand(2, *x.shape[1:]) > 0.5) for x in images]
        return [
            Layout(LAYOUT.boxes, [*t, *LAYOUT.labels][:2], ["one", ""], LAYOUT.scores, m) if t else Layout.empty()
            for t, m in zip(tags, masks, strict=True)
        ]

    def segment(self, images, layouts):
        self._see(images)
        return [RunLengths.encode(torch.rand(len(x), *i.shape[1:]) > 0.5) for i, x in zip(images, layouts, strict=True)]

    def caption(self, images, layouts):
        self._see(images)
        return [[f"{self.word} {label}" for label in x.labels] for x in layouts]


class Seeded(Counting):
    def tag(self, images, *, seeds):
        self._see(images)
        return [[str(seed)] for seed in seeds]


def image(value, height=6, width=8):
    return torch.full((3, height, width), value, dtype=torch.uint8)


KINDS = {
    "tag": (CachedTagger, Tagger, ()),
    "detect": (CachedDetector, Detector, (["x"], [])),
    "segment": (CachedSegmenter, Segmenter, (LAYOUT, Layout.empty())),
    "caption": (CachedCaptioner, Captioner, (LAYOUT, Layout.empty())),
}


def same(a, b):
    if isinstance(a, Layout):
        return (
            torch.equal(a.boxes, b.boxes)
            and (a.labels, a.captions, a.masks) == (b.labels, b.captions, b.masks)
            and (torch.equal(a.scores, b.scores) if a.scores is not None else b.scores is None)
        )
    return a == b


def test_points_and_scribbles_of_a_layout_are_remembered():
    points = torch.tensor([[0.1, 1 / 3], [math.nan, math.nan]])
    layout = Layout(torch.rand(2, 4), ["a", "b"], points=points, scribbles=[torch.zeros(0, 2), torch.rand(3, 2)])
    again = layout_from_json(json.loads(json.dumps(layout_to_json(layout), allow_nan=False)), torch.device("cpu"))
    assert torch.equal(again.points[0], points[0]) and again.points[1].isnan().all()
    assert [len(x) for x in again.scribbles] == [0, 3] and torch.equal(again.scribbles[1], layout.scribbles[1])
    assert not {"points", "scribbles"} & layout_to_json(LAYOUT).keys()


@pytest.mark.parametrize("verb", KINDS)
def test_what_was_computed_is_remembered_exactly_and_never_computed_twice(verb, tmp_path):
    kind, door, others = KINDS[verb]
    inner = Counting()
    images = [image(1), image(2)]
    arguments = [images, list(others)] if others else [images]
    first = getattr(kind(inner, str(tmp_path)), verb)(*arguments)
    fresh = Counting()
    cached = kind(fresh, str(tmp_path))
    second = getattr(cached, verb)(*arguments)
    assert isinstance(cached, door) and inner.seen == [[1, 2]] and fresh.seen == []
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert getattr(cached, verb)(*[x[:0] for x in arguments]) == []


def test_only_what_is_missing_is_asked_for_and_order_is_kept(tmp_path):
    inner = Counting()
    cached = CachedTagger(inner, str(tmp_path))
    cached.tag([image(2)])
    assert cached.tag([image(i) for i in (3, 2, 1, 3)]) == [["a", str(i)] for i in (3, 2, 1, 3)]
    assert inner.seen == [[2], [3, 1]]


def test_whatever_a_result_depends_on_is_a_miss(tmp_path):
    def asked(plugin, picture=None, tags=("x",)):
        CachedDetector(plugin, str(tmp_path)).detect([image(1) if picture is None else picture], [list(tags)])
        return len(plugin.seen)

    asked(Counting())
    assert asked(Counting()) == 0
    assert asked(Counting(), tags=("x", "y")) == 1
    assert asked(Counting(word="b")) == 1
    assert asked(Counting(inner=Counting())) == 1
    assert asked(Counting(inner=Counting("b"))) == 1
    assert asked(Counting(), image(1, 8, 6)) == 1  # the same bytes in another shape
    changed = image(1)
    changed[2, 5, 7] = 2
    assert asked(Counting(), changed) == 1


def test_other_versions_of_packages_are_a_miss(tmp_path, monkeypatch):
    CachedTagger(Counting(), str(tmp_path)).tag([image(1)])
    monkeypatch.setattr("scenewright.annotators.cache.package_versions", lambda: {"torch": "9.9"})
    inner = Counting()
    CachedTagger(inner, str(tmp_path)).tag([image(1)])
    assert inner.seen == [[1]]


def test_other_weights_in_the_same_file_are_a_miss(tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    CachedTagger(Counting(checkpoint=str(weights)), str(tmp_path / "cache")).tag([image(1)])
    for content, count in ((b"1", 0), (b"2", 1)):
        weights.write_bytes(content)
        inner = Counting(checkpoint=str(weights))
        CachedTagger(inner, str(tmp_path / "cache")).tag([image(1)])
        assert len(inner.seen) == count


def test_another_list_in_the_same_file_is_a_miss(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / "tags.txt").write_text(name)
        assert CachedTagger(Vocabulary(str(tmp_path / "tags.txt")), str(tmp_path / "cache")).tag([image(1)]) == [[name]]


def test_weights_that_are_fetched_by_the_first_call_are_known_by_the_second(tmp_path, monkeypatch):
    here = []
    monkeypatch.setattr("scenewright.checkpoints.Checkpoint.commit", property(lambda self: here[0] if here else None))

    class Fetches(Counting):
        def tag(self, images):
            here.append("c0ffee")
            return super().tag(images)

    CachedTagger(Fetches(checkpoint="some/model"), str(tmp_path)).tag([image(1)])
    inner = Fetches(checkpoint="some/model")
    CachedTagger(inner, str(tmp_path)).tag([image(1)])
    assert inner.seen == []


def test_seeds_count_where_the_plugin_takes_them_and_nowhere_else(tmp_path):
    plain, seeded = Counting(), Seeded()
    for seed in (1, 2, 1):
        CachedTagger(plain, str(tmp_path)).tag([image(1)], seeds=[seed])
        assert CachedTagger(seeded, str(tmp_path)).tag([image(1)], seeds=[seed]) == [[str(seed)]]
    assert plain.seen == [[1]] and seeded.seen == [[1], [1]]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"result": "abc"}', '{"result": [1]}', b"\xff\xfe"],
    ids=["empty", "broken off", "another thing", "text", "numbers", "bytes"],
)
def test_a_broken_entry_is_made_anew(content, tmp_path):
    CachedTagger(Counting(), str(tmp_path)).tag([image(1)])
    (entry,) = tmp_path.rglob("*.json")
    whole = entry.read_bytes()
    entry.write_bytes(content if isinstance(content, bytes) else content.encode())
    inner = Counting()
    assert CachedTagger(inner, str(tmp_path)).tag([image(1)]) == [["a", "1"]]
    assert inner.seen == [[1]] and entry.read_bytes() == whole


def test_a_text_that_is_no_unicode_is_remembered_too(tmp_path):
    class Broken(Counting):
        def tag(self, images):
            return [[text] * len(super(Broken, self).tag([x])) for x in images]

    text, inner = "caf\u00e9 \ud83d", Broken()
    cached = CachedTagger(inner, str(tmp_path))
    assert cached.tag([image(1)]) == cached.tag([image(1)]) == [[text]] and inner.seen == [[1]]


def test_entries_are_small_json_in_two_levels_of_folders_and_nothing_else_stays(tmp_path):
    CachedTagger(Counting(), str(tmp_path)).tag([image(i) for i in range(5)])
    files = [x for x in tmp_path.rglob("*") if x.is_file()]
    assert len(files) == 5
    for file in files:
        assert file.suffix == ".json" and file.relative_to(tmp_path).parts[:2] == (file.stem[:2], file.stem[2:4])
        assert file.stat().st_size < 200 and json.loads(file.read_text())["result"][0] == "a"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert CachedTagger(Counting(), str(tmp_path / "file")).tag([image(1)]) == [["a", "1"]]
    assert "cannot be written" in caplog.text


def test_a_plugin_that_miscounts_or_returns_a_bare_text_is_told(tmp_path):
    class Miscounts(Counting):
        def tag(self, images):
            return []

    class Bare(Counting):
        def tag(self, images):
            return ["dog"]

    with pytest.raises(ValueError, match="Miscounts.tag returned 0 items for 1 images"):
        CachedTagger(Miscounts(), str(tmp_path)).tag([image(1)])
    with pytest.raises(ValueError, match="must be a list of strings, got 'dog'"):
        CachedTagger(Bare(), str(tmp_path)).tag([image(1)])


def _tag(directory):
    return CachedTagger(Counting(), directory).tag([image(i % 7) for i in range(50)])


def test_threads_and_processes_share_a_folder(tmp_path):
    expected = [["a", str(i % 7)] for i in range(50)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_tag, [str(tmp_path)] * 16)) == [expected] * 16
    assert len(list(tmp_path.rglob("*.json"))) == 7 and not list(tmp_path.rglob("*.part"))


def _write_for_ever(directory, started):
    while True:
        for file in directory.rglob("*.json"):
            file.unlink(missing_ok=True)
        _tag(str(directory))
        started.set()


def test_a_process_that_is_killed_leaves_no_broken_entry(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_write_for_ever, args=(tmp_path, started), daemon=True)
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    for file in tmp_path.rglob("*.json"):
        assert json.loads(file.read_text())["result"][0] == "a"
    assert _tag(str(tmp_path)) == [["a", str(i % 7)] for i in range(50)]


@pytest.mark.parametrize(
    ("kind", "inner"),
    [("tagger", "appearance"), ("detector", "superpixels"), ("segmenter", "grabcut"), ("captioner", "appearance")],
)
def test_the_inner_plugin_is_swapped_from_the_command_line(kind, inner, config, tmp_path):
    cfg = config(
        "annotate",
        "experiment=embedded",
        f"annotator/{kind}=cached",
        f"annotator/{kind}@annotator.{kind}.{kind}={inner}",
        f"annotator.{kind}.directory={tmp_path}",
        "output_dir=x",
    )
    plugin = instantiate(cfg.annotator[kind])
    verb, given = {
        "tagger": ("tag", ()),
        "detector": ("detect", ([[]],)),
        "segmenter": ("segment", ([LAYOUT],)),
        "captioner": ("caption", ([LAYOUT],)),
    }[kind]
    picture = (torch.arange(3 * 64 * 64).reshape(3, 64, 64) % 251).to(torch.uint8)
    (first,) = getattr(plugin, verb)([picture], *given)
    (again,) = getattr(plugin, verb)([picture], *given)
    (plain,) = getattr(getattr(plugin, kind), verb)([picture], *given)
    assert same(first, again) and same(first, plain) and len(list(tmp_path.rglob("*.json"))) == 1
